"""The gate of kind `analytic`: one linear map with a target for each leaf and class.

Summed over leaves its scores classify (the root); summed over a leaf's classes they weigh leaves. Source:
analytic continual and federated learning (ACIL, Zhuang et al. 2022; AFL, He et al. 2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.distances import Floats
from swarm.gating.sums import constant_of, quantised

WEIGHTS = "weights"
"""The name of W among a gate statement's arrays."""


class LeafColumns(Protocol):
    """What the gate needs to know of a leaf; `swarm.domain.manifests.GateLeaf` has it."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def has_columns(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalyticGate:
    """W, weights float32 [M, T], for features in fixed point, and what each of the T targets stands for.

    leaf_rows and class_rows int64 [T], below `leaves` and `classes`; not every leaf has targets.
    """

    weights: Floats
    leaf_rows: NDArray[np.int64]
    class_rows: NDArray[np.int64]
    leaves: int
    classes: int
    fixed_point: float
    has_constant: bool
    has_columns: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        constant_of(self.fixed_point)
        targets = self.weights.shape[1] if self.weights.ndim == 2 else 0
        if targets < 1 or self.leaf_rows.shape != (targets,) or self.class_rows.shape != (targets,):
            raise ShapeMismatchError(
                "gate weights",
                found=f"{list(self.weights.shape)}",
                expected=f"[M, {len(self.leaf_rows)}], at least one target",
            )
        if not np.isfinite(self.weights).all():
            raise InvalidInputError("gate weights", found="a value that is not finite")
        for subject, rows, limit in (
            ("leaf rows", self.leaf_rows, self.leaves),
            ("class rows", self.class_rows, self.classes),
        ):
            if not 0 <= int(rows.min()) <= int(rows.max()) < limit:
                raise InvalidInputError(
                    f"gate {subject}", found="a row out of range", expected=f"0..{limit - 1}"
                )
        known = np.zeros(self.leaves, dtype=bool)
        known[self.leaf_rows] = True
        object.__setattr__(self, "has_columns", known)

    @classmethod
    def from_statement_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        leaves: Sequence[LeafColumns],
        class_names: Sequence[str],
        fixed_point: float,
        has_constant: bool,
    ) -> "AnalyticGate":
        """Return the gate of a statement's `weights` [M, T]: leaves in their order, their classes in theirs.

        Raises ShapeMismatchError where the array is missing or misshapen, InvalidInputError for a class of a
        leaf that class_names lack.
        """
        if WEIGHTS not in arrays:
            raise ShapeMismatchError("gate arrays", found="no weights", expected="weights float32 [M, T]")
        leaf_rows, class_rows = target_rows(leaves, class_names)
        return cls(
            weights=np.ascontiguousarray(arrays[WEIGHTS], dtype=np.float32),
            leaf_rows=leaf_rows,
            class_rows=class_rows,
            leaves=len(leaves),
            classes=len(class_names),
            fixed_point=fixed_point,
            has_constant=has_constant,
        )

    @property
    def feature_size(self) -> int:
        """D, the number of the trunk's features."""
        return int(self.weights.shape[0]) - (not self.has_constant)

    @property
    def flops_per_query(self) -> int:
        """Fixed point, all scores, their sums per leaf and class, and the softmax over leaves."""
        size, targets = self.weights.shape
        return int(2 * size * targets + 2 * size + 2 * targets + 8 * self.leaves)

    def scores(self, features: NDArray[np.generic]) -> Floats:
        """Return the scores of all targets, float32 [B, T].

        features float32 [B, D] of the gate's trunk. Raises ShapeMismatchError if D differs,
        InvalidInputError where features are not finite.
        """
        return linear_scores(features, self.weights, self.fixed_point, self.has_constant)

    def class_scores(self, scores: Floats) -> Floats:
        """Return a, float32 [B, C]: each class's scores summed over leaves; 0 for a class without targets."""
        return _summed(scores, self.class_rows, self.classes)

    def leaf_scores(self, scores: Floats) -> Floats:
        """Return o, float32 [B, L]: each leaf's scores summed over classes; -inf where it has no targets."""
        sums = _summed(scores, self.leaf_rows, self.leaves)
        sums[:, ~self.has_columns] = -np.inf
        return sums

    def leaf_weights(self, scores: Floats, temperature: float) -> Floats:
        """Return softmax(o / temperature), float32 [B, L]: rows sum to 1, 0 for a leaf without targets."""
        if not (np.isfinite(temperature) and temperature > 0):
            raise InvalidInputError("temperature", found=str(temperature), expected="a positive number")
        logits = self.leaf_scores(scores).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            shares = np.exp(logits / temperature)
        weights: Floats = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        return weights

    def leaf_shares(self, scores: Floats, answered: NDArray[np.integer]) -> Floats:
        """Return how much of each row's score for one class comes from each leaf, float32 [B, L].

        scores [B, T], answered int64 [B] are classes. What speaks against the class counts for nothing; rows
        sum to 1, or are 0 where nothing speaks for it.
        """
        own = self.class_rows[None, :] == np.asarray(answered)[:, None]
        found = _summed(np.where(own, np.maximum(scores, 0), 0), self.leaf_rows, self.leaves)
        total = found.sum(axis=1, keepdims=True)
        shares: Floats = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return shares


def target_rows(
    leaves: Sequence[LeafColumns], class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each target, int64 [T] each, the row of its leaf and the row of its class."""
    column = {name: row for row, name in enumerate(class_names)}
    pairs = [(row, name) for row, leaf in enumerate(leaves) if leaf.has_columns for name in leaf.class_names]
    unknown = next((name for _, name in pairs if name not in column), None)
    if unknown is not None:
        raise InvalidInputError(
            "leaf's class names", found=f"unknown class {unknown!r}", expected="names of the gate's classes"
        )
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    return rows, np.array([column[name] for _, name in pairs], dtype=np.int64)


def linear_scores(
    features: NDArray[np.generic], weights: NDArray[np.generic], fixed_point: float, has_constant: bool
) -> Floats:
    """Return float32 [B, T] = q @ weights, q being the features float32 [B, D] in fixed point."""
    size = int(weights.shape[0]) - (not has_constant)
    if np.ndim(features) != 2 or np.shape(features)[1] != size:
        raise ShapeMismatchError(
            "query features", found=str(list(np.shape(features))), expected=f"[B, {size}]"
        )
    q = quantised(features, fixed_point, has_constant)
    found: Floats = q.astype(np.float32) @ weights.astype(np.float32, copy=False)
    return found


def _summed(scores: Floats, rows: NDArray[np.int64], count: int) -> Floats:
    pick = np.zeros((len(rows), count), dtype=np.float32)
    pick[np.arange(len(rows)), rows] = 1
    sums: Floats = np.asarray(scores, dtype=np.float32) @ pick
    return sums
