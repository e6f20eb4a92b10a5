"""Whose sums agree with an asker's labelled examples: pure.

Where the same input means different things to different owners, one solution over all of them fits nobody.
Each owner's own solution is scored on the examples; those within two standard errors of the best are solved
together, where that is clearly better than one solution over all.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import NodeId

STANDARD_ERRORS = 2.0

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassRoot:
    """Scores q @ columns float32 [M, K] of the classes int64 [K] that some owners know."""

    columns: NDArray[np.float32]
    classes: NDArray[np.int64]

    def right(self, q: NDArray[np.int16], labels: NDArray[np.int64]) -> Flags:
        """Return which examples q [N, M] it classifies as their labels int64 [N] say, bool [N]."""
        best = (q.astype(np.float32) @ self.columns).argmax(axis=1)
        found: Flags = self.classes[best] == labels
        return found


def agreeing_owners(
    correct: Mapping[NodeId, int], examples: int, beside: Collection[NodeId] = (), by_all: int = 0
) -> tuple[NodeId, ...]:
    """Return the owners within two standard errors of the best, sorted; the best are always among them.

    `correct` counts the examples that an owner's own solution gets right, `by_all` those that the root of all
    owners in the gate does. The standard error of a share is sqrt(p (1 - p) / n) with
    p = (best + 1) / (n + 2), so that a perfect score on a few examples is not taken for a perfect solution
    (Laplace's rule of succession). Owners that are kept `beside` the gate take part only where the best of
    them is two standard errors ahead of everybody in it and of that root: what an asker shows may not be all
    that it will ask, and nobody in the gate vouches for them. Without owners: empty.
    """
    inside = {owner: count for owner, count in correct.items() if owner not in beside}
    best_inside, best = max(inside.values(), default=-1), max(correct.values(), default=-1)
    if inside and best <= max(best_inside, by_all) + _margin(best, examples):
        correct, best = inside, best_inside
    margin = _margin(best, examples)
    return tuple(sorted(owner for owner, count in correct.items() if count >= best - margin))


def is_clearly_better(right: Flags, other: Flags) -> bool:
    """Return whether one solution gets more examples right, bool [N] each, by more than two standard errors
    of the paired difference: 5 examples to 0, 7 to 1 or 9 to 2 are enough.

    Those are the least that pass the exact one-sided sign test at 5 % too (McNemar 1947).
    """
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    return gained - lost > STANDARD_ERRORS * math.sqrt(gained + lost)


def _margin(best: int, examples: int) -> float:
    share = (best + 1) / (examples + 2)
    return STANDARD_ERRORS * math.sqrt(share * (1 - share) * examples)


def root_columns(
    weights: NDArray[np.floating], class_rows: NDArray[np.int64], classes: int
) -> NDArray[np.float32]:
    """Return the root float32 [M, C] of weights [M, T]: each class's targets summed, class_rows int64 [T]."""
    root = np.zeros((len(weights), classes))
    for target, row in enumerate(class_rows):
        root[:, row] += weights[:, target]
    return root.astype(np.float32)


def class_root(
    weights: NDArray[np.floating],
    class_rows: NDArray[np.int64],
    classes: int,
    class_weights: NDArray[np.float32] | None = None,
) -> ClassRoot:
    """Return the root of weights [M, T] over the classes that targets are of, class_rows int64 [T]; where
    there are class weights float32 [M, C], it is these."""
    known = np.unique(class_rows)
    if class_weights is None:
        class_weights = root_columns(weights, class_rows, classes)
    return ClassRoot(columns=class_weights[:, known], classes=known)
