"""The columns by which a root scores classes: one for each class, or several of which the best one counts."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError

Integers = NDArray[np.int64]
HALF_PEAK = 1024.0
"""Far below the largest float16, and 2^24 times the smallest one that keeps its digits."""
_Float = TypeVar("_Float", bound=np.floating[Any])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassColumns:
    """Column k of weights float32 [M, K] scores class rows[k], int64 [K] below `classes`.

    A class's score is the largest of its columns' q @ w, and 0 without any.

    Raises ShapeMismatchError where there is not one row for each column, InvalidInputError for rows out of
    range and weights that are not finite.
    """

    weights: NDArray[np.float32]
    rows: Integers
    classes: int

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.rows.shape != (self.weights.shape[1],) or not len(self.rows):
            raise ShapeMismatchError(
                "class weights",
                found=f"{list(self.weights.shape)} for {list(self.rows.shape)} rows",
                expected="[M, K] for [K] rows, at least one",
            )
        if not 0 <= int(self.rows.min()) <= int(self.rows.max()) < self.classes:
            raise InvalidInputError(
                "class rows", found="a row out of range", expected=f"0..{self.classes - 1}"
            )
        if not np.isfinite(self.weights).all():
            raise InvalidInputError("class weights", found="a value that is not finite")

    @classmethod
    def summing(cls, weights: NDArray[np.floating], rows: Integers, classes: int) -> "ClassColumns":
        """Return one column for each class that targets are of, float32: the sum of the targets' columns.

        weights [M, T], rows int64 [T] are the targets' classes.
        """
        total = np.zeros((len(weights), classes))
        for target, row in enumerate(rows):
            total[:, row] += weights[:, target]
        known = np.unique(rows)
        return cls(weights=total[:, known].astype(np.float32), rows=known, classes=classes)

    @property
    def known(self) -> Integers:
        """The classes that have a column, int64 [K'], ascending."""
        found: Integers = np.unique(self.rows)
        return found

    def scores(self, q: NDArray[np.number]) -> NDArray[np.float32]:
        """Return each class's score, float32 [B, C]; q [B, M] are features in fixed point."""
        scored: NDArray[np.float32] = q.astype(np.float32, copy=False) @ self.weights
        return self.of_columns(scored)

    def of_columns(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each class's score, [B, C], from the columns' [B, K]."""
        if len(self.rows) == self.classes and np.array_equal(self.rows, np.arange(self.classes)):
            return np.ascontiguousarray(scores)
        found: NDArray[np.float32] = best_of_class(scores, self.rows, self.classes)
        return found

    def linear(self) -> NDArray[np.float32] | None:
        """Return the same root as float32 [M, C], 0 for classes without a column; None where a class has
        several."""
        if len(self.known) < len(self.rows):
            return None
        found = np.zeros((len(self.weights), self.classes), dtype=np.float32)
        found[:, self.rows] = self.weights
        return found

    def right(self, q: NDArray[np.number], labels: Integers) -> NDArray[np.bool_]:
        """Return which rows of q [N, M] are, of the classes with columns, classified as labels int64 [N] say,
        bool [N]."""
        best = (q.astype(np.float32, copy=False) @ self.weights).argmax(axis=1)
        found: NDArray[np.bool_] = self.rows[best] == labels
        return found


def halved(weights: NDArray[np.floating]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Return weights [..., M, K] as float16 and a scale for each column, float32 [..., K], that it is times.

    The largest entry of a column becomes HALF_PEAK, so that the small ones keep their digits.
    """
    peaks = np.abs(weights).max(axis=-2, initial=0.0)
    scales = (peaks / HALF_PEAK).astype(np.float32)
    scales[scales == 0] = 1.0
    return (weights / scales[..., None, :]).astype(np.float16), scales


def whole(halves: NDArray[np.float16], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what `halved` was given, as far as 11 bits tell, float32."""
    found: NDArray[np.float32] = halves.astype(np.float32) * scales[..., None, :]
    return found


def best_of_class(scores: NDArray[_Float], rows: Integers, classes: int) -> NDArray[_Float]:
    """Return each class's largest score [B, classes] of its columns' [B, K]; 0 for a class without any."""
    order = np.argsort(rows, kind="stable")
    known, starts = np.unique(rows[order], return_index=True)
    found = np.zeros((len(scores), classes), dtype=scores.dtype)
    found[:, known] = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return found
