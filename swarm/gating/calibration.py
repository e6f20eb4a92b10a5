"""How sure answers are and should be: expected calibration error, and the temperature that lowers it.

Temperature scaling: with p the probabilities of an answer, those at temperature t are p^(1/t), normalised.
The likeliest class stays the likeliest. Source: Guo, Pleiss, Sun and Weinberger 2017.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.combination import CALIBRATIONS
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.combine import PROBABILITY_FLOOR, floored

BINS = 15
DOUBTED_FACTOR = 2.0
"""Before any sample is seen, the temperature lies within this factor of 1 with probability 0.68: so few
samples that all happen to be right do not make every answer certain."""

Reals = NDArray[np.float64]


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Return by how much confidence and accuracy differ on average, 0..1, over bins of equal mass.

    confidence [N] are the probabilities of the answered classes, correct bool [N]. The N answers are sorted
    by confidence and cut into `bins` bins whose sizes differ by one at most (N bins where N < bins); the
    error is the sum over bins of (size / N) |mean confidence - mean correctness|. Answers of one confidence
    share their mean correctness, so that the order of the answers does not matter. It is no unbiased
    estimate: with few answers a bin's noise counts as error: where calibration is perfect about 0.04 for N =
    360, 0.016 for 2,000. Source: Naeini, Cooper and Hauskrecht 2015; bins of equal mass as in Nixon et al.
    2019. Raises ShapeMismatchError for other shapes, InvalidInputError without answers or outside 0..1.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise ShapeMismatchError(
            "confidences", found=f"{list(sure.shape)} and {list(right.shape)}", expected="[N] and [N]"
        )
    if not len(sure) or bins < 1 or not ((sure >= 0) & (sure <= 1)).all():
        raise InvalidInputError(
            "confidences", found=f"{len(sure)} of them in {bins} bins", expected="at least one, all in 0..1"
        )
    _, group = np.unique(sure, return_inverse=True)
    counts = np.bincount(group)
    shared = (np.bincount(group, weights=right) / counts)[group]
    order = np.argsort(sure, kind="stable")
    gaps = [
        abs(float(part.sum())) for part in np.array_split(sure[order] - shared[order], min(bins, len(sure)))
    ]
    return math.fsum(gaps) / len(sure)


def calibrated(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Return probabilities [B, C] > 0 at a temperature, float32, rows sum to 1; 0 and 1 leave them alone."""
    if temperature in (0.0, 1.0):
        return np.asarray(probabilities, dtype=np.float32)
    if not (math.isfinite(temperature) and temperature > 0):
        raise InvalidInputError("calibration", found=str(temperature), expected="a positive temperature")
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), PROBABILITY_FLOOR)) / temperature
    return floored(np.exp(logits - logits.max(axis=1, keepdims=True)))


def losses_by_temperature(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> Reals:
    """Return the summed negative log likelihood at each of CALIBRATIONS, float64 [G], of N answers.

    probabilities [N, C] > 0 before calibration; labels int64 [N] are columns of them, -1 for a class that
    they lack, which has the smallest probability there is.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float32), np.float32(PROBABILITY_FLOOR)))
    logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
    least = math.log(PROBABILITY_FLOOR)
    found = np.zeros(len(CALIBRATIONS))
    if not len(labels):
        return found
    own = logits[np.arange(len(labels)), np.maximum(labels, 0)].astype(np.float64)
    for place, temperature in enumerate(CALIBRATIONS):
        total = np.exp(logits / np.float32(temperature)).sum(axis=1, dtype=np.float64)
        likelihood = np.where(labels >= 0, np.maximum(own / temperature - np.log(total), least), least)
        found[place] = -float(likelihood.sum())
    return found


def fitted_temperature(losses: Sequence[float]) -> float:
    """Return the temperature of the least loss, from summed losses at each of CALIBRATIONS.

    To the losses comes that of a log-normal prior around 1 (DOUBTED_FACTOR). Between the grid's values a
    parabola through the three lowest neighbours decides. Source of the prior: as Platt 1999 smooths targets.
    """
    if len(losses) != len(CALIBRATIONS):
        raise ShapeMismatchError("losses", found=str(len(losses)), expected=str(len(CALIBRATIONS)))
    places = np.log(np.array(CALIBRATIONS))
    doubted = np.asarray(losses, dtype=np.float64) + 0.5 * np.square(places / math.log(DOUBTED_FACTOR))
    best = int(doubted.argmin())
    if not 0 < best < len(doubted) - 1:
        return float(CALIBRATIONS[best])
    before, here, after = doubted[best - 1 : best + 2]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
    return float(np.exp(places[best] + shift * (places[1] - places[0])))
