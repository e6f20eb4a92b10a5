"""`make bench-serving`: routed inference measured, part by part, into `benchmarks/results/serving.json`.

Each part is a module of its own that can be run alone and writes all its figures to
`benchmarks/results/serving-<part>.json`; `serving.json` has the main ones of all parts, as they were written
last. hivemind is installed into a virtual environment of its own (`--hivemind PYTHON` names another one that
has it); where it cannot be, its part is left out and said to be.
"""

import argparse
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results_file import RESULTS, read_result, write_result

MAIN = {
    "hops": ("two_hop_over_one_hop_p50", "p95_during_publish_over_idle"),
    "batching": ("batched_cpu_over_unbatched",),
    "load": ("goodput_at_5x_over_peak",),
    "failures": ("slow_node_p99_over_baseline", "killed_owner_p99_over_baseline"),
    "gate_lookup": ("gate_lookup_ms_100k", "gate_recall_100k"),
    "analytic_gate": ("analytic_gate_ms_100k", "analytic_gate_agreement_100k"),
    "routing_many_leaves": ("routed_decision_ms_100k",),
    "beside_hivemind": ("routed_over_hivemind",),
}
"""The parts, and which of their figures `serving.json` has."""
HIVEMIND = "hivemind==1.1.12"
HIVEMIND_FOLDER = Path("build") / "hivemind"


def result_name(part: str) -> str:
    """Return the name of a part's own result."""
    return f"serving-{part.replace('_', '-')}"


def hivemind_python() -> str:
    """Return an interpreter that has hivemind, installing it where need be; empty where that fails."""
    python = HIVEMIND_FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(HIVEMIND_FOLDER, with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", "-c", "constraints.txt", "torch", HIVEMIND]
    return str(python) if subprocess.run(install, check=False).returncode == 0 else ""


def run(part: str, hivemind: str, data_dir: str) -> bool:
    """Run a part; return whether it ended well."""
    more: tuple[str, ...] = ()
    if part == "analytic_gate" and data_dir:
        more = ("--data-dir", data_dir)
    if part == "beside_hivemind":
        python = hivemind or hivemind_python()
        if not python:
            print(f"{part}: left out, {HIVEMIND} cannot be installed", flush=True)
            return True
        more = ("--python", python)
    print(f"== {part}", flush=True)
    return (
        subprocess.run([sys.executable, "-m", f"benchmarks.serving.{part}", *more], check=False).returncode
        == 0
    )


def merged() -> dict[str, float]:
    """Return the main figures of all parts that have a result."""
    found: dict[str, float] = {}
    for part, names in MAIN.items():
        if (RESULTS / f"{result_name(part)}.json").exists():
            figures = read_result(result_name(part))
            found |= {name: figures[name] for name in names if name in figures}
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=MAIN, action="append", help="this part alone, may be repeated")
    parser.add_argument("--hivemind", default="", metavar="PYTHON", help="an interpreter that has hivemind")
    parser.add_argument("--data-dir", default="", metavar="DIR", help="real images for analytic_gate")
    chosen = parser.parse_args(arguments)
    failed = [part for part in chosen.only or MAIN if not run(part, chosen.hivemind, chosen.data_dir)]
    figures = merged()
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    print(write_result("serving", figures))
    for part in failed:
        print(f"{part} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
