"""Child gates: how the weight of a region that was split is shared among its children.

By the softmax of the children's scores (kind `analytic`) or over their prototypes (kind `prototypes`), at the
temperature of the regions, or by a learned binary gate. A child that is a branch counts with what it had as a
leaf; an only child gets everything. Each branch is reckoned by itself, so that a split elsewhere changes no
bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.distances import Floats, squared_distances
from swarm.gating.tree import Doubles, Tree, logistic_shares, softmax_shares

SPLIT = "split"
"""Arrays `split.<row>` float32 [R + 1] are the learned gates of branches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """The prototypes of one leaf or branch: float32 [P, R], their log_prior [P] and radii [P, 3]."""

    prototypes: Floats
    log_prior: Floats
    radii: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypeBranches:
    """The child gates of kind `prototypes`. `inner` has the prototypes of each node that has a parent;
    `splits` float32 [R + 1] by branch row are learned."""

    tree: Tree
    inner: Mapping[int, Cluster]
    splits: Mapping[int, Floats]
    _tables: tuple[tuple[Doubles, Doubles, Doubles, NDArray[np.intp]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        size = next(iter(self.inner.values())).prototypes.shape[1]
        check_splits(self.tree, self.splits, size)
        tables = []
        for children in self.tree.children:
            parts = [self.inner[child] for child in children]
            wide = np.concatenate([part.prototypes for part in parts]).astype(np.float64)
            prior = np.concatenate([part.log_prior for part in parts]).astype(np.float64)
            starts = np.cumsum([0, *(len(part.prototypes) for part in parts[:-1])])
            tables.append((wide, np.einsum("kd,kd->k", wide, wide), prior, starts))
        object.__setattr__(self, "_tables", tuple(tables))

    @property
    def flops_per_query(self) -> int:
        """Distances and a softmax for each branch that they decide, one product for each learned one."""
        size = int(next(iter(self.inner.values())).prototypes.shape[1])
        counts = [
            0 if row in self.splits or len(children) == 1 else len(self._tables[row][0])
            for row, children in enumerate(self.tree.children)
        ]
        return sum(2 * count * size + 8 * count for count in counts) + len(self.splits) * (2 * size + 8)

    def shares(self, points: Floats, temperature: float) -> list[Doubles]:
        """Return each branch's shares float64 [B, children] of features float32 [B, R]."""
        return [self.share(row, points, temperature) for row in range(len(self.tree.children))]

    def share(self, row: int, points: Floats, temperature: float) -> Doubles:
        """Return one branch's shares, float64 [B, children]."""
        if len(self.tree.children[row]) == 1:
            return np.ones((len(points), 1))
        if row in self.splits:
            return logistic_shares(learned_logits(points, self.splits[row]))
        wide, norms, prior, starts = self._tables[row]
        shares = prototype_shares(squared_distances(points, wide, norms), prior, temperature)
        sums = np.add.reduceat(shares, starts, axis=1)
        found: Doubles = sums / sums.sum(axis=1, keepdims=True)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredBranches:
    """The child gates of kind `analytic`: weights[row] float32 [M, children] give a branch's children's
    scores from features in fixed point; `splits` float32 [R + 1] by branch row are learned. `columns` int64
    [R] are the features that regions are made of."""

    tree: Tree
    weights: tuple[Floats, ...]
    splits: Mapping[int, Floats]
    columns: NDArray[np.int64]
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_splits(self.tree, self.splits, len(self.columns))
        widths = [
            1 if row in self.splits else len(children) for row, children in enumerate(self.tree.children)
        ]
        object.__setattr__(self, "_ends", tuple(int(end) for end in np.cumsum(widths)))

    @property
    def flops_per_query(self) -> int:
        """One product for each child, or for each learned gate, and their shares."""
        total = 0
        for row, block in enumerate(self.weights):
            total += 2 * len(self.columns) if row in self.splits else 2 * block.size
            total += 8 * len(self.tree.children[row])
        return total

    def scores(self, points: Floats, features: NDArray[np.generic]) -> Floats:
        """Return the children's scores and the learned gates' logits, float32 [B, S], a branch after the
        other.

        points float32 [B, M] are the features [B, D] in fixed point.
        """
        found: list[NDArray[np.floating]] = []
        for row, block in enumerate(self.weights):
            if row in self.splits:
                part = np.asarray(features)[:, self.columns]
                found.append(learned_logits(part, self.splits[row])[:, None])
            else:
                found.append(points @ block)
        return np.concatenate(found, axis=1).astype(np.float32, copy=False)

    def share(self, row: int, point: Floats, features: NDArray[np.generic], temperature: float) -> Doubles:
        """Return one branch's shares, float64 [children], of features [D] and of them in fixed point [M]."""
        if row in self.splits:
            logits = learned_logits(np.asarray(features)[None, self.columns], self.splits[row])
            found: Doubles = logistic_shares(logits.astype(np.float32))[0]
        else:
            found = softmax_shares((point @ self.weights[row])[None], temperature)[0]
        return found

    def shares(self, scores: Floats, temperature: float) -> list[Doubles]:
        """Return each branch's shares, float64 [B, children], by what `scores` gave."""
        found, start = [], 0
        for row, end in enumerate(self._ends):
            part, start = scores[:, start:end], end
            found.append(
                logistic_shares(part[:, 0]) if row in self.splits else softmax_shares(part, temperature)
            )
        return found


def learned_logits(points: NDArray[np.generic], split: Floats) -> Doubles:
    """Return float64 [B] of features [B, R] and the constant 1."""
    found: Doubles = points.astype(np.float64) @ split[:-1].astype(np.float64) + float(split[-1])
    return found


def prototype_shares(distances: Doubles, log_prior: NDArray[np.floating], temperature: float) -> Doubles:
    """Return exp(-d^2 / temperature + log prior) up to a factor of each row, float64 [B, K], in place."""
    logits = distances
    np.negative(logits, out=logits)
    with np.errstate(over="ignore"):
        logits /= temperature
    np.maximum(logits, -np.finfo(np.float64).max / 4, out=logits)
    logits += log_prior
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    return logits


def check_splits(tree: Tree, splits: Mapping[int, Floats], size: int) -> None:
    """Raise unless every learned gate is finite, [size + 1], and of a branch with two children."""
    for row, split in splits.items():
        subject = f"gate array {SPLIT}.{row}"
        if not 0 <= row < len(tree.children) or len(tree.children[row]) != 2:
            raise InvalidInputError(subject, found="no branch of two children", expected="one")
        if split.shape != (size + 1,):
            raise ShapeMismatchError(subject, found=str(list(split.shape)), expected=f"[{size + 1}]")
        if not np.isfinite(split).all():
            raise InvalidInputError(subject, found="a value that is not finite")


def splits_of(arrays: Mapping[str, NDArray[np.generic]], is_learned: Sequence[bool]) -> dict[int, Floats]:
    """Return the learned gates among a statement's arrays; ShapeMismatchError where one is missing."""
    found = {}
    for row in (row for row, learned in enumerate(is_learned) if learned):
        if f"{SPLIT}.{row}" not in arrays:
            raise ShapeMismatchError("gate arrays", found=f"no {SPLIT}.{row}", expected="each learned gate")
        found[row] = arrays[f"{SPLIT}.{row}"].astype(np.float32, copy=False)
    return found
