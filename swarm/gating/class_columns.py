"""The columns by which a root scores classes: one for each class, or several of which the best one counts.

With several owners the columns come twice: which owner's classes a sample is of is told by the ones, which of
that owner's classes it is by the others.
"""

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

    A class's score is the largest of its columns' q @ w, and 0 without any. With `owners`, int64 [K] from 0,
    weights are [M, 2K], K columns between owners and then K within them: owner j's best column between them
    is what its best column within it scores, and its others fall short of that by what they do there. A
    column of another owner therefore changes nothing in how an owner's own classes are told apart.

    Raises ShapeMismatchError where there is not one row for each column, InvalidInputError for rows out of
    range and weights that are not finite.
    """

    weights: NDArray[np.float32]
    rows: Integers
    classes: int
    owners: Integers | None = None

    def __post_init__(self) -> None:
        columns = len(self.rows) * (1 if self.owners is None else 2)
        if self.weights.ndim != 2 or self.rows.shape != (len(self.rows),) or not len(self.rows):
            raise ShapeMismatchError(
                "class weights",
                found=f"{list(self.weights.shape)} for {list(self.rows.shape)} rows",
                expected="[M, K] for [K] rows, at least one",
            )
        if self.weights.shape[1] != columns or (
            self.owners is not None and self.owners.shape != self.rows.shape
        ):
            raise ShapeMismatchError(
                "class weights",
                found=f"{list(self.weights.shape)} for {len(self.rows)} rows"
                + ("" if self.owners is None else f" of {list(self.owners.shape)} owners"),
                expected="[M, K] for [K] rows, or [M, 2K] with [K] owners",
            )
        for subject, rows, limit in (
            ("class rows", self.rows, self.classes),
            ("class owners", self.owners, len(self.rows)),
        ):
            if rows is not None and not 0 <= int(rows.min()) <= int(rows.max()) < limit:
                raise InvalidInputError(subject, found="a row out of range", expected=f"0..{limit - 1}")
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

    @property
    def flops_per_query(self) -> int:
        """All columns, and the comparisons between them."""
        return 2 * self.weights.size + (1 if self.owners is None else 4) * len(self.rows)

    def scores(self, q: NDArray[np.number]) -> NDArray[np.float32]:
        """Return each class's score, float32 [B, C]; q [B, M] are features in fixed point."""
        scored: NDArray[np.float32] = q.astype(np.float32, copy=False) @ self.weights
        return self.of_columns(scored)

    def of_columns(self, scores: NDArray[_Float]) -> NDArray[_Float]:
        """Return each class's score, [B, C], from those of the weights' columns."""
        scores = target_scores(scores, self.owners)
        if len(self.rows) == self.classes and np.array_equal(self.rows, np.arange(self.classes)):
            return np.ascontiguousarray(scores)
        return best_of_class(scores, self.rows, self.classes)

    def best_target(self, scores: NDArray[_Float], answered: Integers) -> Integers:
        """Return which target gives each row its score for one class, int64 [B]; -1 where it has none.

        scores are those of the weights' columns, answered int64 [B] classes.
        """
        own = self.rows[None, :] == answered[:, None]
        found: Integers = np.where(own, target_scores(scores, self.owners), -np.inf).argmax(axis=1)
        found[~own.any(axis=1)] = -1
        return found

    def linear(self) -> NDArray[np.float32] | None:
        """Return the same root as float32 [M, C], 0 for classes without a column; None where a class has
        several, or owners have their own."""
        if self.owners is not None or len(self.known) < len(self.rows):
            return None
        found = np.zeros((len(self.weights), self.classes), dtype=np.float32)
        found[:, self.rows] = self.weights
        return found

    def right(self, q: NDArray[np.number], labels: Integers) -> NDArray[np.bool_]:
        """Return which rows of q [N, M] are, of the classes with columns, classified as labels int64 [N] say,
        bool [N]."""
        best = target_scores(q.astype(np.float32, copy=False) @ self.weights, self.owners).argmax(axis=1)
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


def target_scores(scores: NDArray[_Float], owners: Integers | None) -> NDArray[_Float]:
    """Return each target's score [B, K] of its one column's [B, K], or, with owners int64 [K], of its two
    columns' [B, 2K]: between the owners, and within its own."""
    if owners is None:
        return scores
    between, within = np.split(scores, 2, axis=1)
    count = int(owners.max()) + 1
    behind = within - best_of_class(within, owners, count)[:, owners]
    found: NDArray[_Float] = behind + best_of_class(between, owners, count)[:, owners]
    return found
