"""Which experts are wanted for which rows of a query, and who steps in for one that does not answer: pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.gating.routing import RoutePlan

Rows = NDArray[np.int64]
_Any = TypeVar("_Any", bound=np.generic)


InFull = Callable[[Rows, Sequence[Rows]], RoutePlan]
"""Given some rows and what each of them lists, returns their plan over all leaves: a listed leaf goes on
speaking for its expert."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """Leaves' shares in each row's answer, float64 [B, n]: of all leaves in their order, or of those that a
    row lists, int64 [B, n]."""

    values: NDArray[np.float64]
    listed: Rows | None = None

    def of(self, leaf: int, rows: Rows) -> NDArray[np.float64]:
        """Return a leaf's share in the answers of some rows, all of which list it."""
        found: NDArray[np.float64] = self.values[rows, _columns(self.listed, leaf, rows)]
        return found


class AnswerBoard:
    """The state of one query of B rows over L leaves, while its answers come in.

    Starts from the plan's choices. `failed` takes a leaf away from some rows, marking them degraded. Where
    the root stands in, it has the leaf's share; else each row gets its next leaf in falling weight, and what
    is left at the end is renormalised. Where a plan lists only some leaves, `in_full` gives a row all of them
    when its own do not suffice.
    """

    def __init__(
        self,
        plan: RoutePlan,
        leaves: int,
        *,
        uniform: bool = False,
        root_stands_in: bool = False,
        in_full: InFull | None = None,
    ) -> None:
        rows = len(plan.choices)
        self._root_stands_in, self._in_full = root_stands_in, in_full
        self._order, self._listed, chosen = plan.order, None, plan.choices
        if plan.is_listed:
            listed = np.where(plan.order < 0, leaves, plan.order)
            self._listed = np.sort(listed, axis=1)
            self._order = np.argsort(np.argsort(listed, axis=1, kind="stable"), axis=1)
            chosen = plan.choices[:, : plan.order.shape[1]]
            chosen = np.where(chosen >= 0, self._order[:, : chosen.shape[1]], -1)
        columns = leaves if self._listed is None else self._listed.shape[1]
        self._weights = np.zeros((rows, columns), dtype=np.float64)
        if plan.order.shape[1]:
            np.put_along_axis(self._weights, self._order, plan.order_weights.astype(np.float64), axis=1)
        if uniform:
            self._weights[:] = 1.0
        self._assigned = np.zeros((rows, columns), dtype=bool)
        row, place = np.nonzero(chosen >= 0)
        self._assigned[row, chosen[row, place]] = True
        self._left_to_root = np.zeros((rows, columns), dtype=bool)
        self._gone = np.zeros(leaves + 1, dtype=bool)
        self._gone[leaves] = True
        self.degraded = np.zeros(rows, dtype=bool)
        self._whole = np.full(rows, in_full is None)
        if in_full is not None:
            self._look_again(np.flatnonzero((plan.choices < 0).any(axis=1)))

    def wanted(self) -> dict[int, Rows]:
        """Return the rows of each leaf that is wanted, by leaf row."""
        if self._listed is not None:
            rows, columns = np.nonzero(self._assigned)
            leaves = self._listed[rows, columns]
            return {int(leaf): rows[leaves == leaf] for leaf in np.unique(leaves)}
        return {
            int(leaf): np.flatnonzero(self._assigned[:, leaf])
            for leaf in np.flatnonzero(self._assigned.any(axis=0))
        }

    def failed(self, losses: Mapping[int, Rows]) -> dict[int, Rows]:
        """Take note that leaves answer nothing for these rows; return which leaves are wanted instead."""
        for leaf, rows in losses.items():
            columns = _columns(self._listed, leaf, rows)
            self._gone[leaf] = True
            self._assigned[rows, columns] = False
            self.degraded[rows] = True
            self._left_to_root[rows, columns] = self._root_stands_in
        if self._root_stands_in:
            return {}
        instead: dict[int, list[Rows]] = {}
        for rows in losses.values():
            for leaf, some in self._next(rows).items():
                self._assigned[some, _columns(self._listed, leaf, some)] = True
                instead.setdefault(leaf, []).append(some)
        return {leaf: np.unique(np.concatenate(parts)) for leaf, parts in instead.items()}

    def unanswered(self) -> Rows:
        """Return the rows that no leaf is left for."""
        return np.flatnonzero(~self._assigned.any(axis=1))

    def shares(self) -> NDArray[np.float64]:
        """Return each leaf's share in each row's answer, [B, L], or of the leaves that a row lists, rising;
        with `root_shares`, rows sum to 1 where a leaf is left."""
        shares: NDArray[np.float64] = np.where(self._assigned, self._counted(), 0.0)
        return shares

    def all_shares(self) -> Shares:
        """Return `shares` by leaf."""
        return Shares(values=self.shares(), listed=self._listed)

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
        found, leaves = self._open(rows)
        lacking = rows[~found & ~self._whole[rows]]
        if len(lacking):
            self._look_again(lacking)
            found, leaves = self._open(rows)
        return {int(leaf): rows[found & (leaves == leaf)] for leaf in np.unique(leaves[found])}

    def _open(self, rows: Rows) -> tuple[NDArray[np.bool_], Rows]:
        """Return whether a leaf is left for each of the rows, and the first one."""
        order = self._order[rows]
        if not order.size:
            return np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=np.int64)
        leaves = order if self._listed is None else self._listed[rows[:, None], order]
        open_places = ~self._assigned[rows[:, None], order] & ~self._gone[leaves]
        first = open_places.argmax(axis=1)
        found = np.asarray(open_places.any(axis=1))
        return found, leaves[np.arange(len(rows)), first]

    def _look_again(self, rows: Rows) -> None:
        """Let these rows list all leaves, with the weights that the whole gate gives them; those that answer
        for a row go on doing so."""
        if self._listed is None or self._in_full is None or not len(rows):
            return
        none = len(self._gone) - 1
        plan = self._in_full(rows, [each[each < none] for each in self._listed[rows]])
        held = [self._listed[row][self._assigned[row]] for row in rows]
        self._widen(plan.order.shape[1])
        width, added = self._listed.shape[1], plan.order.shape[1]
        for place, row in enumerate(rows.tolist()):
            ranks = plan.order[place].argsort(kind="stable")
            self._listed[row], self._weights[row], self._assigned[row] = none, 0.0, False
            self._listed[row, :added] = plan.order[place, ranks]
            self._weights[row, :added] = plan.order_weights[place, ranks]
            self._order[row] = np.arange(width)
            self._order[row, :added] = ranks.argsort(kind="stable")
            kept = held[place] if self.degraded[row] else plan.choices[place][plan.choices[place] >= 0]
            self._assigned[row, np.searchsorted(self._listed[row], kept)] = True
        self._whole[rows] = True

    def _widen(self, columns: int) -> None:
        assert self._listed is not None, "only lists are widened"
        batch, before = self._listed.shape
        lacking = max(columns - before, 0)
        if not lacking:
            return

        def wide(array: NDArray[_Any], fill: object) -> NDArray[_Any]:
            more = np.full((batch, lacking), fill, dtype=array.dtype)
            return np.concatenate([array, more], axis=1)

        self._listed = wide(self._listed, len(self._gone) - 1)
        more = np.tile(np.arange(before, before + lacking), (batch, 1))
        self._order = np.concatenate([self._order, more], axis=1)
        self._weights = wide(self._weights, 0.0)
        self._assigned = wide(self._assigned, False)
        self._left_to_root = wide(self._left_to_root, False)


def _columns(listed: Rows | None, leaf: int, rows: Rows) -> int | Rows:
    """Return in which column a leaf stands in each of the rows."""
    if listed is None:
        return leaf
    found: Rows = (listed[rows] == leaf).argmax(axis=1)
    return found
