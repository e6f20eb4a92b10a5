"""`python -m benchmarks.heads`: 500 histories of heads under faults, and ten planted bugs, into figures."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results_file import write_result
from tests.linearizability.cluster import Cluster
from tests.linearizability.planted import BUGS
from tests.linearizability.searching import Searched, find_bug, search

MOST_HISTORIES_OF_A_BUG = 60


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--histories", type=int, default=500)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--limit-s", type=float, default=float("inf"), help="begin no history after so long")
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


async def heads(histories: int, seed: int, limit_s: float) -> Searched:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        await cluster.start()
        try:
            return await search(
                cluster, histories=histories, first_seed=seed, until=time.monotonic() + limit_s
            )
        finally:
            await cluster.stop()


async def planted(bug: str) -> Searched:
    with tempfile.TemporaryDirectory() as folder:
        return await find_bug(Path(folder), bug, MOST_HISTORIES_OF_A_BUG)


async def searched(arguments: argparse.Namespace) -> tuple[dict[str, Searched], Searched, float]:
    """Return what came of each planted bug and of the real registry, and the seconds that the latter took."""
    bugs: dict[str, Searched] = {}
    for bug in BUGS:
        bugs[bug] = await planted(bug)
        verdict = "found in history" if bugs[bug].violation else "NOT FOUND in"
        print(f"{bug}: {verdict} {bugs[bug].histories}", file=sys.stderr, flush=True)
    began = time.monotonic()
    real = await heads(arguments.histories, arguments.seed, arguments.limit_s)
    return bugs, real, time.monotonic() - began


def main() -> None:
    arguments = parser().parse_args()
    bugs, real, seconds = asyncio.run(searched(arguments))
    print(real, file=sys.stderr)
    figures = {
        "histories": real.histories,
        "histories_wanted": arguments.histories,
        "operations": real.operations,
        "operations_of_unknown_outcome": real.unknown,
        "faults": real.faults,
        "violations": float(real.violation is not None),
        "bugs_planted": len(bugs),
        "bugs_found": sum(each.violation is not None for each in bugs.values()),
        "histories_until_a_bug_was_found_max": max(each.histories for each in bugs.values()),
        "seconds": round(seconds, 1),
    }
    for name, value in figures.items():
        print(f"{name}: {value:g}")
    if not arguments.dry_run:
        write_result("heads", figures)
    if real.histories < arguments.histories:
        print(f"{real.histories} of {arguments.histories} histories: no time for more", file=sys.stderr)
        sys.exit(1)
    if figures["violations"] or figures["bugs_found"] < figures["bugs_planted"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
