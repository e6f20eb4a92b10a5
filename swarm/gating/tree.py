"""The tree of a gate: regions at the top, and under those that were split the children that share them.

A node is a leaf, by its row, or a branch, by the number of leaves plus its own row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import LeafId, number_of, owner_of

MAX_DEPTH = 8
"""So many branches may lie above a leaf."""
UNITS = 1 << 28
"""A region's weight is given to its leaves in so many whole parts: times a float32 that is exact in float64,
so that the weights of a branch's leaves add up to the branch's weight to the bit, in any order."""
Doubles = NDArray[np.float64]


class Place(Protocol):
    """Where a leaf or a branch stands; the statements' leaves and branches have it."""

    @property
    def leaf(self) -> LeafId: ...
    @property
    def parent(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`parents[node]` is the branch that a node is a child of, as a node, -1 at the top.

    `regions` are the nodes at the top; `children[row]` those of a branch in the order of leaf numbers.
    Regions come as their leaves would: by owner, then number; a gate without branches has them in its leaves'
    order.
    """

    leaves: int
    parents: tuple[int, ...]
    regions: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]
    region_of: tuple[int, ...] = field(init=False)
    """For each leaf the place of its region among `regions`."""
    _downward: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        of_node = {node: place for place, node in enumerate(self.regions)}
        downward = [node - self.leaves for node in self.regions if node >= self.leaves]
        for row in downward:
            for child in self.children[row]:
                of_node[child] = of_node[self.leaves + row]
                if child >= self.leaves:
                    downward.append(child - self.leaves)
        object.__setattr__(self, "region_of", tuple(of_node[leaf] for leaf in range(self.leaves)))
        object.__setattr__(self, "_downward", tuple(downward))

    @staticmethod
    def flat(leaves: int) -> "Tree":
        """Return the tree of a gate without branches: every leaf is a region. Every query asks for it."""
        return _flat(leaves)

    @classmethod
    def of(cls, leaves: Sequence[Place], branches: Sequence[Place]) -> "Tree":
        """Return the tree of these leaves and branches.

        Raises InvalidInputError, naming the leaf, for an unknown parent, one of another owner, a name that
        stands twice, a branch without children, a cycle, and more than MAX_DEPTH branches above each other.
        """
        if not branches and not any(leaf.parent for leaf in leaves):
            return cls.flat(len(leaves))
        places = [*leaves, *branches]
        node_of = {place.leaf: len(leaves) + row for row, place in enumerate(branches)}
        _refuse_doubles(places)
        parents = [_parent(place, node_of) for place in places]
        children: list[list[int]] = [[] for _ in branches]
        for node in sorted(range(len(places)), key=lambda node: number_of(places[node].leaf)):
            if parents[node] >= 0:
                children[parents[node] - len(leaves)].append(node)
        childless = next((row for row, found in enumerate(children) if not found), None)
        if childless is not None:
            raise InvalidInputError(
                f"branch {branches[childless].leaf[:60]}", found="no children", expected="at least one"
            )
        for node, place in enumerate(places):
            _check_depth(node, place, parents)
        top = [node for node, parent in enumerate(parents) if parent < 0]
        top.sort(key=lambda node: (owner_of(places[node].leaf), number_of(places[node].leaf)))
        return cls(
            leaves=len(leaves),
            parents=tuple(parents),
            regions=tuple(top),
            children=tuple(map(tuple, children)),
        )

    @property
    def nodes(self) -> int:
        return len(self.parents)

    def leaves_of(self, node: int) -> tuple[int, ...]:
        """Return the leaves under a node, rising; a leaf's is itself."""
        if node < self.leaves:
            return (node,)
        return tuple(
            sorted(leaf for child in self.children[node - self.leaves] for leaf in self.leaves_of(child))
        )

    def leaf_weights(self, regions: NDArray[np.float32], shares: Sequence[Doubles]) -> Doubles:
        """Return each leaf's weight, float64 [B, L]: its region's, times its share at each branch above it.

        regions float32 [B, R]; shares[row] [B, children], rows sum to 1, for each branch. Leaves of a branch
        add up to its weight to the bit; a share below 2^-28 of the region comes to 0.
        """
        batch = len(regions)
        if regions.shape != (batch, len(self.regions)) or len(shares) != len(self.children):
            raise ShapeMismatchError(
                "region weights",
                found=f"{list(regions.shape)} and shares of {len(shares)} branches",
                expected=f"[B, {len(self.regions)}] and {len(self.children)}",
            )
        rows = np.arange(batch)
        units = {node: np.full(batch, UNITS, dtype=np.int64) for node in self.regions}
        for row in self._downward:
            whole, given = units[self.leaves + row], shares[row]
            parts = np.floor(whole[:, None] * given).astype(np.int64)
            parts[rows, given.argmax(axis=1)] += whole - parts.sum(axis=1)
            for column, child in enumerate(self.children[row]):
                units[child] = parts[:, column]
        found = np.empty((batch, self.leaves))
        for leaf, place in enumerate(self.region_of):
            found[:, leaf] = regions[:, place].astype(np.float64) * units[leaf] / UNITS
        return found

    def units_below(self, node: int, share_of: Callable[[int], Doubles]) -> dict[int, int]:
        """Return how many of a region's UNITS each leaf below a node has in one row, as `leaf_weights` gives
        them; share_of(row) [children] says what a branch gives its children."""
        found: dict[int, int] = {}
        below = [(node, UNITS)]
        while below:
            node, whole = below.pop()
            if node < self.leaves:
                found[node] = whole
                continue
            given = share_of(node - self.leaves)
            parts = np.floor(whole * given).astype(np.int64)
            parts[given.argmax()] += whole - parts.sum()
            below += zip(self.children[node - self.leaves], parts.tolist(), strict=True)
        return found


@lru_cache(maxsize=8)
def _flat(leaves: int) -> Tree:
    return Tree(leaves=leaves, parents=(-1,) * leaves, regions=tuple(range(leaves)), children=())


def softmax_shares(scores: NDArray[np.floating], temperature: float) -> Doubles:
    """Return softmax(scores / temperature), float64, along the rows of [B, n]; -inf gets nothing."""
    logits = scores.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        shares = np.exp(logits / temperature)
    found: Doubles = shares / shares.sum(axis=1, keepdims=True)
    return found


def logistic_shares(logits: NDArray[np.floating]) -> Doubles:
    """Return (g, 1 - g), float64 [B, 2], g being the logistic of the logits [B]."""
    first = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return np.stack([first, 1 - first], axis=1)


def _parent(place: Place, node_of: dict[LeafId, int]) -> int:
    if not place.parent:
        return -1
    parent = LeafId(place.parent)
    if parent not in node_of:
        raise InvalidInputError(
            f"leaf {place.leaf[:60]}",
            found=f"unknown parent {parent[:60]!r}",
            expected="one of the branches, or none",
        )
    if owner_of(parent) != owner_of(place.leaf):
        raise InvalidInputError(
            f"leaf {place.leaf[:60]}", found=f"parent {parent[:60]} of another owner", expected="one owner"
        )
    return node_of[parent]


def _check_depth(node: int, place: Place, parents: Sequence[int]) -> None:
    above, depth = parents[node], 0
    while above >= 0:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidInputError(
                f"leaf {place.leaf[:60]}",
                found=f"more than {MAX_DEPTH} branches above it, or a cycle",
                expected=f"at most {MAX_DEPTH}",
                remedy="merge or remove leaves below it first",
            )
        above = parents[above]


def _refuse_doubles(places: Sequence[Place]) -> None:
    seen: set[str] = set()
    for place in places:
        if place.leaf in seen:
            raise InvalidInputError(
                f"leaf {place.leaf[:60]}", found="it stands twice", expected="one leaf or one branch"
            )
        seen.add(place.leaf)
