"""How a candidate gate does on one node's own validation data: pure arithmetic, no model, no I/O.

The mixture is the one that users get: top-k over distinct experts, renormalised, combined over class
names. Only the sums in `GateTrial` leave the node.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.inference import GateTrial
from swarm.gating.combine import combine
from swarm.gating.routing import RoutePlan, plan_route

SMALLEST_PROBABILITY = 1e-12
"""The floor of a true class's probability, so that no answer costs an infinite log likelihood."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialLeaf:
    """One leaf of a gate under trial.

    `identity` is its expert's manifest digest (equal identities count as one expert). `probabilities`
    float32 [N, C_own] over class_names, or None where this node may not hold the expert. An expert's
    classes that the gate does not know (its head is newer) count for nothing.
    """

    identity: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialGate:
    """A gate under trial: `leaf_weights(temperature)` gives float32 [N, L] for the N samples."""

    leaf_weights: Callable[[float], NDArray[np.float32]]
    leaves: tuple[TrialLeaf, ...]
    class_names: tuple[str, ...]
    temperature: float
    top_k: int


def judge(
    labels: Sequence[str],
    candidate: TrialGate,
    incumbent: TrialGate | None,
    temperatures: Sequence[float],
    *,
    flops: int = 0,
) -> GateTrial:
    """Return the candidate's sums over the samples, one entry per temperature; without an incumbent its
    counts are 0 and nothing is gained or lost."""
    before = None
    if incumbent is not None:
        plan = _plan(incumbent, incumbent.temperature, incumbent.top_k)
        before = _correct(_mixture(incumbent, plan), incumbent.class_names, labels)
    nll: list[float] = []
    gained, lost = [], []
    correct: dict[int, list[int]] = {1: [], 2: [], 4: []}
    missing: set[str] = set()
    for temperature in temperatures:
        plan = _plan(candidate, temperature, candidate.top_k)
        mixture = _mixture(candidate, plan)
        missing |= _missing(candidate, plan)
        after = _correct(mixture, candidate.class_names, labels)
        nll.append(_nll_sum(mixture, candidate.class_names, labels))
        for top_k, counts in correct.items():
            at_k = _mixture(candidate, _plan(candidate, temperature, top_k))
            counts.append(int(_correct(at_k, candidate.class_names, labels).sum()))
        gained.append(0 if before is None else int((after & ~before).sum()))
        lost.append(0 if before is None else int((before & ~after).sum()))
    return GateTrial(
        samples=len(labels),
        temperatures=tuple(float(t) for t in temperatures),
        nll_sum=tuple(nll),
        correct_top1=tuple(correct[1]),
        correct_top2=tuple(correct[2]),
        correct_top4=tuple(correct[4]),
        incumbent_correct=0 if before is None else int(before.sum()),
        gained=tuple(gained),
        lost=tuple(lost),
        experts_missing=len(missing),
        flops=flops,
    )


def _plan(gate: TrialGate, temperature: float, top_k: int) -> RoutePlan:
    return plan_route(gate.leaf_weights(temperature), [leaf.identity for leaf in gate.leaves], top_k)


def _mixture(gate: TrialGate, plan: RoutePlan) -> NDArray[np.float32]:
    parts = []
    for row, leaf in enumerate(gate.leaves):
        samples, places = np.nonzero(plan.choices == row)
        if not len(samples):
            continue
        if leaf.probabilities is None:
            even = 1.0 / len(leaf.class_names)
            probabilities = np.full((len(samples), len(leaf.class_names)), even, dtype=np.float32)
        else:
            probabilities = leaf.probabilities[samples]
        known = [column for column, name in enumerate(leaf.class_names) if name in gate.class_names]
        names = tuple(leaf.class_names[column] for column in known)
        parts.append((samples, plan.weights[samples, places], names, probabilities[:, known]))
    return combine(gate.class_names, parts, batch=len(plan.choices))


def _missing(gate: TrialGate, plan: RoutePlan) -> set[str]:
    chosen = {int(row) for row in np.unique(plan.choices) if row >= 0}
    return {gate.leaves[row].identity for row in chosen if gate.leaves[row].probabilities is None}


def _rows_of(class_names: tuple[str, ...], labels: Sequence[str]) -> NDArray[np.int64]:
    rows = {name: row for row, name in enumerate(class_names)}
    return np.array([rows.get(label, -1) for label in labels], dtype=np.int64)


def _correct(
    mixture: NDArray[np.float32], class_names: tuple[str, ...], labels: Sequence[str]
) -> NDArray[np.bool_]:
    return np.asarray(mixture.argmax(axis=1) == _rows_of(class_names, labels))


def _nll_sum(mixture: NDArray[np.float32], class_names: tuple[str, ...], labels: Sequence[str]) -> float:
    truth = _rows_of(class_names, labels)
    given = np.where(truth >= 0, mixture[np.arange(len(truth)), np.maximum(truth, 0)], 0.0)
    return float(-np.log(np.maximum(given.astype(np.float64), SMALLEST_PROBABILITY)).sum())
