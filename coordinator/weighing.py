"""Trials counted together: nobody's samples drown everybody else's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.gating.loudness import most_heard

Trials = Mapping[NodeId, GateTrial]


def weighed(trials: Trials) -> dict[NodeId, GateTrial]:
    """Return the trials with nobody's samples counting for more than `most_heard` of all."""
    most = most_heard(trial.samples for trial in trials.values())
    return {node: _scaled(trial, min(1.0, most / trial.samples)) for node, trial in trials.items()}


def _scaled(trial: GateTrial, factor: float) -> GateTrial:
    if factor >= 1:
        return trial

    def fewer(counts: Sequence[int]) -> tuple[int, ...]:
        return tuple(round(factor * count) for count in counts)

    return replace(
        trial,
        samples=round(factor * trial.samples),
        nll_sum=tuple(factor * nll for nll in trial.nll_sum),
        correct=fewer(trial.correct),
        gained=fewer(trial.gained),
        lost=fewer(trial.lost),
        gained_among_own=fewer(trial.gained_among_own),
        lost_among_own=fewer(trial.lost_among_own),
        taken=fewer(trial.taken),
        gained_on_root=fewer(trial.gained_on_root),
        lost_on_root=fewer(trial.lost_on_root),
        nll_by_calibration=tuple(factor * nll for nll in trial.nll_by_calibration),
        incumbent_correct=round(factor * trial.incumbent_correct),
    )


def summed(trials: Trials, column: str, row: int) -> int:
    """Return what an option comes to over all trials, in one of the figures of `GateTrial`."""
    return sum(getattr(trial, column)[row] for trial in trials.values())
