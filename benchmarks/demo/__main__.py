"""`python -m benchmarks.demo [--seeds 0 1 2]`: `swarm up` for each seed, into figures and README's table."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.demo.table import update_readme
from benchmarks.results_file import write_result

COSTS = ("train_flops", "inference_flops", "bytes_sent", "sync_rounds")
Report = Sequence[dict[str, Any]]


def run_demo(seed: int) -> tuple[Report, float]:
    """Return one run's rows and its wall time in seconds; progress goes to stderr."""
    started = time.monotonic()
    command = [sys.executable, "-m", "swarm.cli", "up", "--json", "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["rows"], time.monotonic() - started


def figures_of(runs: Sequence[Report], seconds: Sequence[float]) -> dict[str, float]:
    """Return `<row>.accuracy` (mean), `.accuracy_spread` (standard deviation over seeds) and mean costs."""
    names = list(dict.fromkeys(general(row["name"]) for row in runs[0]))
    figures: dict[str, float] = {"seeds": float(len(runs))}
    for name in names:
        rows = [row for run in runs for row in run if general(row["name"]) == name]
        accuracies = [float(row["accuracy"]) for row in rows]
        figures[f"{name}.accuracy"] = statistics.fmean(accuracies)
        figures[f"{name}.accuracy_spread"] = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
        for cost in COSTS:
            figures[f"{name}.{cost}"] = statistics.fmean(float(row[cost]) for row in rows)
    figures["wall_time_s"] = statistics.fmean(seconds)
    figures["wall_time_s_longest"] = max(seconds)
    return figures


def general(name: str) -> str:
    """Return the row's name without its node's: every seed deals other classes to them."""
    return name.partition(":")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    runs, seconds = zip(*(run_demo(seed) for seed in seeds), strict=True)
    path = write_result("demo", figures_of(runs, seconds))
    update_readme()
    print(f"{path} and README.md are written")


if __name__ == "__main__":
    main()
