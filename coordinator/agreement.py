"""Whose sums agree with an asker's labelled examples: pure.

Where the same input means different things to different owners, one solution over all of them fits nobody.
Each owner's own solution is scored on the examples; those within two standard errors of the best are solved
together, where that is clearly better than one solution over all.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import NodeId

STANDARD_ERRORS = 2.0

Flags = NDArray[np.bool_]


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
