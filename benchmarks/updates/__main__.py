"""`python -m benchmarks.updates --data-dir DIR [--seeds 0 1 2]`: results/updates.json and docs/updates.md.

Settings are chosen first, by a seed of their own and samples that no update saw; test samples come after.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.results_file import write_result
from benchmarks.updates.drifts import DRIFTS, Digits, drift_stages, load_digits
from benchmarks.updates.measuring import run_afresh, run_updates
from benchmarks.updates.table import update_docs
from swarm.experts.updating import (
    Ewc,
    FineTune,
    LearningWithoutForgetting,
    Replay,
    SynapticIntelligence,
    UpdateStrategy,
)

CHOOSING_SEED = 1000
ENOUGH = 0.02
"""The smallest capacity counts as enough whose accuracy is at most this below the largest one's."""
CAPACITIES = (100, 250, 500, 1000)
FIXED_CAPACITY = 500

Candidates = Mapping[str, UpdateStrategy]
Figures = dict[str, float]

PENALTIES: Mapping[str, Candidates] = {
    "ewc": {f"ewc {strength:g}": Ewc(strength=strength) for strength in (1, 10, 100, 1000)},
    "si": {f"si {strength:g}": SynapticIntelligence(strength=strength) for strength in (0.1, 1, 10)},
    "lwf": {f"lwf {weight:g}": LearningWithoutForgetting(weight=weight) for weight in (0.1, 0.3, 1, 3)},
}
REPLAYS: Mapping[str, Replay] = {
    "reservoir": Replay(select="reservoir"),
    "coreset": Replay(select="coreset"),
    "herding": Replay(select="herding"),
    "nearest-mean": Replay(select="herding", head="nearest-mean"),
}


class Chooser:
    """Scores candidates on the drifts of one seed by samples that are kept for choosing."""

    def __init__(self, digits: dict[str, Digits]) -> None:
        self.stages = {name: drift_stages(name, digits, CHOOSING_SEED) for name in DRIFTS}
        self.scores: dict[str, dict[str, float]] = {}

    def best(self, candidates: Candidates) -> str:
        """Return the name of the candidate with the best mean over drifts."""
        return max(candidates, key=lambda name: self.score(name, candidates[name]))

    def score(self, name: str, strategy: UpdateStrategy) -> float:
        """Return a candidate's mean accuracy over drifts."""
        if name not in self.scores:
            self.scores[name] = {
                drift: run_updates(stages, strategy, CHOOSING_SEED, test=False).chosen_by
                for drift, stages in self.stages.items()
            }
            print(f"choosing: {name} {statistics.fmean(self.scores[name].values()):.4f}", file=sys.stderr)
        return statistics.fmean(self.scores[name].values())

    def figures(self) -> Figures:
        return {
            f"choosing.{name}.{drift}": v for name, row in self.scores.items() for drift, v in row.items()
        }


def chosen_rows(chooser: Chooser) -> dict[str, UpdateStrategy]:
    """Return the rows of the table: each strategy with the settings that were best for it."""
    chooser.score("fine-tune", FineTune())
    rows: dict[str, UpdateStrategy] = {"fine-tune": FineTune()}
    for name, candidates in PENALTIES.items():
        rows[name] = candidates[chooser.best(candidates)]
    named = {f"{name} {FIXED_CAPACITY}": with_capacity(way, FIXED_CAPACITY) for name, way in REPLAYS.items()}
    way = chooser.best(named).rpartition(" ")[0]
    sizes = {size: chooser.score(f"{way} {size}", with_capacity(REPLAYS[way], size)) for size in CAPACITIES}
    capacity = min(size for size in CAPACITIES if sizes[size] >= sizes[max(CAPACITIES)] - ENOUGH)
    for name in REPLAYS:
        rows[f"replay, {name}, {capacity}"] = with_capacity(REPLAYS[name], capacity)
    for size in {min(CAPACITIES), FIXED_CAPACITY} - {capacity}:
        rows[f"replay, {way}, {size}"] = with_capacity(REPLAYS[way], size)
    return rows


def with_capacity(way: Replay, capacity: int) -> Replay:
    return Replay(capacity=capacity, select=way.select, head=way.head)


def measure(digits: dict[str, Digits], rows: Candidates, seeds: Sequence[int]) -> Figures:
    """Return `<drift>.<row>.<figure>`, the mean over seeds, and `..._spread`, the standard deviation."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for drift in DRIFTS:
            stages = drift_stages(drift, digits, seed)
            outcomes = {"all samples kept": run_afresh(stages, seed, test=True)}
            outcomes |= {name: run_updates(stages, way, seed, test=True) for name, way in rows.items()}
            for name, outcome in outcomes.items():
                for figure, value in outcome.figures().items():
                    found.setdefault(f"{drift}.{name}.{figure}", []).append(value)
            print(f"seed {seed}: {drift} is measured", file=sys.stderr)
    figures = {key: statistics.fmean(values) for key, values in found.items()}
    return figures | {f"{key}_spread": _spread(values) for key, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds mnist/ (IDX files) and usps.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    digits = load_digits(options.data_dir)
    chooser = Chooser(digits)
    rows = chosen_rows(chooser)
    print(f"chosen: {', '.join(map(repr, rows.values()))}", file=sys.stderr)
    figures = {"seeds": float(len(options.seeds)), "choosing_seed": float(CHOOSING_SEED), **chooser.figures()}
    for name, strategy in rows.items():
        for knob in ("strength", "weight", "capacity"):
            if hasattr(strategy, knob):
                figures[f"chosen.{name}.{knob}"] = float(getattr(strategy, knob))
    figures |= measure(digits, rows, options.seeds)
    figures["wall_time_s"] = time.monotonic() - started
    path = write_result("updates", figures)
    update_docs()
    print(f"{path} and docs/updates.md are written")


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
