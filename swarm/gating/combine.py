"""Mix the answers of experts that know different classes into one over the swarm's class names."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError

PROBABILITY_FLOOR = 1e-6
"""No class's probability falls below this share, so that its logarithm exists."""


class Part(NamedTuple):
    """One expert's answer: rows int64 [n], weights [n], probabilities [n, C_own] over class_names."""

    rows: NDArray[np.int64]
    weights: NDArray[np.floating]
    class_names: Sequence[str]
    probabilities: NDArray[np.floating]


def combine(
    global_classes: Sequence[str],
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.floating], Sequence[str], NDArray[np.floating]]],
    *,
    batch: int | None = None,
) -> NDArray[np.float32]:
    """Return the weighted mixture float32 [B, C] over global_classes: rows sum to 1, nothing is 0.

    A class that an expert does not know has probability 0 from it; the floor is put on the mixture. `batch`
    is B (None: the largest row + 1); a row that nobody answered is uniform. Raises InvalidInputError for a
    class outside global_classes, a row outside the batch, or an answer that is negative or not finite.
    """
    column = {name: index for index, name in enumerate(global_classes)}
    if not column:
        raise InvalidInputError("class names", found="none", expected="at least one")
    last = max((int(np.max(part[0])) for part in parts if len(part[0])), default=-1)
    rows_total = last + 1 if batch is None else batch
    mixture = np.zeros((rows_total, len(column)))
    for part in parts:
        rows, weights, names, probabilities = answer = Part(*part)
        _check(answer, column, rows_total)
        own = np.zeros((len(rows), len(column)))
        own[:, [column[name] for name in names]] = probabilities
        np.add.at(mixture, rows, own * np.asarray(weights, dtype=np.float64)[:, None])
    return _floored(mixture)


def _check(part: Part, column: dict[str, int], batch: int) -> None:
    rows, weights, names, probabilities = part
    unknown = [name for name in names if name not in column]
    if unknown or len(set(names)) != len(names):
        raise InvalidInputError(
            "expert's class names",
            found=f"unknown class {unknown[0]!r}" if unknown else "a name twice",
            expected="distinct names of the gate's classes",
        )
    if np.shape(probabilities) != (len(rows), len(names)) or np.shape(weights) != (len(rows),):
        raise ShapeMismatchError(
            "expert's probabilities",
            found=f"{np.shape(probabilities)} with weights {np.shape(weights)}",
            expected=f"({len(rows)}, {len(names)}) with ({len(rows)},)",
        )
    if len(rows) and (int(np.min(rows)) < 0 or int(np.max(rows)) >= batch):
        raise InvalidInputError("expert's rows", found=f"a row outside 0..{batch - 1}")
    for values in (weights, probabilities):
        if not np.isfinite(values).all() or (np.asarray(values) < 0).any():
            raise InvalidInputError("expert's answer", found="a value that is negative or not finite")


def _floored(mixture: NDArray[np.float64]) -> NDArray[np.float32]:
    largest = mixture.max(axis=1, keepdims=True, initial=0.0)
    scaled = np.where(largest > 0, mixture / np.where(largest > 0, largest, 1.0), 1.0)
    shares = np.maximum(scaled / scaled.sum(axis=1, keepdims=True), PROBABILITY_FLOOR)
    floored: NDArray[np.float32] = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return floored
