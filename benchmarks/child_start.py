"""What it takes to start a child of a node's agent: forked from a process that has imported what children
need, beside started anew. Run as `python -m benchmarks.child_start [--starts N]`.

Writes `results/child-start.json` and prints a table: CPU and wall seconds of the process that takes a
mega-batch, which here says after its imports that there is none; medians over starts that take turns.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.results_file import write_result
from node.children import Child
from swarm.forking.forks import Forks, forking

NAME, MODULE = "child-start", "node.stream.intake"


async def seconds_of(folder: Path) -> tuple[float, float]:
    """Start one process on a folder without a job, until it has ended; return its wall and CPU seconds."""
    began, before = time.monotonic(), _used()
    child = await Child.start(MODULE, [str(folder)], log=folder / "log")
    async for _ in child.lines():
        pass
    await child.wait()
    return time.monotonic() - began, _used() - before


def _used() -> float:
    """Return the CPU seconds of this process, of its children that ended, and of its fork server's."""
    found = 0.0
    for process in [psutil.Process(), *psutil.Process().children()]:
        times = process.cpu_times()
        found += times.user + times.system + times.children_user + times.children_system
    return found


async def measured(starts: int, folder: Path) -> dict[str, float]:
    """Return the figures of so many starts of each kind, which take turns."""
    found: dict[str, list[tuple[float, float]]] = {"forked": [], "anew": []}
    with forking(folder / "fork_server.log"):
        forks = Forks.of_this_process
        if forks is None:
            raise SystemExit("this platform does not fork children")
        first = await seconds_of(folder)
        for _ in range(starts):
            Forks.of_this_process = forks
            found["forked"].append(await seconds_of(folder))
            Forks.of_this_process = None
            found["anew"].append(await seconds_of(folder))
    figures = {"starts": float(starts), "first.wall_s": first[0], "first.cpu_s": first[1]}
    for name, each in found.items():
        for place, unit in enumerate(("wall_s", "cpu_s")):
            values = [figure[place] for figure in each]
            figures[f"{name}.{unit}"] = statistics.median(values)
            figures[f"{name}.{unit}.spread"] = statistics.stdev(values)
    for unit in ("wall_s", "cpu_s"):
        figures[f"ratio.{unit}"] = figures[f"forked.{unit}"] / figures[f"anew.{unit}"]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.child_start")
    parser.add_argument("--starts", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarm-child-start-") as folder:
        figures = asyncio.run(measured(options.starts, Path(folder)))
    print("| started | CPU s | wall s |\n|---|---|---|")
    for name in ("anew", "forked"):
        of_kind = [f"{name}.{unit}" for unit in ("cpu_s", "wall_s")]
        cells = [f"{figures[key]:.3f} ± {figures[f'{key}.spread']:.3f}" for key in of_kind]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"the first, with the fork server's start: {figures['first.cpu_s']:.3f} CPU s")
    print(f"forked / anew: {figures['ratio.cpu_s']:.3f} CPU, {figures['ratio.wall_s']:.3f} wall")
    print(write_result(NAME, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
