"""For how many samples one node may count where several tell figures: nobody's drown everybody else's."""

from collections.abc import Iterable

LOUDEST, ALWAYS_HEARD = 4, 200
"""A node counts for no more samples than so many of the median node's, but may count for ALWAYS_HEARD."""


def most_heard(samples: Iterable[int]) -> int:
    """Return the most samples that a node counts for, of those that each names: LOUDEST lower medians.

    No number of samples that a node names lets it decide alone. ALWAYS_HEARD may be more: a node with a
    handful of samples silences nobody.
    """
    named = sorted(samples)
    median = named[(len(named) - 1) // 2] if named else 0
    return max(LOUDEST * median, ALWAYS_HEARD)
