"""The gate of kind `analytic`: one linear map with a target for each leaf and class.

Summed over leaves its scores classify (the root), unless the gate has columns of its own for that; summed
over a leaf's classes they weigh leaves. Source:
analytic continual and federated learning (ACIL, Zhuang et al. 2022; AFL, He et al. 2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.branches import ScoredBranches, splits_of
from swarm.gating.class_columns import ClassColumns
from swarm.gating.distances import Floats
from swarm.gating.gate_arrays import (
    CLASS_REGIONS,
    CLASS_TARGETS,
    CLASS_WEIGHTS,
    WEIGHTS,
    LeafColumns,
    Placed,
    class_columns_in,
    class_rows_of,
    has_scores,
    node_classes,
    node_columns,
    regions_in,
    target_rows,
    weights_of_leaves,
)
from swarm.gating.regions import region_columns
from swarm.gating.sums import constant_of, quantised
from swarm.gating.tree import Tree, softmax_shares

_PICKED = 1_000
"""Up to so many sums come by a product; beyond, its matrix would be larger than the gate's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalyticGate:
    """W, weights float32 [M, T], for features in fixed point, and what each of the T targets stands for.

    leaf_rows and class_rows int64 [T], below `leaves` and `classes`; not every leaf has targets. With
    `branches` the targets are those of regions, and leaf_rows places in the tree's regions: what was a leaf's
    target is the branch's, to the bit. `by_class` scores classes (`discriminants`); None: the sum over the
    leaves does. With it a target may be a region's whole, the sum over its classes: class_rows is then empty,
    and `class_regions` int64 [K] says in which region each of by_class's targets is.
    """

    weights: Floats
    leaf_rows: NDArray[np.int64]
    class_rows: NDArray[np.int64]
    leaves: int
    classes: int
    fixed_point: float
    has_constant: bool
    branches: ScoredBranches | None = None
    by_class: ClassColumns | None = None
    class_regions: NDArray[np.int64] | None = None
    has_columns: NDArray[np.bool_] = field(init=False)
    """Which leaves can be chosen by scores, bool [L]."""
    _reached: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        constant_of(self.fixed_point)
        targets = self.weights.shape[1] if self.weights.ndim == 2 else 0
        classed = (targets,) if self.by_class is None or len(self.class_rows) else (0,)
        if targets < 1 or self.leaf_rows.shape != (targets,) or self.class_rows.shape != classed:
            raise ShapeMismatchError(
                "gate weights",
                found=f"{list(self.weights.shape)}",
                expected=f"[M, {len(self.leaf_rows)}], at least one target",
            )
        if not np.isfinite(self.weights).all():
            raise InvalidInputError("gate weights", found="a value that is not finite")
        if self.by_class is not None and (
            len(self.by_class.weights) != len(self.weights) or self.by_class.classes != self.classes
        ):
            raise ShapeMismatchError(
                f"gate {CLASS_WEIGHTS}",
                found=f"{len(self.by_class.weights)} features, {self.by_class.classes} classes",
                expected=f"{len(self.weights)} features, {self.classes} classes",
            )
        if self.class_regions is not None and (
            self.by_class is None or self.class_regions.shape != self.by_class.rows.shape
        ):
            raise ShapeMismatchError(
                f"gate {CLASS_REGIONS}",
                found=str(list(self.class_regions.shape)),
                expected=f"one for each of {CLASS_TARGETS}",
            )
        for subject, rows, limit in (
            ("leaf rows", self.leaf_rows, len(self.tree.regions)),
            ("class rows", self.class_rows, self.classes),
            ("class regions", self.class_regions, len(self.tree.regions)),
        ):
            if rows is not None and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < limit:
                raise InvalidInputError(
                    f"gate {subject}", found="a row out of range", expected=f"0..{limit - 1}"
                )
        known = np.zeros(len(self.tree.regions), dtype=bool)
        known[self.leaf_rows] = True
        object.__setattr__(self, "_reached", known)
        object.__setattr__(self, "has_columns", known[list(self.tree.region_of)])

    @classmethod
    def from_statement_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        leaves: Sequence[LeafColumns],
        class_names: Sequence[str],
        fixed_point: float,
        has_constant: bool,
        placed: Placed | None = None,
    ) -> "AnalyticGate":
        """Return the gate of a statement's `weights` [M, T]: leaves in their order, their classes in theirs.
        Without them, of its `node_weights` [M, N]: leaves with columns, then branches with columns.

        `placed`: its branches; None: it has none, or they do not matter (class scores are the sum over all
        leaves). Raises ShapeMismatchError where an array is missing or misshapen, InvalidInputError for a
        class of a leaf that class_names lack.
        """
        if not has_scores(arrays):
            raise ShapeMismatchError("gate arrays", found="no weights", expected="weights float32 [M, T]")
        leaf_rows, class_rows = target_rows(leaves, class_names)
        if is_by_node := WEIGHTS not in arrays:
            leaf_rows, class_rows = np.unique(leaf_rows), class_rows[:0]
            weights = weights_of_leaves(arrays, len(leaf_rows), leaves, placed)
        else:
            weights = np.ascontiguousarray(arrays[WEIGHTS], dtype=np.float32)
        inner = None
        if placed is not None and placed.tree.children:
            nodes = node_columns(arrays, weights, leaf_rows, leaves, placed)
            splits = splits_of(arrays, placed.is_learned)
            size = int(weights.shape[0]) - (not has_constant)
            inner = ScoredBranches(
                tree=placed.tree,
                weights=tuple(
                    np.stack(
                        [nodes[child].sum(axis=1, dtype=np.float64) for child in children], axis=1
                    ).astype(np.float32)
                    for children in placed.tree.children
                ),
                splits=splits,
                columns=region_columns(size),
            )
            tops = [nodes[node] for node in placed.tree.regions]
            names = [name for node in placed.tree.regions for name in node_classes(placed.tree, leaves, node)]
            weights = np.ascontiguousarray(np.concatenate(tops, axis=1))
            leaf_rows = np.repeat(np.arange(len(tops)), [top.shape[1] for top in tops]).astype(np.int64)
            class_rows = class_rows if is_by_node else class_rows_of(names, class_names)
        return cls(
            weights=weights,
            leaf_rows=leaf_rows,
            class_rows=class_rows,
            leaves=len(leaves),
            classes=len(class_names),
            fixed_point=fixed_point,
            has_constant=has_constant,
            branches=inner,
            by_class=class_columns_in(arrays, CLASS_WEIGHTS, len(class_names))
            if CLASS_WEIGHTS in arrays
            else None,
            class_regions=regions_in(arrays, needed=is_by_node) if placed is not None else None,
        )

    @property
    def class_columns(self) -> ClassColumns:
        """The columns by which classes are scored."""
        if self.by_class is not None:
            return self.by_class
        return ClassColumns.summing(self.weights, self.class_rows, self.classes)

    @property
    def tree(self) -> Tree:
        """Where the leaves stand."""
        return Tree.flat(self.leaves) if self.branches is None else self.branches.tree

    @property
    def feature_size(self) -> int:
        """D, the number of the trunk's features."""
        return int(self.weights.shape[0]) - (not self.has_constant)

    @property
    def flops_per_query(self) -> int:
        """Fixed point, all scores, their sums per leaf and class, and the softmax over leaves."""
        size, targets = self.weights.shape
        below = 0 if self.branches is None else self.branches.flops_per_query
        below += 0 if self.by_class is None else self.by_class.flops_per_query
        return int(2 * size * targets + 2 * size + 2 * targets + 8 * len(self.tree.regions) + below)

    def scores(self, features: NDArray[np.generic]) -> Floats:
        """Return the scores of all targets, float32 [B, T], after them what branches score, [B, T + S], and
        after those what columns for classes score, [B, T + S + K] or [B, T + S + 2K].

        features float32 [B, D] of the gate's trunk. Raises ShapeMismatchError if D differs,
        InvalidInputError where features are not finite.
        """
        points = in_fixed_point(features, self.feature_size, self.fixed_point, self.has_constant)
        found: Floats = points @ self.weights
        if self.branches is None and self.by_class is None:
            return found
        parts = [found]
        if self.branches is not None:
            parts.append(self.branches.scores(points, features))
        if self.by_class is not None:
            parts.append(points @ self.by_class.weights)
        return np.concatenate(parts, axis=1)

    def class_scores(self, scores: Floats) -> Floats:
        """Return a, float32 [B, C]: each class's scores summed over regions, or the best of its own columns;
        0 for a class without targets."""
        if self.by_class is not None:
            return self.by_class.of_columns(scores[:, -self.by_class.weights.shape[1] :])
        return _summed(self._of_targets(scores), self.class_rows, self.classes)

    def region_scores(self, scores: Floats) -> Floats:
        """Return o, float32 [B, R]: each region's scores summed over classes; -inf where it has no targets.

        Without branches the regions are the leaves.
        """
        sums = _summed(self._of_targets(scores), self.leaf_rows, len(self.tree.regions))
        sums[:, ~self._reached] = -np.inf
        return sums

    def leaf_weights(self, scores: Floats, temperature: float) -> NDArray[np.floating]:
        """Return each leaf's weight, [B, L]: rows sum to 1, 0 for a leaf without targets.

        A region's is softmax(o / temperature), float32; where there are branches, float64: leaves add up to
        their region's weight to the bit (`Tree.leaf_weights`).
        """
        if not (np.isfinite(temperature) and temperature > 0):
            raise InvalidInputError("temperature", found=str(temperature), expected="a positive number")
        regions: Floats = softmax_shares(self.region_scores(scores), temperature).astype(np.float32)
        if self.branches is None:
            return regions
        beside = 0 if self.by_class is None else self.by_class.weights.shape[1]
        below = scores[:, self.weights.shape[1] : scores.shape[1] - beside]
        return self.tree.leaf_weights(regions, self.branches.shares(below, temperature))

    def region_shares(self, scores: Floats, answered: NDArray[np.integer]) -> Floats:
        """Return how much of each row's score for one class comes from each region, float32 [B, R].

        scores [B, T], answered int64 [B] are classes. What speaks against the class counts for nothing; rows
        sum to 1, or are 0 where nothing speaks for it. Where the best of several targets is a class's score,
        all of it is from that one's region.
        """
        if self.by_class is not None and self.class_regions is not None:
            beside = scores[:, -self.by_class.weights.shape[1] :]
            best = self.by_class.best_target(beside, np.asarray(answered))
            rows = np.flatnonzero(best >= 0)
            found = np.zeros((len(scores), len(self.tree.regions)), dtype=np.float32)
            found[rows, self.class_regions[best[rows]]] = 1
            return found
        own = self.class_rows[None, :] == np.asarray(answered)[:, None]
        speaking = np.where(own, np.maximum(self._of_targets(scores), 0), 0)
        found = _summed(speaking, self.leaf_rows, len(self.tree.regions))
        total = found.sum(axis=1, keepdims=True)
        shares: Floats = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return shares

    def speaking_regions(self, point: Floats, answered: int) -> tuple[NDArray[np.int64], Floats]:
        """Return one row of `region_shares` without its zeros: the regions, int64 [n], and their shares [n];
        point float32 [M] are the features in fixed point. Only the columns of that class are looked at."""
        if self.by_class is not None and self.class_regions is not None:
            best = self.by_class.best_target(point[None] @ self.by_class.weights, np.array([answered]))
            regions = self.class_regions[best[best >= 0]]
            return regions, np.ones(len(regions), dtype=np.float32)
        own = np.flatnonzero(self.class_rows == answered)
        speaking = np.maximum(point @ self.weights[:, own], 0)
        regions, places = np.unique(self.leaf_rows[own], return_inverse=True)
        sums = np.bincount(places, speaking, len(regions))
        kept = sums > 0
        return regions[kept], (sums[kept] / max(float(sums.sum()), 1e-300)).astype(np.float32)

    def _of_targets(self, scores: Floats) -> Floats:
        # A copy, so that the products over it have the bits that they had without branches.
        return np.ascontiguousarray(scores[:, : self.weights.shape[1]])


def in_fixed_point(
    features: NDArray[np.generic], size: int, fixed_point: float, has_constant: bool
) -> Floats:
    """Return features [B, size] in fixed point as float32 [B, M]; ShapeMismatchError if their number
    differs."""
    if np.ndim(features) != 2 or np.shape(features)[1] != size:
        raise ShapeMismatchError(
            "query features", found=str(list(np.shape(features))), expected=f"[B, {size}]"
        )
    return quantised(features, fixed_point, has_constant).astype(np.float32)


def _summed(scores: Floats, rows: NDArray[np.int64], count: int) -> Floats:
    if count > _PICKED:
        order = np.argsort(rows, kind="stable")
        known, starts = np.unique(rows[order], return_index=True)
        found: Floats = np.zeros((len(scores), count), dtype=np.float32)
        found[:, known] = np.add.reduceat(scores[:, order], starts, axis=1)
        return found
    pick = np.zeros((len(rows), count), dtype=np.float32)
    pick[np.arange(len(rows)), rows] = 1
    sums: Floats = np.asarray(scores, dtype=np.float32) @ pick
    return sums
