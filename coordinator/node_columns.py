"""The columns of W for every node of a gate's tree.

Regions are solved together, in the order in which they would be leaves, from columns that are sums of
integers: a leaf's target keeps its bits when the leaf is split. The children of each branch are solved by
themselves, so a split further down changes no bit of theirs either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.contribution_arrays import CheckedContribution
from swarm.domain.errors import ShapeMismatchError
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import NodeId
from swarm.gating.discriminants import are_unbalanced, class_samples
from swarm.gating.gate_arrays import node_classes, target_rows
from swarm.gating.owner_discriminants import ByClass, solve_by_class
from swarm.gating.ridge import OwnerSums, solve_with, weight_by_owner
from swarm.gating.tree import Tree

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """`weights` float32 [R, M, T] as a gate's statement has them, `branch_weights` float32 [R, M, Tb]
    likewise (None without branches), and `roots` float64 [R, M, C], the regions' columns summed by class.

    `by_class` scores the classes instead where these differ much in their samples, `class_regions` int64 [K]
    are the places of its targets among the tree's regions; None elsewhere."""

    weights: NDArray[np.float32]
    branch_weights: NDArray[np.float32] | None
    roots: Doubles
    by_class: ByClass | None = None
    class_regions: Integers | None = None


def solve_nodes(
    contributions: Sequence[CheckedContribution],
    leaves: Sequence[GateLeaf],
    tree: Tree,
    class_names: Sequence[str],
    ridges: Sequence[float],
    fixed_point: float,
) -> Solved:
    """Return W for all leaves and branches with columns. Raises as `ridge.solve`, and ShapeMismatchError
    where columns do not belong to the leaves' classes."""
    target_rows(leaves, class_names)  # refuses a class by name that the gate lacks
    nodes = _Nodes(contributions, leaves, tree)
    owner_of_region = [leaves[tree.leaves_of(node)[0]].owner for node in tree.regions]
    with_columns = {leaf.owner for leaf in leaves if leaf.has_columns}
    owners: list[OwnerSums] = []
    solved_nodes: list[int] = []
    for each in contributions:
        if each.contribution.owner not in with_columns or each.sums is None:
            continue
        own = [
            node
            for node, owner in zip(tree.regions, owner_of_region, strict=True)
            if owner == each.contribution.owner
        ]
        columns = np.concatenate([nodes.columns(node) for node in own], axis=1)
        owners.append(replace(each.sums, columns=columns))
        solved_nodes += own
    below = [
        (leaves[tree.leaves_of(children[0])[0]].owner, children)
        for children in tree.children
        if leaves[tree.leaves_of(children[0])[0]].has_columns
    ]
    further = [
        (owner, np.concatenate([nodes.columns(child) for child in children], axis=1))
        for owner, children in below
    ]
    weights, blocks = solve_with(owners, ridges, fixed_point, further)
    of_node = _cut(nodes, solved_nodes, weights)
    roots = _by_class(of_node, nodes, class_names)
    for (_, children), block in zip(below, blocks, strict=True):
        of_node |= _cut(nodes, children, block)
    of_leaves = [of_node[node] for node in range(tree.leaves) if node in of_node]
    of_branches = [of_node[node] for node in range(tree.leaves, tree.nodes) if node in of_node]
    size = weights.shape[:2]
    by_class = _by_class_of(owners, nodes, solved_nodes, ridges, fixed_point, roots, class_names)
    return Solved(
        weights=np.concatenate(of_leaves, axis=2).astype(np.float32),
        branch_weights=np.concatenate([*of_branches, np.empty((*size, 0))], axis=2).astype(np.float32)
        if tree.children
        else None,
        roots=roots,
        by_class=by_class,
        class_regions=None if by_class is None else _regions(nodes, tree, solved_nodes)[by_class.places],
    )


def _by_class_of(
    owners: Sequence[OwnerSums],
    nodes: "_Nodes",
    regions: Sequence[int],
    ridges: Sequence[float],
    fixed_point: float,
    roots: Doubles,
    class_names: Sequence[str],
) -> ByClass | None:
    """Return a discriminant for each class in each region; None where the classes are not unbalanced."""
    row_of = {name: row for row, name in enumerate(class_names)}
    place_of = {each.owner: place for place, each in enumerate(owners)}
    targets = [(nodes.owner(node), name) for node in regions for name in nodes.classes(node)]
    classes = np.array([row_of[name] for _, name in targets], dtype=np.int64)
    owner_of = np.array([place_of[owner] for owner, _ in targets], dtype=np.int64)
    columns = np.concatenate([nodes.columns(node) for node in regions], axis=1)
    weight_of = weight_by_owner(owners)
    weights = np.array([weight_of[owner] for owner, _ in targets])
    samples = np.maximum(weights * class_samples(columns, fixed_point), 0)
    of_class: Doubles = np.bincount(classes, weights=samples).astype(np.float64)
    if not are_unbalanced(of_class[of_class > 0]):
        return None
    return solve_by_class(owners, columns, classes, owner_of, ridges, fixed_point, roots)


def _regions(nodes: "_Nodes", tree: Tree, solved: Sequence[int]) -> Integers:
    """Return the place among the tree's regions of each target of these, int64 [T]."""
    place_of = {node: place for place, node in enumerate(tree.regions)}
    return np.array([place_of[node] for node in solved for _ in nodes.classes(node)], dtype=np.int64)


class _Nodes:
    """The integer columns and classes of a tree's nodes: a branch has the sums of its leaves' by class."""

    def __init__(
        self, contributions: Sequence[CheckedContribution], leaves: Sequence[GateLeaf], tree: Tree
    ) -> None:
        self._of_owner: dict[NodeId, CheckedContribution] = {
            each.contribution.owner: each for each in contributions
        }
        self._leaves, self._tree = leaves, tree

    def owner(self, node: int) -> NodeId:
        return self._leaves[self._tree.leaves_of(node)[0]].owner

    def classes(self, node: int) -> tuple[str, ...]:
        return node_classes(self._tree, self._leaves, node)

    def columns(self, node: int) -> Integers:
        """Return int64 [M, classes], classes sorted."""
        if node < self._tree.leaves:
            leaf = self._leaves[node]
            found = self._of_owner[leaf.owner].columns_of(leaf.leaf)
            if found.shape[1] != len(leaf.class_names):
                raise ShapeMismatchError(
                    f"columns of leaf {leaf.leaf}",
                    found=f"{found.shape[1]} columns",
                    expected=f"{len(leaf.class_names)} targets",
                )
            return found
        names = self.classes(node)
        total: Integers | None = None
        for leaf_row in self._tree.leaves_of(node):
            part = self.columns(leaf_row)
            if total is None:
                total = np.zeros((len(part), len(names)), dtype=np.int64)
            for column, name in enumerate(self.classes(leaf_row)):
                total[:, names.index(name)] += part[:, column]
        assert total is not None, "a branch has leaves"
        return total


def _cut(nodes: _Nodes, order: Sequence[int], weights: Doubles) -> dict[int, Doubles]:
    widths = [len(nodes.classes(node)) for node in order]
    if sum(widths) != weights.shape[2]:
        raise ShapeMismatchError(
            "gate weights", found=f"{weights.shape[2]} columns", expected=f"{sum(widths)} targets"
        )
    return dict(zip(order, np.split(weights, np.cumsum(widths)[:-1], axis=2), strict=True))


def _by_class(of_node: dict[int, Doubles], nodes: _Nodes, class_names: Sequence[str]) -> Doubles:
    first = next(iter(of_node.values()))
    row_of = {name: row for row, name in enumerate(class_names)}
    roots = np.zeros((*first.shape[:2], len(class_names)))
    for node, weights in of_node.items():
        for column, name in enumerate(nodes.classes(node)):
            roots[:, :, row_of[name]] += weights[:, :, column]
    return roots
