"""Whose sums agree with an asker's labelled examples: pure.

Where the same input means different things to different owners, one solution over all of them fits nobody.
Each owner's own solution is scored on the examples; those within two standard errors of the best are solved
together. Where owners know different classes, those few know less than all owners together do: what is solved
over all is taken if it gets more of the examples right.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import NodeId

STANDARD_ERRORS = 2.0


def agreeing_owners(
    correct: Mapping[NodeId, int], examples: int, beside: Collection[NodeId] = ()
) -> tuple[NodeId, ...]:
    """Return the owners within two standard errors of the best, sorted; the best are always among them.

    `correct` counts the examples that an owner's own solution gets right. The standard error of a share is
    sqrt(p (1 - p) / n) with p = (best + 1) / (n + 2), so that a perfect score on a few examples is not taken
    for a perfect solution (Laplace's rule of succession). Owners that are kept `beside` the gate take part
    only where the best of them is two standard errors ahead of everybody in it: what an asker shows may not
    be all that it will ask, and nobody in the gate vouches for them. Without owners: empty.
    """
    inside = {owner: count for owner, count in correct.items() if owner not in beside}
    best_inside, best = max(inside.values(), default=-1), max(correct.values(), default=-1)
    if inside and best <= best_inside + _margin(best, examples):
        correct, best = inside, best_inside
    margin = _margin(best, examples)
    return tuple(sorted(owner for owner, count in correct.items() if count >= best - margin))


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


def correct_examples(
    roots: Sequence[NDArray[np.floating]], q: NDArray[np.int16], labels: NDArray[np.int64]
) -> list[int]:
    """Return how many examples q [N, M] each root [M, C] classifies as their labels int64 [N] say."""
    points = q.astype(np.float32)
    scores = (points @ root.astype(np.float32) for root in roots)
    return [int((each.argmax(axis=1) == labels).sum()) for each in scores]
