"""How undecided the gate is about a row: the entropy of the weights that it gives to the leaves. Pure."""

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.gate_reading import Reading
from swarm.answering.ways import Way
from swarm.domain.combination import Combination
from swarm.domain.gates import GateStatement
from swarm.gating.combinations import expert_weights
from swarm.gating.shortlist import Shortlist

_WEIGHS = ("gate", "poe", "corrected")


def gate_entropy(way: Way, active: ActiveGate, reading: Reading) -> tuple[float, ...]:
    """Return the entropy of each row's leaf weights in nats: 0 for one leaf alone, log L for L alike. Leaves
    that are not listed, of very many, count with the weight that they are said to have.

    Where the way asks no expert, the weights are those that its scores give by the gate's own temperature.
    """
    weights = reading.weights
    if not way.asks_experts:
        weighing = _weighing(active.value)
        if active.columns is not None and reading.features is not None:
            weights = active.columns.shortlist(reading.features, weighing.temperature)
        else:
            weights = expert_weights(weighing, active.analytic, None, reading.scores, None)
    others = np.zeros(len(weights))
    if isinstance(weights, Shortlist):
        lacking = weights.total - (weights.leaves >= 0).sum(axis=1)
        others = lacking * -_times_log(weights.rest)
        weights = weights.weights
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    entropies = others - _times_log(shares).sum(axis=1)
    return tuple(float(value) + 0.0 for value in np.maximum(entropies, 0.0))


def _times_log(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return found


def _weighing(gate: GateStatement) -> Combination:
    """Return a combination of the gate that weighs leaves, made of its root where it has none."""
    found = next((each for each in gate.combinations if each.name in _WEIGHS), None)
    if found is not None:
        return found
    return Combination(name="gate", temperature=gate.combination("root").class_temperature)
