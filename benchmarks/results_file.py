"""The form of every benchmark's result: `{"schema": "swarm.bench/1", "machine", "date", "figures"}`."""

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

SCHEMA = "swarm.bench/1"
RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Return what the figures were measured on: cores, processor, system, Python."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        processor = names[0] if names else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {processor}, {platform.system()}, Python {platform.python_version()}"


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over runs of each of their figures, and beside it, as `<name>.spread`, the standard
    deviation."""
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        figures[name] = statistics.fmean(values)
        figures[f"{name}.spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return figures


def write_result(name: str, figures: Mapping[str, float]) -> Path:
    """Write a benchmark's figures to `results/<name>.json`; ValueError for one that is not finite."""
    bad = [key for key, value in figures.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(f"{name}: {bad[0]} is not finite")
    result = {
        "schema": SCHEMA,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "figures": dict(figures),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def read_result(name: str) -> dict[str, float]:
    """Return a benchmark's last figures."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    if found["schema"] != SCHEMA:
        raise ValueError(f"{name}: schema {found['schema']}")
    return {str(key): float(value) for key, value in found["figures"].items()}
