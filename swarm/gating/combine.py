"""Mix the values of experts that know different classes into one answer over the gate's classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.combination import USES_SUMS, Combination
from swarm.domain.errors import InvalidInputError, ShapeMismatchError

PROBABILITY_FLOOR = 1e-6
"""No class's probability falls below this share, so that its logarithm exists."""
EVIDENCE_FLOOR = 1e-6
"""Added to the experts' mixture before its logarithm in `poe`."""
Part = tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.int64], NDArray[np.floating]]
"""One expert's values: rows [n], weights [n], class_rows [C_own] (-1: not of the gate), values [n, C_own]."""


def mix(
    combination: Combination,
    *,
    class_scores: NDArray[np.floating] | None,
    parts: Sequence[Part],
    batch: int,
    classes: int,
) -> NDArray[np.float32]:
    """Return the answer's probabilities float32 [B, C]: rows sum to 1, none is below about 1e-6.

    `parts` hold probabilities (corrections for `corrected`), each expert's rows with its weights there;
    `root` takes none. class_scores [B, C] are needed by every combination with sums. A class that an expert
    does not know has probability 0 and correction 0 from it. Probabilities are mixed by the weights of those
    that answered. A row without any gets the root's answer, or equal shares where there are no sums.
    Raises InvalidInputError or ShapeMismatchError for parts that cannot be an expert's answer.
    """
    if batch < 0 or classes < 1:
        raise InvalidInputError(
            "answer", found=f"{batch} rows of {classes} classes", expected="at least 1 class"
        )
    if combination.name in USES_SUMS and (class_scores is None or class_scores.shape != (batch, classes)):
        raise ShapeMismatchError(
            f"class scores for {combination.label}",
            found="none" if class_scores is None else str(list(class_scores.shape)),
            expected=f"[{batch}, {classes}]",
        )
    if combination.name == "root" and parts:
        raise InvalidInputError("combination root", found="experts' answers", expected="none")
    signed = combination.name == "corrected"
    total, share = np.zeros((batch, classes)), np.zeros(batch)
    for part in parts:
        _check_part(part, batch, classes, signed)
        rows, weights, class_rows, values = part
        known = class_rows >= 0
        own = np.zeros((len(rows), classes))
        own[:, class_rows[known]] = values[:, known]
        np.add.at(total, rows, own * np.asarray(weights, dtype=np.float64)[:, None])
        np.add.at(share, rows, weights)
    scores = None if class_scores is None else np.asarray(class_scores, dtype=np.float64)
    return answer_of(combination, scores, total, share)


def answer_of(
    combination: Combination,
    class_scores: NDArray[np.float64] | None,
    total: NDArray[np.float64],
    share: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return probabilities [B, C]; total [B, C] and share [B] sum weighted values and weights of experts."""
    if class_scores is None and combination.name in USES_SUMS:
        raise InvalidInputError(
            f"combination {combination.label}", found="no class scores", expected="a gate with sums"
        )
    silent = share <= 0
    mixture = total / np.where(silent, 1.0, share)[:, None]
    if class_scores is None or combination.name not in USES_SUMS:
        return floored(mixture)
    base = class_scores / combination.class_temperature
    if combination.name == "corrected":
        return floored(_softmax(base + combination.strength * total))
    root = _softmax(base)
    if combination.name == "root":
        return floored(root)
    if combination.name == "poe":
        mixture = _softmax(np.log(mixture + EVIDENCE_FLOOR) + combination.strength * _log_softmax(base))
    return floored(np.where(silent[:, None], root, mixture))


def _check_part(part: Part, batch: int, classes: int, signed: bool) -> None:
    rows, weights, class_rows, values = part
    known = class_rows[class_rows >= 0]
    if len(np.unique(known)) != len(known) or (len(known) and int(known.max()) >= classes):
        raise InvalidInputError(
            "expert's class names", found="a class twice or out of range", expected="the gate's, each once"
        )
    if values.shape != (len(rows), len(class_rows)) or weights.shape != (len(rows),):
        raise ShapeMismatchError(
            "expert's answer",
            found=f"{list(values.shape)} with weights {list(weights.shape)}",
            expected=f"[{len(rows)}, {len(class_rows)}] with [{len(rows)}]",
        )
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < batch:
        raise InvalidInputError("expert's rows", found=f"a row outside 0..{batch - 1}")
    if not (np.isfinite(weights).all() and np.isfinite(values).all()) or (weights < 0).any():
        raise InvalidInputError("expert's answer", found="a value that is not finite or a negative weight")
    if not signed and (values < 0).any():
        raise InvalidInputError("expert's answer", found="a negative probability")


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return found


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def floored(mixture: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return shares [B, C] >= 0 as probabilities float32: rows sum to 1, nothing is 0, all 0 is uniform."""
    largest = mixture.max(axis=1, keepdims=True, initial=0.0)
    scaled = np.where(largest > 0, mixture / np.where(largest > 0, largest, 1.0), 1.0)
    shares = np.maximum(scaled / scaled.sum(axis=1, keepdims=True), PROBABILITY_FLOOR)
    probabilities: NDArray[np.float32] = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
