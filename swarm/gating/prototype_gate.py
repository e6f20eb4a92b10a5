"""The gate of kind `prototypes`: softmax(-d^2 / T + log prior) over all prototypes, summed per leaf.

A pure function of what owners contributed, in the given order. Temperatures are in the units of squared
distances, so they are chosen relative to the gate's own `scale`. Source: Gross, Ranzato and Szlam 2017 (hard
mixtures); c-BTM (top-k at inference).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.branches import SPLIT, Cluster, PrototypeBranches, prototype_shares
from swarm.gating.distances import Floats, check_features, squared_distances
from swarm.gating.regions import LeafSummary
from swarm.gating.tree import Tree

WEIGHT_FLOOR = 1e-12
"""No leaf's weight falls below this, so that its logarithm exists."""
TEMPERATURE_FACTORS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
"""The grid on which validation data choose, in units of the gate's scale."""
DEFAULT_FACTOR = 0.2
"""The temperature of a gate without validation evidence, in the same unit."""
PROTOTYPES, BRANCH = "prototypes", "branch"
"""Arrays `prototypes.<row>` are a leaf's prototypes, `branch.<row>` those that a branch had as a leaf."""
INFLUENCE_CAP = 4.0
"""All counts of an owner weigh at most as much as those of this many median owners."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypeGate:
    """K prototypes of regions, and the region that each belongs to.

    prototypes float32 [K, D], leaf_rows int32 [K], log_prior float32 [K], radii float32 [K, 3]. Without
    `branches` every leaf is a region and leaf_rows are below `leaves`; with them they are places in the
    tree's regions.
    """

    prototypes: Floats
    leaf_rows: NDArray[np.int32]
    log_prior: Floats
    radii: Floats
    leaves: int
    temperature: float
    branches: PrototypeBranches | None = None
    _wide: NDArray[np.float64] = field(init=False, repr=False)
    _norms: NDArray[np.float64] = field(init=False, repr=False)
    _order: NDArray[np.int64] = field(init=False, repr=False)
    _starts: NDArray[np.int64] = field(init=False, repr=False)
    """The prototypes by region, and where each region's begin."""

    def __post_init__(self) -> None:
        check_features(self.prototypes, subject="gate prototypes")
        count = len(self.prototypes)
        shapes = (self.leaf_rows.shape, self.log_prior.shape, self.radii.shape)
        if count < 1 or shapes != ((count,), (count,), (count, 3)):
            raise ShapeMismatchError(
                "gate arrays",
                found=f"{count} prototypes with {shapes}",
                expected="[K], [K] and [K, 3], K >= 1",
            )
        rows, regions = self.leaf_rows, len(self.tree.regions)
        if rows.dtype.kind not in "iu" or set(np.unique(rows).tolist()) != set(range(regions)):
            raise InvalidInputError(
                "gate leaf rows",
                found="a leaf without prototypes or a row out of range",
                expected=f"0..{regions - 1}",
            )
        if not (
            np.isfinite(self.log_prior).all() and np.isfinite(self.radii).all() and (self.radii >= 0).all()
        ):
            raise InvalidInputError("gate arrays", found="a prior or radius that is not finite")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidInputError(
                "gate temperature", found=str(self.temperature), expected="a positive number"
            )
        object.__setattr__(self, "_wide", self.prototypes.astype(np.float64))
        object.__setattr__(self, "_norms", np.einsum("kd,kd->k", self._wide, self._wide))
        order = np.argsort(rows, kind="stable")
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_starts", np.searchsorted(rows[order], np.arange(regions)))

    @property
    def tree(self) -> Tree:
        """Where the leaves stand."""
        return Tree.flat(self.leaves) if self.branches is None else self.branches.tree

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        *,
        leaves: int,
        temperature: float,
        tree: Tree | None = None,
        splits: Mapping[int, Floats] | None = None,
    ) -> "PrototypeGate":
        """Return the gate that `arrays()` gave; `tree` and the learned `splits` where it has branches.

        Raises ShapeMismatchError where an array is missing or misshapen.
        """
        names = node_names(leaves, 0 if tree is None else len(tree.children))
        missing = [name for name in (*names, "log_prior", "radii") if name not in arrays]
        if missing or not names:
            raise ShapeMismatchError("gate arrays", found=f"no {', '.join(missing[:5]) or 'leaves'}")
        parts = [arrays[name].astype(np.float32, copy=False) for name in names]
        for name, part in zip(names, parts, strict=True):
            check_features(part, parts[0].shape[-1], name)
        log_prior, radii = (arrays[name].astype(np.float32, copy=False) for name in ("log_prior", "radii"))
        count = sum(map(len, parts))
        if log_prior.shape != (count,) or radii.shape != (count, 3):
            raise ShapeMismatchError(
                "gate arrays",
                found=f"{list(log_prior.shape)} priors and {list(radii.shape)} radii",
                expected=f"[{count}] and [{count}, 3]",
            )
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        nodes = [
            Cluster(prototypes=part, log_prior=prior, radii=reach)
            for part, prior, reach in zip(
                parts, np.split(log_prior, cuts), np.split(radii, cuts), strict=True
            )
        ]
        return cls.of_nodes(nodes, Tree.flat(leaves) if tree is None else tree, splits or {}, temperature)

    @classmethod
    def of_nodes(
        cls, nodes: Sequence[Cluster], tree: Tree, splits: Mapping[int, Floats], temperature: float
    ) -> "PrototypeGate":
        """Return the gate of the prototypes of each node of a tree, in the order of nodes."""
        tops = [nodes[node] for node in tree.regions]
        branches = None
        if tree.children:
            inner = {node: nodes[node] for node, parent in enumerate(tree.parents) if parent >= 0}
            branches = PrototypeBranches(tree=tree, inner=inner, splits=splits)
        return cls(
            prototypes=np.concatenate([top.prototypes for top in tops]),
            leaf_rows=np.repeat(np.arange(len(tops), dtype=np.int32), [len(top.prototypes) for top in tops]),
            log_prior=np.concatenate([top.log_prior for top in tops]),
            radii=np.concatenate([top.radii for top in tops]),
            leaves=tree.leaves,
            temperature=temperature,
            branches=branches,
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of the gate's statement, by their names there, leaves before branches.

        Each one's prototypes stand alone, so that they keep their address from version to version and a
        node fetches only those that are new to it.
        """
        nodes = self._nodes()
        names = node_names(self.leaves, len(self.tree.children))
        found: dict[str, NDArray[np.generic]] = {
            name: node.prototypes for name, node in zip(names, nodes, strict=True)
        }
        found["log_prior"] = np.concatenate([node.log_prior for node in nodes])
        found["radii"] = np.concatenate([node.radii for node in nodes])
        splits = {} if self.branches is None else self.branches.splits
        return found | {f"{SPLIT}.{row}": split for row, split in sorted(splits.items())}

    def _nodes(self) -> list[Cluster]:
        tree, found = self.tree, {} if self.branches is None else dict(self.branches.inner)
        for place, node in enumerate(tree.regions):
            own = self.leaf_rows == place
            found[node] = Cluster(
                prototypes=self.prototypes[own], log_prior=self.log_prior[own], radii=self.radii[own]
            )
        return [found[node] for node in range(tree.nodes)]

    @property
    def feature_size(self) -> int:
        size: int = self.prototypes.shape[1]
        return size

    @property
    def flops_per_query(self) -> int:
        """Distances to all prototypes, their softmax, and the sums per leaf."""
        count, size = self.prototypes.shape
        below = 0 if self.branches is None else self.branches.flops_per_query
        return int(2 * count * size + 2 * size + 8 * count + below)

    @property
    def scale(self) -> float:
        """The unit of temperatures: the median over the regions' prototypes of the squared median radius.

        That is a typical squared distance of a sample to its own prototype. Where radii are 0: the median
        squared distance from a prototype to the nearest other one, else 1.
        """
        tiny = 1e-12 * max(float(self._norms.max()), 1e-300)
        typical = np.square(self.radii[:, 0].astype(np.float64))
        if not (typical > tiny).any():
            distances = squared_distances(self._wide, self._wide, self._norms)
            np.fill_diagonal(distances, np.inf)
            typical = distances.min(axis=1)
        positive = typical[np.isfinite(typical) & (typical > tiny)]
        return float(np.median(positive)) if len(positive) else 1.0

    def with_temperature(self, temperature: float) -> "PrototypeGate":
        """Return the same gate at another temperature."""
        return replace(self, temperature=float(temperature))

    def leaf_weights(
        self, features: NDArray[np.generic], temperature: float | None = None
    ) -> NDArray[np.floating]:
        """Return each leaf's weight, [B, leaves]: finite, rows sum to 1; float64 where there are branches.

        A region's weight is positive; those of its leaves add up to it to the bit (`Tree.leaf_weights`).
        features float32 [B, D] of the gate's trunk; `temperature` replaces the gate's own.
        Raises ShapeMismatchError if D differs, InvalidInputError where features are not finite.
        """
        degree = self.temperature if temperature is None else float(temperature)
        if not (np.isfinite(degree) and degree > 0):
            raise InvalidInputError("temperature", found=str(degree), expected="a positive number")
        points = check_features(features, self.feature_size, "query features")
        distances = self.squared_distances(points)
        regions = _floored(self._per_region(prototype_shares(distances, self.log_prior, degree)))
        if self.branches is None:
            return regions
        return self.tree.leaf_weights(regions, self.branches.shares(points, degree))

    def squared_distances(self, points: Floats) -> NDArray[np.float64]:
        """Return the squared distance of each of the points [B, D] to each prototype, [B, K]."""
        return squared_distances(points, self._wide, self._norms)

    def novelty(self, features: NDArray[np.generic], leaves: NDArray[np.integer] | None = None) -> Floats:
        """Return how far out each row is, float32 [B]: distance to the nearest prototype over its .99 radius.

        Above 1: farther than 99 of 100 samples that the prototype stands for. Prototypes are those of
        regions: all, or those of the region that each row's leaf is in, where `leaves` int64 [B] names one.
        """
        points = check_features(features, self.feature_size, "query features")
        costs = self.squared_distances(points)
        if leaves is not None:
            own = np.array(self.tree.region_of)[np.asarray(leaves)]
            costs[self.leaf_rows[None, :] != own[:, None]] = np.inf
        nearest = costs.argmin(axis=1)
        reach = np.maximum(self.radii[nearest, 2].astype(np.float64), np.finfo(np.float32).tiny)
        ratio = np.sqrt(costs[np.arange(len(costs)), nearest]) / reach
        novel: Floats = np.minimum(ratio, np.finfo(np.float32).max).astype(np.float32)
        return novel

    def _per_region(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(shares[:, self._order], self._starts, axis=1)


def node_names(leaves: int, branches: int) -> list[str]:
    """Return the names of the prototypes' arrays: leaves, then branches."""
    return [f"{PROTOTYPES}.{row}" for row in range(leaves)] + [f"{BRANCH}.{row}" for row in range(branches)]


def build_prototype_gate(
    summaries: Sequence[LeafSummary],
    temperature: float | None = None,
    owners: Sequence[str] | None = None,
    tree: Tree | None = None,
    splits: Mapping[int, Floats] | None = None,
) -> PrototypeGate:
    """Return the gate over the nodes, in the given order; temperature None: DEFAULT_FACTOR times its scale.

    A prototype's prior is log(count + 1), counts of an owner that outweighs INFLUENCE_CAP median owners
    scaled down to that; the median is the lower one, so that of two owners one alone can not set it. What
    lies under a branch adds nothing to its owner's counts. `owners`: whose each node is; None: each leaf has
    one of its own. `tree`: where the nodes stand, leaves first (None: all are leaves), with the learned
    `splits` by branch row. Raises InvalidInputError without leaves, owners or prototypes, ShapeMismatchError
    where D differs.
    """
    if not summaries:
        raise InvalidInputError("gate", found="no leaves", expected="at least one contribution with a leaf")
    placed = Tree.flat(len(summaries)) if tree is None else tree
    size = int(summaries[0].prototypes.shape[-1])
    for row, summary in enumerate(summaries):
        check_features(summary.prototypes, size, f"prototypes of leaf {row}")
        expected = (len(summary.prototypes),)
        if not expected[0] or summary.counts.shape != expected or (summary.counts < 0).any():
            raise InvalidInputError(
                f"leaf {row}",
                found=f"counts {summary.counts.shape}",
                expected=f"{expected}, none negative, at least one",
            )
    scales = _owner_scales(summaries, range(len(summaries)) if owners is None else owners, placed)
    nodes = [
        Cluster(
            prototypes=summary.prototypes.astype(np.float32, copy=False),
            log_prior=np.log1p(summary.counts * scale).astype(np.float32),
            radii=summary.radii.astype(np.float32, copy=False),
        )
        for summary, scale in zip(summaries, scales, strict=True)
    ]
    degree = 1.0 if temperature is None else float(temperature)
    gate = PrototypeGate.of_nodes(nodes, placed, splits or {}, degree)
    return gate if temperature is not None else gate.with_temperature(DEFAULT_FACTOR * gate.scale)


def _owner_scales(summaries: Sequence[LeafSummary], owners: Sequence[Hashable], tree: Tree) -> list[float]:
    """Return by what each node's counts are multiplied: 1, or less to bring its owner down to the cap."""
    if len(owners) != len(summaries) or tree.nodes != len(summaries):
        raise InvalidInputError(
            "owners", found=str(len(owners)), expected=f"one of each of {len(summaries)} leaves"
        )
    totals: dict[Hashable, int] = {}
    for node in tree.regions:
        totals[owners[node]] = totals.get(owners[node], 0) + int(summaries[node].counts.sum())
    cap = INFLUENCE_CAP * float(np.quantile(list(totals.values()), 0.5, method="lower"))
    return [min(1.0, cap / max(totals[owner], 1)) for owner in owners]


def temperature_grid(gate: PrototypeGate) -> tuple[float, ...]:
    """Return the temperatures to try on validation data, rising: multiples of the gate's scale."""
    scale = gate.scale
    return tuple(factor * scale for factor in TEMPERATURE_FACTORS)


def _floored(weights: NDArray[np.float64]) -> Floats:
    weights = weights / weights.sum(axis=1, keepdims=True)
    weights = np.maximum(weights, WEIGHT_FLOOR)
    floored: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return floored
