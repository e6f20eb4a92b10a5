"""A gate's very many prototypes by an index: the leaves of the nearest ones, and what those leaves weigh.

Each row is computed by itself, so that what else is computed beside it does not change a bit of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.distances import Floats, check_features
from swarm.gating.point_index import Integers, PointIndex
from swarm.gating.prototype_gate import WEIGHT_FLOOR, PrototypeGate
from swarm.gating.shortlist import Listed, Shortlist
from swarm.gating.tree import UNITS, Doubles, Tree

EXACT_TO = 10_000
"""A gate with so many prototypes or fewer is looked up exactly."""
MOST = 32
"""The regions of so many nearest prototypes are listed."""
_WEIGHED = 192
"""Where listed regions have more prototypes together than this, fewer of them are listed."""
_LEAST = 4
"""So many are listed all the same."""
_COLDEST = 1e-200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IndexedPrototypes:
    """The prototypes of a gate's regions, and the index that finds the nearest of them."""

    gate: PrototypeGate
    index: PointIndex
    _tree: Tree = field(init=False, repr=False)
    _order: Integers = field(init=False, repr=False)
    _ends: Integers = field(init=False, repr=False)
    _counts: Integers = field(init=False, repr=False)
    _prior: Doubles = field(init=False, repr=False)
    """The prototypes by region; where each region's end among them, how many it has, and their prior."""

    def __post_init__(self) -> None:
        tree = self.gate.tree
        counts = np.bincount(self.gate.leaf_rows, minlength=len(tree.regions))
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "_order", np.argsort(self.gate.leaf_rows, kind="stable"))
        object.__setattr__(self, "_ends", counts.cumsum())
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(self, "_prior", self.gate.log_prior.astype(np.float64))

    @classmethod
    def of(cls, gate: PrototypeGate) -> "IndexedPrototypes | None":
        """Return the prototypes of a gate with their index, the same for the same gate; None where there are
        so few that they are looked up exactly. Takes seconds: call it outside the event loop."""
        if len(gate.prototypes) <= EXACT_TO:
            return None
        return cls(gate=gate, index=PointIndex.of(gate.prototypes, gate.radii))

    @property
    def flops_per_query(self) -> int:
        """The search, exact distances to what is weighed, their softmax and sums."""
        return self.index.flops_per_search + _WEIGHED * (3 * self.gate.feature_size + 8)

    @property
    def flops_of_distances(self) -> int:
        """The search for the nearest prototype."""
        return self.index.flops_per_search

    def shortlist(self, features: NDArray[np.generic], temperature: float) -> Shortlist:
        """Return the leaves near each row and their weights: those of `PrototypeGate.leaf_weights`, if all
        other regions were too far to count. Another region has the floor's weight.

        features [B, D] of the gate's trunk. Raises as `leaf_weights` does.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise InvalidInputError("temperature", found=str(temperature), expected="a positive number")
        points = check_features(features, self.gate.feature_size, "query features")
        return Shortlist.of_rows([self._listed(point, temperature) for point in points], self._tree.leaves)

    def near_regions(self, point: Floats) -> Integers | None:
        """Return the places of the regions near a point [D], rising; None where it lies outside the index."""
        rows = self.index.near(point, MOST)
        if rows is None:
            return None
        nearest_first = dict.fromkeys(self.gate.leaf_rows.take(rows).tolist())
        ranked = np.fromiter(nearest_first, np.int64, len(nearest_first))
        weighed = self._counts[ranked].cumsum()
        if weighed[-1] > _WEIGHED:
            ranked = ranked[: max(_LEAST, int(weighed.searchsorted(_WEIGHED, side="right")))]
        ranked.sort()
        return ranked

    def nearest(self, features: NDArray[np.generic]) -> tuple[Integers, Doubles]:
        """Return each row's nearest prototype, int64 [B], and its squared distance, float64 [B]."""
        points = check_features(features, self.gate.feature_size, "query features")
        found, costs = np.empty(len(points), dtype=np.int64), np.empty(len(points))
        for place, point in enumerate(points):
            rows = self.index.near(point, _LEAST)
            rows = self._order if rows is None else np.sort(rows)
            far = self._squared(rows, point)
            best = far.argmin()
            found[place], costs[place] = rows[best], far[best]
        return found, costs

    def _squared(self, rows: Integers, point: Floats) -> Doubles:
        differences = self.gate.prototypes.take(rows, axis=0)
        differences -= point
        found: Doubles = np.vecdot(differences, differences).astype(np.float64)
        return found

    def _listed(self, point: Floats, temperature: float) -> Listed:
        regions = self.near_regions(point)
        if regions is None:
            regions = np.arange(len(self._counts))
        counts = self._counts[regions]
        ends = counts.cumsum()
        rows = (self._ends[regions] - ends).repeat(counts)
        rows += np.arange(len(rows))
        rows = self._order.take(rows)
        far = self._squared(rows, point)
        far -= far.min()
        far /= -max(temperature, _COLDEST)
        far += self._prior.take(rows)
        far -= far.max()
        sums = np.add.reduceat(np.exp(far, out=far), ends - counts)
        return self._of_leaves(point, temperature, regions, sums)

    def _of_leaves(self, point: Floats, temperature: float, regions: Integers, sums: Doubles) -> Listed:
        """Return what listed regions, rising, give to their leaves; all others are at the floor."""
        others = len(self._counts) - len(regions)
        floored = np.maximum(sums / sums.sum(), WEIGHT_FLOOR)
        total = float(floored.sum()) + others * WEIGHT_FLOOR
        weights = (floored / total).astype(np.float32).astype(np.float64)
        branches = self.gate.branches
        if branches is None:
            return regions, weights, WEIGHT_FLOOR / total if others else 0.0

        def share(row: int) -> Doubles:
            given: Doubles = branches.share(row, point[None], temperature)[0]
            return given

        return below(self._tree, regions, weights, share, others * WEIGHT_FLOOR / total)


def below(
    tree: Tree, regions: Integers, weights: Doubles, share_of: Callable[[int], Doubles], left: float
) -> Listed:
    """Return the leaves of listed regions with their weights; what is left is given to all others alike.

    share_of(row) [children] says what a branch gives its children, as in `Tree.units_below`.
    """
    given = {
        leaf: weight * units / UNITS
        for region, weight in zip(regions.tolist(), weights.tolist(), strict=True)
        for leaf, units in tree.units_below(tree.regions[region], share_of).items()
    }
    leaves = np.array(sorted(given), dtype=np.int64)
    shares = np.array([given[leaf] for leaf in leaves.tolist()])
    return leaves, shares, left / max(1, tree.leaves - len(leaves))
