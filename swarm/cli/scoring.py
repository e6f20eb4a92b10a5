"""Scores answers against labels: accuracy with its standard error, loss, calibration, each class. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.inference import Answer
from swarm.gating.calibration import expected_calibration_error

SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`by_class` holds (name, queries, accuracy); `nll` is the mean negative log likelihood in nats;
    `calibration_error` the expected calibration error over 15 bins of equal mass
    (`swarm.gating.calibration`), `calibration` the temperature that validation data chose, 0 for none.

    `combination` is what answered ("root, gate top-2" where it changed meanwhile); FLOPs are the mean.
    """

    queries: int
    accuracy: float
    standard_error: float
    nll: float
    degraded: int
    gate_version: int
    combination: str
    flops_per_query: float
    calibration_error: float
    calibration: float
    by_class: tuple[tuple[str, int, float], ...]


class Scorer:
    """Collects answers in batches. A class that the swarm does not know counts as answered wrongly."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = list(class_names)
        self._labels: list[NDArray[np.int64]] = []
        self._correct: list[NDArray[np.bool_]] = []
        self._nll: list[NDArray[np.float64]] = []
        self._degraded = 0
        self._gate_version = 0
        self._combinations: dict[str, None] = {}
        self._flops = 0.0
        self._confidence: list[NDArray[np.float32]] = []
        self._calibration = 0.0

    def add(self, answer: Answer, labels: NDArray[np.int64]) -> None:
        """Score one answer; labels int64 [B] index the class names given at the start."""
        column = {name: index for index, name in enumerate(answer.class_names)}
        truth = np.array([column.get(name, -1) for name in self._names], dtype=np.int64)[labels]
        known = truth >= 0
        given = np.where(known, answer.probabilities[np.arange(len(labels)), np.maximum(truth, 0)], 0.0)
        self._labels.append(labels)
        self._correct.append(known & (answer.probabilities.argmax(axis=1) == truth))
        self._nll.append(-np.log(np.maximum(given.astype(np.float64), SMALLEST_PROBABILITY)))
        self._degraded += sum(answer.degraded)
        self._gate_version = answer.gate_version
        self._combinations.setdefault(answer.combination)
        self._confidence.append(answer.confidence)
        self._calibration = answer.calibration
        self._flops += answer.flops_per_query * len(labels)

    def score(self) -> Score:
        """Return the score of everything added."""
        labels, correct = np.concatenate(self._labels), np.concatenate(self._correct)
        accuracy = float(correct.mean())
        by_class = [
            (name, int(np.sum(labels == index)), float(correct[labels == index].mean()))
            for index, name in enumerate(self._names)
            if np.any(labels == index)
        ]
        return Score(
            queries=len(labels),
            accuracy=accuracy,
            standard_error=math.sqrt(accuracy * (1 - accuracy) / len(labels)),
            nll=float(np.concatenate(self._nll).mean()),
            degraded=self._degraded,
            gate_version=self._gate_version,
            combination=", ".join(self._combinations),
            flops_per_query=self._flops / len(labels),
            calibration_error=expected_calibration_error(np.concatenate(self._confidence), correct),
            calibration=self._calibration,
            by_class=tuple(by_class),
        )
