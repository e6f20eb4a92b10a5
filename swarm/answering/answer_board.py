"""Which experts are wanted for which rows of a query, and who steps in for one that does not answer: pure."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from swarm.gating.routing import RoutePlan

Rows = NDArray[np.int64]


class AnswerBoard:
    """The state of one query of B rows over L leaves, while its answers come in.

    Starts from the plan's choices. `failed` takes a leaf away from some rows, marking them degraded. Where
    the root stands in, it has the leaf's share; else each row gets its next leaf in falling weight, and what
    is left at the end is renormalised.
    """

    def __init__(
        self, plan: RoutePlan, leaves: int, *, uniform: bool = False, root_stands_in: bool = False
    ) -> None:
        rows = len(plan.choices)
        self._root_stands_in = root_stands_in
        self._order = plan.order
        self._weights = np.zeros((rows, leaves), dtype=np.float64)
        if plan.order.shape[1]:
            np.put_along_axis(self._weights, plan.order, plan.order_weights.astype(np.float64), axis=1)
        if uniform:
            self._weights[:] = 1.0
        self._assigned = np.zeros((rows, leaves), dtype=bool)
        row, place = np.nonzero(plan.choices >= 0)
        self._assigned[row, plan.choices[row, place]] = True
        self._left_to_root = np.zeros((rows, leaves), dtype=bool)
        self._gone = np.zeros(leaves, dtype=bool)
        self.degraded = np.zeros(rows, dtype=bool)

    def wanted(self) -> dict[int, Rows]:
        """Return the rows of each leaf that is wanted, by leaf row."""
        return {
            int(leaf): np.flatnonzero(self._assigned[:, leaf])
            for leaf in np.flatnonzero(self._assigned.any(axis=0))
        }

    def failed(self, losses: Mapping[int, Rows]) -> dict[int, Rows]:
        """Take note that leaves answer nothing for these rows; return which leaves are wanted instead."""
        for leaf, rows in losses.items():
            self._gone[leaf] = True
            self._assigned[rows, leaf] = False
            self.degraded[rows] = True
            self._left_to_root[rows, leaf] = self._root_stands_in
        if self._root_stands_in:
            return {}
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
        """Return each leaf's share in each row's answer, [B, L]; with `root_shares`, rows sum to 1 where a
        leaf is left."""
        shares: NDArray[np.float64] = np.where(self._assigned, self._counted(), 0.0)
        return shares

    def root_shares(self) -> NDArray[np.float64]:
        """Return the root's share in each row's answer, [B]: what the leaves had that it stands in for; 1
        where no leaf is left."""
        shares = np.where(self._left_to_root, self._counted(), 0.0).sum(axis=1)
        return np.where(self._assigned.any(axis=1), np.minimum(shares, 1.0), 1.0)

    def _counted(self) -> NDArray[np.float64]:
        counted = self._assigned | self._left_to_root
        weights = np.where(counted, self._weights, 0.0)
        totals = weights.sum(axis=1, keepdims=True)
        even = np.where(counted, 1.0 / np.maximum(counted.sum(axis=1, keepdims=True), 1), 0.0)
        return np.where(totals > 0, weights / np.where(totals > 0, totals, 1.0), even)

    def _next(self, rows: Rows) -> dict[int, Rows]:
        order = self._order[rows]
        if not order.size:
            return {}
        open_places = ~self._assigned[rows[:, None], order] & ~self._gone[order]
        found = open_places.any(axis=1)
        leaves = order[np.arange(len(rows)), open_places.argmax(axis=1)]
        return {int(leaf): rows[found & (leaves == leaf)] for leaf in np.unique(leaves[found])}
