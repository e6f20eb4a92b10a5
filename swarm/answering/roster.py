"""Which versions answer for a gate's leaves, and which of them a query may ask: made when that changes, not
for each query."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.known_head import KnownHead, KnownHeads
from swarm.domain.errors import NotFoundError
from swarm.domain.ids import NodeId
from swarm.gating.routing import Experts

KEPT: Final = 16
"""So many choices of owners are kept, for the next query with the same."""
_NAMED = 20
Speaking = Literal["all", "with columns", "none"]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


class Allowed:
    """The leaves that a query may ask, bool [L], and who speaks for them. Never changes."""

    def __init__(
        self, heads: Sequence[KnownHead | None], leaves: Flags, numbers: Numbers, shared: Flags
    ) -> None:
        """`numbers` int64 [L] are the same where versions compute the same, -1 without a version; shared[n]:
        several leaves have the number n."""
        self.heads, self.leaves, self._numbers, self._shared = heads, leaves, numbers, shared
        self.is_empty = not leaves.any()

    @classmethod
    def of(cls, heads: Sequence[KnownHead | None], leaves: Flags) -> "Allowed":
        """Return what a query may ask of versions that no roster has."""
        numbers = _numbered(heads, {})
        return cls(heads, leaves, numbers, _shared(numbers))

    @cached_property
    def experts(self) -> Experts:
        """The distinct experts among the leaves."""
        return Experts.of(self._numbers, self.leaves)

    def identity_of(self, leaf: int) -> int:
        """Return a number that leaves have in common where their versions compute the same."""
        return int(self._numbers[leaf])

    def speakers(self, leaf: int) -> list[tuple[int, KnownHead]]:
        """Return who can speak for a leaf: itself first, then those that compute the same."""
        rows = [leaf] if self.leaves[leaf] else []
        if rows and self._shared[self._numbers[leaf]]:
            alike = np.flatnonzero((self._numbers == self._numbers[leaf]) & self.leaves)
            rows += alike[alike != leaf].tolist()
        found = [(row, self.heads[row]) for row in rows]
        return [(row, head) for row, head in found if head is not None]


class Roster:
    """The versions that answer for a gate's leaves at one moment. Never changes: a query in flight goes on
    with the one that it began with."""

    def __init__(
        self,
        active: ActiveGate,
        heads: list[KnownHead | None],
        numbers: Numbers | None = None,
        known: dict[str, int] | None = None,
    ) -> None:
        """`numbers` int64 [L] are the same where versions compute the same, -1 without one; `known` are those
        of all versions that were met so far: it is only ever added to."""
        self._known = {} if known is None else known
        self._numbers = _numbered(heads, self._known) if numbers is None else numbers
        self.heads = heads
        self._version, self._leaves, self._index = active.version, active.value.leaves, active.leaf_index
        self._columns = None if active.analytic is None else active.analytic.has_columns
        self._there, self._shared = self._numbers >= 0, _shared(self._numbers)
        self._allowed: OrderedDict[tuple[frozenset[NodeId], Speaking], Allowed] = OrderedDict()

    def changed(self, active: ActiveGate, names: frozenset[str], known: KnownHeads) -> "Roster":
        """Return the roster of the same gate once the versions of these experts and owners are others."""
        rows = sorted({row for name in names for row in self._index.rows_of(name)})
        found = {row: known.answering(self._leaves[row]) for row in rows}
        found = {row: head for row, head in found.items() if head is not self.heads[row]}
        if not found:
            return self
        heads = self.heads.copy()
        for row, head in found.items():
            heads[row] = head
        if len(self._known) > 2 * len(heads) + KEPT:
            return Roster(active, heads)
        numbers = self._numbers.copy()
        numbers[[*found]] = _numbered([*found.values()], self._known)
        return Roster(active, heads, numbers, self._known)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The versions' digests, empty where a leaf has none."""
        return tuple("" if head is None else head.digest for head in self.heads)

    def allowed(self, owners: tuple[NodeId, ...], speaking: Speaking = "all") -> Allowed:
        """Return what may be asked: leaves with a version, of these owners (none named: of all), with columns
        where that is called for and the gate has sums.

        Raises NotFoundError for an owner without leaves.
        """
        key = frozenset(owners), speaking
        found = self._allowed.get(key)
        if found is None:
            leaves = self._of_owners(frozenset(owners))
            if speaking == "none":
                leaves = np.zeros_like(leaves)
            elif speaking == "with columns" and self._columns is not None:
                leaves = leaves & self._columns
            found = self._allowed[key] = Allowed(self.heads, leaves, self._numbers, self._shared)
            while len(self._allowed) > KEPT:
                self._allowed.popitem(last=False)
        self._allowed.move_to_end(key)
        return found

    def _of_owners(self, names: frozenset[NodeId]) -> Flags:
        strangers = sorted(names - self._index.by_owner.keys())
        if strangers:
            raise NotFoundError(
                f"owner {strangers[0][:60]}",
                found=f"no leaf in gate {self._version}",
                expected=f"some of {', '.join(self._index.owner_names[:_NAMED])}",
            )
        if not names:
            return self._there
        found = np.zeros(len(self.heads), dtype=bool)
        for name in names:
            rows = self._index.by_owner[name]
            found[rows] = self._there[rows]
        return found


class Rosters:
    """The rosters of the gates that queries are routed by, each as it is now. For one event loop."""

    def __init__(self, known: KnownHeads) -> None:
        self._known = known
        self._kept: WeakKeyDictionary[ActiveGate, tuple[int, Roster]] = WeakKeyDictionary()

    def of(self, active: ActiveGate) -> Roster:
        """Return a gate's roster: what has changed by now is in it."""
        mark, roster = self._kept.get(active, (-1, None))
        changes = self._known.changes
        if roster is not None and mark == changes.mark:
            return roster
        present, names = changes.mark, None if roster is None else changes.since(mark)
        if roster is None or names is None:
            roster = Roster(active, [self._known.answering(leaf) for leaf in active.value.leaves])
        else:
            roster = roster.changed(active, names, self._known)
        self._kept[active] = present, roster
        return roster


def _numbered(heads: Sequence[KnownHead | None], known: dict[str, int]) -> Numbers:
    """Return the number of each version's identity, new ones added to `known`; -1 where there is none."""
    return np.array(
        [-1 if head is None else known.setdefault(head.identity, len(known)) for head in heads],
        dtype=np.int64,
    )


def _shared(numbers: Numbers) -> Flags:
    found: Flags = np.bincount(numbers[numbers >= 0], minlength=1) > 1
    return found
