"""`make chaos-registry`: the registry killed, starved, cut and frozen, into figures; all have to be 0.

Each point of registry and node is killed 50 times; one of the coordinator 20 times, as each of these kills is
amid the whole life of a member (`--coordinator-kills 50` for more). A trial counts only where its fault
happened; a fault that did not, and a part that this machine forbids, fail the whole. Only a whole run is kept
in `benchmarks/results`. Processes are forked from what has their imports, so most recoveries are without
those; at the end of each site a registry of its own is started, and counted too.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.chaos_registry.coordinator_kills import coordinator_at_every_point
from benchmarks.chaos_registry.damaging import append_only_file
from benchmarks.chaos_registry.killing import at_every_point, redis_under_load
from benchmarks.chaos_registry.outbox_kills import outbox_exactly_once
from benchmarks.chaos_registry.site import Tally
from benchmarks.chaos_registry.sleeping import a_holder_that_slept
from benchmarks.chaos_registry.small_disks import disks
from benchmarks.results_file import write_result

LONGEST_RECOVERY_S = 5.0
Part = Callable[[Path, int, int], Awaitable[Tally]]
PARTS: dict[str, tuple[int, Part]] = {  # the longest first
    "coordinator_points": (20, coordinator_at_every_point),
    "registry_points": (50, at_every_point),
    "redis_kills": (200, redis_under_load),
    "aof_cuts": (500, lambda folder, times, seed: append_only_file(folder, times, 0, seed)),
    "aof_flips": (500, lambda folder, times, seed: append_only_file(folder, 0, times, seed)),
    "disks": (20, lambda folder, times, seed: disks(folder, times)),
    "slept": (20, lambda folder, times, seed: a_holder_that_slept(folder, times)),
    "node_points": (50, outbox_exactly_once),
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--quick", type=int, default=0, metavar="N", help="N times instead; nothing is kept")
    found.add_argument(
        "--only", choices=PARTS, action="append", help="this part alone, may be repeated; nothing is kept"
    )
    found.add_argument("--coordinator-kills", type=int, default=20, metavar="N", help="at each of its points")
    found.add_argument("--at-once", type=int, default=2, metavar="N", help="parts at the same time (2)")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


async def tallied(arguments: argparse.Namespace) -> tuple[dict[str, Tally], list[str]]:
    """Return what each part found, and the parts that this machine forbids."""
    found: dict[str, Tally] = {}
    left_out: list[str] = []
    turn = asyncio.Semaphore(max(1, arguments.at_once))

    async def run(name: str) -> None:
        times, part = PARTS[name]
        if name == "coordinator_points":
            times = arguments.coordinator_kills
        async with turn:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[name] = await part(Path(folder), arguments.quick or times, arguments.seed)
                except PermissionError as error:
                    print(f"{name}: left out, {error}", file=sys.stderr, flush=True)
                    left_out.append(name)
                    return
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{name}: {summary(found[name])}; {took}", file=sys.stderr, flush=True)

    async with asyncio.TaskGroup() as group:
        for name in arguments.only or PARTS:
            group.create_task(run(name))
    return found, left_out


def is_whole_run(arguments: argparse.Namespace) -> bool:
    """Say whether the figures are those of the whole, to be kept."""
    return not (arguments.dry_run or arguments.quick or arguments.only)


def summary(tally: Tally) -> str:
    """Return what a part found in one line."""
    slowest = max(tally.recoveries, default=0.0)
    notes = ", ".join(f"{name} {count}" for name, count in sorted(tally.notes.items()))
    return (
        f"{tally.trials} trials, {tally.acked} acknowledged, {tally.acked_lost} lost, "
        f"{tally.half_visible} half visible, {tally.orphans} orphans, {tally.stale_accepted} stale accepted, "
        f"recovery {slowest:.2f} s at most; {notes}"
    )


def main() -> None:
    arguments = parser().parse_args()
    found, left_out = asyncio.run(tallied(arguments))
    figures = {
        "trials": float(sum(each.trials for each in found.values())),
        "acked": float(sum(each.acked for each in found.values())),
        "acked_lost": float(sum(each.acked_lost for each in found.values())),
        "half_visible": float(sum(each.half_visible for each in found.values())),
        "orphans": float(sum(each.orphans for each in found.values())),
        "stale_accepted": float(sum(each.stale_accepted for each in found.values())),
        "recovery_s_max": max((max(each.recoveries, default=0.0) for each in found.values()), default=0.0),
    }
    figures |= {f"{name}_trials": float(each.trials) for name, each in found.items()}
    figures |= {
        "faults_missed": float(sum(len(each.missed) for each in found.values())),
        "parts_left_out": float(len(left_out)),
    }
    for name, value in figures.items():
        print(f"{name}: {value:g}")
    for each in found.values():
        for missed in each.missed:
            print(f"missed: {missed}", file=sys.stderr)
    if is_whole_run(arguments):
        write_result("chaos-registry", figures)
    is_slow = figures["recovery_s_max"] > LONGEST_RECOVERY_S
    if is_slow or left_out or not all(each.is_clean for each in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
