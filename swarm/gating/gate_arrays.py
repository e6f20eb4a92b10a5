"""The arrays of a gate statement of kind `analytic`: their names, and what each column of them stands for.

Every function raises ShapeMismatchError or InvalidInputError, by the array's name, for one that does not fit
its statement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.class_columns import ClassColumns
from swarm.gating.distances import Floats
from swarm.gating.tree import Place, Tree

WEIGHTS, BRANCH_WEIGHTS, CLASS_WEIGHTS = "weights", "branch_weights", "class_weights"
"""The names of W among a gate statement's arrays: the columns of leaves, those of branches, and those by
which classes are scored where that is not the sum of the leaves' columns."""
NODE_WEIGHTS = "node_weights"
"""The name of the columns by which leaves and branches are scored where classes have columns of their own:
the sums of W's over classes."""
CLASS_TARGETS = "class_targets"
"""The name of the rows that say which class each of the class weights is for."""
CLASS_OWNERS = "class_owners"
"""The name of the rows that say whose class that is, where the columns come twice (`ClassColumns`)."""
CLASS_REGIONS = "class_regions"
"""The name of the rows that say in which of the tree's regions it is that owner's."""
ROOT_ARRAYS = (
    WEIGHTS,
    NODE_WEIGHTS,
    CLASS_WEIGHTS,
    f"{CLASS_WEIGHTS}.scales",
    CLASS_TARGETS,
    CLASS_OWNERS,
)
"""The arrays by which the root answers, as far as a gate has them."""


class LeafColumns(Protocol):
    """What the gate needs to know of a leaf; `swarm.domain.gates.GateLeaf` has it."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def has_columns(self) -> bool: ...


class LearnedBranch(Place, Protocol):
    """A branch, and whether its gate is learned; `swarm.domain.gates.GateBranch` has it."""

    @property
    def is_learned(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The branches of a gate's statement: its tree, and which of its branches have a learned gate."""

    tree: Tree
    is_learned: tuple[bool, ...]

    @classmethod
    def of(cls, leaves: Sequence[Place], branches: Sequence[LearnedBranch]) -> "Placed":
        """Return those of a statement; InvalidInputError as `Tree.of`."""
        return cls(tree=Tree.of(leaves, branches), is_learned=tuple(each.is_learned for each in branches))


def node_classes(tree: Tree, leaves: Sequence[LeafColumns], node: int) -> tuple[str, ...]:
    """Return the classes that a node has columns for: a leaf's own, of a branch those of all its leaves,
    sorted."""
    if node < tree.leaves:
        return leaves[node].class_names if leaves[node].has_columns else ()
    found = {name for leaf in tree.leaves_of(node) for name in node_classes(tree, leaves, leaf)}
    return tuple(sorted(found))


def node_columns(
    arrays: Mapping[str, NDArray[np.generic]],
    weights: Floats,
    leaf_rows: NDArray[np.int64],
    leaves: Sequence[LeafColumns],
    placed: Placed,
) -> list[Floats]:
    """Return each node's columns of W, float32 [M, classes], or of their sum, [M, 1]."""
    tree = placed.tree
    if WEIGHTS not in arrays:
        there = [len(node_classes(tree, leaves, node)) > 0 for node in range(tree.nodes)]
        return np.split(arrays[NODE_WEIGHTS].astype(np.float32, copy=False), np.cumsum(there)[:-1], axis=1)
    widths = [len(node_classes(tree, leaves, node)) for node in range(tree.leaves, tree.nodes)]
    shape = (len(weights), sum(widths))
    if BRANCH_WEIGHTS not in arrays or arrays[BRANCH_WEIGHTS].shape != shape:
        found = arrays.get(BRANCH_WEIGHTS)
        raise ShapeMismatchError(
            f"gate {BRANCH_WEIGHTS}",
            found="none" if found is None else str(list(found.shape)),
            expected=f"float32 {list(shape)}",
        )
    if weights.ndim != 2 or weights.shape[1] != len(leaf_rows):
        raise ShapeMismatchError(
            "gate weights", found=f"{list(weights.shape)}", expected=f"[M, {len(leaf_rows)}]"
        )
    of_branches = arrays[BRANCH_WEIGHTS].astype(np.float32, copy=False)
    if not np.isfinite(weights).all() or not np.isfinite(of_branches).all():
        raise InvalidInputError("gate weights", found="a value that is not finite")
    cuts = np.cumsum(widths)[:-1]
    return [
        *(weights[:, leaf_rows == leaf] for leaf in range(tree.leaves)),
        *np.split(of_branches, cuts, axis=1),
    ]


def has_scores(arrays: Mapping[str, object]) -> bool:
    """Return whether these are arrays of a gate of kind `analytic`."""
    return WEIGHTS in arrays or NODE_WEIGHTS in arrays


def weights_of_leaves(
    arrays: Mapping[str, NDArray[np.generic]],
    columns: int,
    leaves: Sequence[LeafColumns],
    placed: Placed | None,
) -> Floats:
    """Return the columns of the leaves that have some, float32 [M, columns], of `node_weights`."""
    weights = np.ascontiguousarray(arrays[NODE_WEIGHTS], dtype=np.float32)
    wide = weights.shape[1] if weights.ndim == 2 else -1
    branches = wide - columns
    if placed is not None:
        inner = range(placed.tree.leaves, placed.tree.nodes)
        branches = sum(bool(node_classes(placed.tree, leaves, node)) for node in inner)
    if CLASS_WEIGHTS not in arrays or wide != columns + branches or branches < 0:
        raise ShapeMismatchError(
            f"gate {NODE_WEIGHTS}",
            found=f"{list(weights.shape)}" + ("" if CLASS_WEIGHTS in arrays else f" without {CLASS_WEIGHTS}"),
            expected=f"[M, {columns + max(branches, 0)}] beside {CLASS_WEIGHTS}",
        )
    if not np.isfinite(weights).all():
        raise InvalidInputError(f"gate {NODE_WEIGHTS}", found="a value that is not finite")
    return weights[:, :columns]


def regions_in(arrays: Mapping[str, NDArray[np.generic]], needed: bool) -> NDArray[np.int64] | None:
    if CLASS_WEIGHTS not in arrays or (found := arrays.get(CLASS_REGIONS)) is None:
        if needed:
            raise ShapeMismatchError(f"gate {CLASS_REGIONS}", found="none", expected="int64 [K]")
        return None
    if found.dtype != np.int64 or found.ndim != 1:
        raise ShapeMismatchError(
            f"gate {CLASS_REGIONS}", found=f"{found.dtype} {list(found.shape)}", expected="int64 [K]"
        )
    return np.ascontiguousarray(found)


def scales_of(name: str) -> str:
    """Return the name of the array that says what each column of another one is times."""
    return f"{name}.scales"


def class_columns_in(arrays: Mapping[str, NDArray[np.generic]], name: str, classes: int) -> ClassColumns:
    """Return the columns float [M, K] of that name, for the classes that `class_targets` int64 [K] say, times
    their scales float32 [K], if they have some (`scales_of`).

    With `class_owners` int64 [K] they are [M, 2K] (`ClassColumns`). Without `class_targets` there is one
    column for each class. Raises ShapeMismatchError and
    InvalidInputError, by name, for arrays that do not fit each other or the number of classes.
    """
    weights = np.ascontiguousarray(arrays[name], dtype=np.float32)
    if (scales := arrays.get(scales_of(name))) is not None:
        if weights.ndim != 2 or scales.shape != weights.shape[1:]:
            raise ShapeMismatchError(
                f"gate {scales_of(name)}",
                found=str(list(scales.shape)),
                expected=f"one for each column of {list(weights.shape)}",
            )
        weights = weights * scales.astype(np.float32, copy=False)
    rows = np.asarray(arrays.get(CLASS_TARGETS, np.arange(classes)))
    owners = arrays.get(CLASS_OWNERS) if CLASS_TARGETS in arrays else None
    for subject, found in ((CLASS_TARGETS, rows), (CLASS_OWNERS, owners)):
        if found is not None and (found.dtype != np.int64 or found.ndim != 1):
            raise ShapeMismatchError(
                f"gate {subject}", found=f"{found.dtype} {list(found.shape)}", expected="int64 [K]"
            )
    if weights.ndim != 2 or weights.shape[1] != len(rows) * (1 if owners is None else 2):
        raise ShapeMismatchError(
            f"gate {name}",
            found=f"{list(weights.shape)} for {len(rows)} {CLASS_TARGETS}",
            expected=f"[M, K] for K {CLASS_TARGETS}, [M, 2K] with {CLASS_OWNERS}, or [M, {classes}] without",
        )
    if not np.isfinite(weights).all():
        raise InvalidInputError(f"gate {name}", found="a value that is not finite")
    return ClassColumns(
        weights=weights,
        rows=np.ascontiguousarray(rows),
        classes=classes,
        owners=None if owners is None else np.ascontiguousarray(owners),
    )


def target_rows(
    leaves: Sequence[LeafColumns], class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each target, int64 [T] each, the row of its leaf and the row of its class."""
    pairs = [(row, name) for row, leaf in enumerate(leaves) if leaf.has_columns for name in leaf.class_names]
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    return rows, class_rows_of([name for _, name in pairs], class_names)


def class_rows_of(names: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    column = {name: row for row, name in enumerate(class_names)}
    unknown = next((name for name in names if name not in column), None)
    if unknown is not None:
        raise InvalidInputError(
            "leaf's class names", found=f"unknown class {unknown!r}", expected="names of the gate's classes"
        )
    return np.array([column[name] for name in names], dtype=np.int64)
