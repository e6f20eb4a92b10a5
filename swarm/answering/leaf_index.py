"""Where a gate's leaves stand by owner and by expert: made once for each version, for all queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swarm.domain.gates import GateLeaf
from swarm.domain.ids import ExpertId, NodeId
from swarm.gating.tree import Tree


@dataclass(frozen=True, kw_only=True, eq=False)
class LeafIndex:
    """The rows of a gate's leaves, rising, and which owners have a leaf with columns. `owner_names` are the
    owners, rising; `tree` is where the analytic gate's leaves stand."""

    leaves: Sequence[GateLeaf]
    tree: Tree
    owner_names: tuple[NodeId, ...]
    by_owner: Mapping[NodeId, NDArray[np.int64]]
    by_expert: Mapping[ExpertId, Sequence[int]]
    with_columns: frozenset[NodeId]

    @classmethod
    def of(cls, leaves: Sequence[GateLeaf], tree: Tree) -> Self:
        """Return the index; takes a while for very many leaves."""
        by_owner: dict[NodeId, list[int]] = {}
        by_expert: dict[ExpertId, list[int]] = {}
        for row, leaf in enumerate(leaves):
            by_owner.setdefault(leaf.owner, []).append(row)
            by_expert.setdefault(leaf.expert, []).append(row)
        return cls(
            leaves=leaves,
            tree=tree,
            owner_names=tuple(sorted(by_owner)),
            by_owner={owner: np.array(rows, dtype=np.int64) for owner, rows in by_owner.items()},
            by_expert=by_expert,
            with_columns=frozenset(leaf.owner for leaf in leaves if leaf.has_columns),
        )

    @cached_property
    def region_owners(self) -> NDArray[np.int64]:
        """Whose each of the tree's regions is, int64 [R]: places among `owner_names`."""
        place = {name: number for number, name in enumerate(self.owner_names)}
        first = (self.tree.leaves_of(node)[0] for node in self.tree.regions)
        return np.array([place[self.leaves[leaf].owner] for leaf in first], dtype=np.int64)

    def rows_of(self, name: str) -> Sequence[int]:
        """Return the rows of the leaves of an expert, or of an owner."""
        of_owner = self.by_owner.get(NodeId(name))
        return self.by_expert.get(ExpertId(name), ()) if of_owner is None else of_owner.tolist()
