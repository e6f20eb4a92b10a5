"""An analytic gate of very many regions in two stages: an index lists some, and their columns decide.

Classes are scored by the sums of all columns, one for each class, however many regions there are. Each row is
computed by itself, so that what else is computed beside it does not change a bit of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.analytic_gate import AnalyticGate, in_fixed_point
from swarm.gating.class_columns import ClassColumns
from swarm.gating.column_index import ColumnIndex
from swarm.gating.distances import Floats
from swarm.gating.indexed_prototypes import EXACT_TO, below
from swarm.gating.point_index import Integers
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.shortlist import Listed, Shortlist
from swarm.gating.tree import Doubles, softmax_shares

LISTED = 128
"""So many of the regions that score highest share out a row's weight; every other one has none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IndexedColumns:
    """A gate's regions that have columns, by their places int64 [R'], and the index of those columns;
    `classes` are the columns that score classes."""

    gate: AnalyticGate
    places: Integers
    index: ColumnIndex
    classes: ClassColumns

    @classmethod
    def of(cls, gate: AnalyticGate, prototypes: PrototypeGate) -> "IndexedColumns | None":
        """Return a gate's columns with their index, the same for the same gate and prototypes; None where
        there are so few regions that all are scored, or prototypes have not all of the features (beyond
        1,025). Takes a minute for 100,000 regions: call it outside the event loop."""
        if len(gate.tree.regions) <= EXACT_TO or prototypes.feature_size != gate.feature_size:
            return None
        return cls.made(gate, prototypes)

    @classmethod
    def made(cls, gate: AnalyticGate, prototypes: PrototypeGate) -> "IndexedColumns":
        """Return a gate's columns with their index, however few there are."""
        points = in_fixed_point(prototypes.prototypes, gate.feature_size, gate.fixed_point, gate.has_constant)
        places, columns = _columns(gate)
        return cls(
            gate=gate, places=places, index=ColumnIndex.of(columns, points), classes=gate.class_columns
        )

    @property
    def flops_per_query(self) -> int:
        """Fixed point, the search for regions, and the classes' columns."""
        return 2 * len(self.gate.weights) + self.index.flops_per_search + self.classes.flops_per_query

    def shortlist(self, features: NDArray[np.generic], temperature: float) -> Shortlist:
        """Return the leaves that score highest and their weights: those of `AnalyticGate.leaf_weights`, if
        the regions that are not listed had none.

        features [B, D] of the gate's trunk. Raises as `scores` and `leaf_weights` do.
        """
        if not (np.isfinite(temperature) and temperature > 0):
            raise InvalidInputError("temperature", found=str(temperature), expected="a positive number")
        rows = [
            self._listed(point, own, temperature)
            for point, own in zip(self._points(features), np.asarray(features), strict=True)
        ]
        return Shortlist.of_rows(rows, self.gate.leaves)

    def class_scores(self, features: NDArray[np.generic]) -> Floats:
        """Return each class's score, float32 [B, C], of features [B, D]."""
        points = self._points(features)
        return np.concatenate([self.classes.scores(point[None]) for point in points])

    def region_shares(
        self, features: NDArray[np.generic], answered: NDArray[np.integer]
    ) -> Iterator[tuple[Integers, Floats]]:
        """Yield for each row the regions that speak for the class which it was answered, and each one's share
        of its score: `AnalyticGate.region_shares`, but for the regions without any."""
        for point, row in zip(self._points(features), np.asarray(answered).tolist(), strict=True):
            yield self.gate.speaking_regions(point, row)

    def _points(self, features: NDArray[np.generic]) -> Floats:
        return in_fixed_point(features, self.gate.feature_size, self.gate.fixed_point, self.gate.has_constant)

    def _listed(self, point: Floats, features: NDArray[np.generic], temperature: float) -> Listed:
        found, scores = self.index.best(point, LISTED)
        regions = self.places[found]
        weights = softmax_shares(scores[None], temperature)[0].astype(np.float32).astype(np.float64)
        branches = self.gate.branches
        if branches is None:
            return regions, weights, 0.0

        def share(row: int) -> Doubles:
            return branches.share(row, point, features, temperature)

        return below(self.gate.tree, regions, weights, share, 0.0)


def _columns(gate: AnalyticGate) -> tuple[Integers, Floats]:
    """Return the places of the regions that have columns, and the sum of each one's columns, [R', M]."""
    order = np.argsort(gate.leaf_rows, kind="stable")
    places, starts = np.unique(gate.leaf_rows[order], return_index=True)
    columns = np.ascontiguousarray(gate.weights.T[order])
    return places, columns if len(places) == len(order) else np.add.reduceat(columns, starts, axis=0)
