"""Which experts are wanted for which rows of a query, and who steps in for one that does not answer: pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.gating.routing import RoutePlan

Rows = NDArray[np.int64]


class AnswerBoard:
    """The state of one query of B rows over L leaves, while its answers come in.

    Starts from the plan's choices. `failed` takes a leaf away from some rows and gives each of them its next
    leaf in falling weight, marking the row degraded. What is left at the end is renormalised.
    """

    def __init__(self, plan: RoutePlan, leaves: int, *, uniform: bool = False) -> None:
        rows = len(plan.choices)
        self._order = plan.order
        self._weights = np.zeros((rows, leaves), dtype=np.float64)
        if plan.order.shape[1]:
            np.put_along_axis(self._weights, plan.order, plan.order_weights.astype(np.float64), axis=1)
        if uniform:
            self._weights[:] = 1.0
        self._assigned = np.zeros((rows, leaves), dtype=bool)
        row, place = np.nonzero(plan.choices >= 0)
        self._assigned[row, plan.choices[row, place]] = True
        self._gone = np.zeros(leaves, dtype=bool)
        self.degraded = np.zeros(rows, dtype=bool)

    def wanted(self) -> dict[int, Rows]:
        """Return the rows of each leaf that is wanted, by leaf row."""
        return {
            int(leaf): np.flatnonzero(self._assigned[:, leaf])
            for leaf in np.flatnonzero(self._assigned.any(axis=0))
        }

    def failed(self, losses: Mapping[int, Rows]) -> dict[int, Rows]:
        """Take note that leaves answer nothing for these rows; return who is wanted instead."""
        for leaf, rows in losses.items():
            self._gone[leaf] = True
            self._assigned[rows, leaf] = False
            self.degraded[rows] = True
        instead: dict[int, list[Rows]] = {}
        for rows in losses.values():
            for leaf, some in self._next(rows).items():
                self._assigned[some, leaf] = True
                instead.setdefault(leaf, []).append(some)
        return {leaf: np.unique(np.concatenate(parts)) for leaf, parts in instead.items()}

    def unanswered(self) -> Rows:
        """Return the rows that no leaf is left for."""
        return np.flatnonzero(~self._assigned.any(axis=1))

    def shares(self) -> NDArray[np.float64]:
        """Return each leaf's share in each row's answer, [B, L]; rows sum to 1 where a leaf is left."""
        weights = np.where(self._assigned, self._weights, 0.0)
        totals = weights.sum(axis=1, keepdims=True)
        counts = self._assigned.sum(axis=1, keepdims=True)
        even = np.where(self._assigned, 1.0 / np.maximum(counts, 1), 0.0)
        return np.where(totals > 0, weights / np.where(totals > 0, totals, 1.0), even)

    def _next(self, rows: Rows) -> dict[int, Rows]:
        order = self._order[rows]
        if not order.size:
            return {}
        open_places = ~self._assigned[rows[:, None], order] & ~self._gone[order]
        found = open_places.any(axis=1)
        leaves = order[np.arange(len(rows)), open_places.argmax(axis=1)]
        return {int(leaf): rows[found & (leaves == leaf)] for leaf in np.unique(leaves[found])}


def merge_rows(parts: Sequence[Mapping[int, Rows]]) -> dict[int, Rows]:
    """Return the union of rows by leaf."""
    merged: dict[int, list[Rows]] = {}
    for part in parts:
        for leaf, rows in part.items():
            merged.setdefault(leaf, []).append(rows)
    return {leaf: np.unique(np.concatenate(rows)) for leaf, rows in merged.items()}
