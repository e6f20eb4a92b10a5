"""The cases of `swarm bench hard-moe`: when a hard mixture of experts beats one net, an ensemble, a wide net.

`underfit`: Fashion-MNIST whole, nets of 4 hidden units; `overfit`: 1,000 samples, nets of 64.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swarm.cli.bench.collections import idx_collection
from swarm.cli.bench.growth.jobs import Job, Run
from swarm.domain.errors import UsageError

COLLECTION = "fashion-mnist"
NEEDED = ("regime", "rows", "wide_width", "learning_rate")
"""Fields without which a run is no run of this benchmark."""
HELD_OUT = 0.1
EACH, TOTAL = "each", "total"
"""Equal steps for every expert and every net beside it; or as many for one net as the whole mixture takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How much data for nets of which width: `steps` for each expert, in batches of `batch`."""

    samples: int
    width: int
    steps: int
    batch: int
    experts: tuple[int, ...] = (2, 8, 16, 24, 32)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    tests: int = 10_000


DEFAULT = {
    "underfit": Regime(samples=60_000, width=4, steps=1500, batch=64),
    "overfit": Regime(samples=1000, width=64, steps=300, batch=64),
}
_ALL = (2, 4, 8, 12, 16, 24, 32)
FULL = {
    "underfit": Regime(samples=60_000, width=4, steps=10_000, batch=64, experts=_ALL),
    "overfit": Regime(samples=1000, width=64, steps=1000, batch=64, experts=_ALL),
}
QUICK = {
    "underfit": Regime(samples=300, width=2, steps=20, batch=16, experts=(2, 3), tests=100),
    "overfit": Regime(samples=60, width=8, steps=20, batch=16, experts=(2, 3), tests=100),
}


def hard_moe_jobs(
    regimes: dict[str, Regime], *, data_dir: Path, seeds: Sequence[int], only: Sequence[str]
) -> list[Job]:
    """Return the jobs of a scale; UsageError where `only` names something else than a regime."""
    unknown = [name for name in only if name not in regimes]
    if unknown:
        raise UsageError("--only", found=unknown[0], expected=", ".join(regimes))
    jobs = [
        Job(
            case=name,
            seed=seed,
            work=hard_moe_run,
            settings={
                "regime": name,
                "samples": regime.samples,
                "width": regime.width,
                "steps": regime.steps,
                "batch": regime.batch,
                "experts": list(regime.experts),
                "learning_rates": list(regime.learning_rates),
                "tests": regime.tests,
            },
            data_dir=str(data_dir),
        )
        for name, regime in regimes.items()
        if not only or name in only
        for seed in seeds
    ]
    return sorted(jobs, key=lambda job: job.seed)


def hard_moe_run(
    *,
    data_dir: Path,
    seed: int,
    regime: str,
    samples: int,
    width: int,
    steps: int,
    batch: int,
    experts: list[int],
    learning_rates: list[float],
    tests: int,
) -> Run:
    """Train everything of one regime under one seed.

    The learning rate is the single net's, chosen on validation samples; everything else takes it too. The
    gate's features are the single net's, so that a mixture of k has taken k + 1 times `steps`.
    """
    from swarm.experts.samples import Samples
    from swarm.experts.streams import hard_mixture as hard

    started = time.process_time()
    found = idx_collection(data_dir, COLLECTION)
    order = np.random.default_rng(seed).permutation(len(found.labels))[:samples]
    held = round(HELD_OUT * len(order))
    train, validation = (
        Samples(inputs=found.inputs[rows], labels=found.labels[rows], scale=1 / 255)
        for rows in (order[held:], order[:held])
    )
    test = Samples(inputs=found.test_inputs[:tests], labels=found.test_labels[:tests], scale=1 / 255)
    task = hard.Task(train, validation, test, classes=int(found.labels.max()) + 1)

    def settings(rate: float, times: int = 1) -> hard.StepSettings:
        return hard.StepSettings(
            steps=steps * times, batch=batch, learning_rate=rate, evaluate_every=steps // 20
        )

    def trained(net_width: int, members: int, rate: float, times: Sequence[int]) -> dict[int, Any]:
        stack = task.fresh(net_width, members=members, seed=seed)
        marks = [steps * each for each in times]
        stacks = hard.train_steps(stack, task, settings(rate, max(times)), seed=seed, marks=marks)
        return {each: stacks[steps * each] for each in times}

    rates = {rate: trained(width, 1, rate, [1])[1] for rate in learning_rates}
    rate = max(rates, key=lambda each: hard.validation_accuracy(rates[each], task))
    wide_width = hard.equal_width(task, hard.mixture_macs(task, width, max(experts)))
    times = [1, *(k + 1 for k in experts)]
    singles = trained(width, 1, rate, times)
    wides = trained(wide_width, 1, rate, times)
    ensemble = trained(width, max(experts), rate, [1])[1]
    rows = [
        _row("single", 1, EACH, hard.ensemble_accuracy(singles[1], task, 1)),
        _row("wide", 1, EACH, hard.ensemble_accuracy(wides[1], task, 1)),
    ]
    for k in experts:
        gate = hard.fit_gate(singles[1], task, k, seed=seed)
        sizes = np.bincount(gate.train, minlength=k)
        rows += [
            _row("single", k, TOTAL, hard.ensemble_accuracy(singles[k + 1], task, 1)),
            _row("wide", k, TOTAL, hard.ensemble_accuracy(wides[k + 1], task, 1)),
            _row("ensemble", k, EACH, hard.ensemble_accuracy(ensemble, task, k)),
        ]
        for name, stack in (
            ("mixture", singles[1].repeated(k)),
            ("mixture_scratch", task.fresh(width, members=k, seed=seed)),
        ):
            own = hard.train_experts(stack, task, gate, settings(rate), seed=seed)
            for top in (1, 2):
                called = f"{name}_top2" if top == 2 else name
                accuracy = hard.mixture_accuracy(own, gate, task, top)
                rows.append(
                    {**_row(called, k, EACH, accuracy), "shards": [int(sizes.min()), int(sizes.max())]}
                )
    return {
        "regime": regime,
        "learning_rate": rate,
        "wide_width": wide_width,
        "mixture_macs": hard.mixture_macs(task, width, max(experts)),
        "rows": rows,
        "cpu_s": round(time.process_time() - started, 3),
    }


def _row(name: str, k: int, budget: str, accuracy: float) -> dict[str, Any]:
    return {"name": name, "k": k, "budget": budget, "accuracy": accuracy}
