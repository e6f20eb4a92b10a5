"""What a gate says of a query's rows: leaf weights, class scores, how far out they lie. Pure.

Where a gate has very many leaves its indexes are asked: they list some leaves of each row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate
from swarm.answering.answer_board import Rows
from swarm.answering.ways import Way
from swarm.domain.errors import NotReadyError
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import expert_weights
from swarm.gating.indexed_columns import IndexedColumns
from swarm.gating.indexed_prototypes import IndexedPrototypes
from swarm.gating.out_of_distribution import flops_of_distances, out_of_distribution
from swarm.gating.regions import region_columns
from swarm.gating.shortlist import Shortlist
from swarm.gating.tiles import in_tiles

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the gate says of B rows: leaf weights [B, L]; where the way uses sums, the scores of targets
    [B, T] and of classes [B, C].

    `features` float32 [B, D] are None where nobody needed them; `flops` are the gate's, per query. Where
    there are very many leaves, `weights` list some of them, `scores` are None, and in_full(rows) gives all
    leaves' weights, [n, L].
    """

    weights: NDArray[np.floating] | Shortlist
    scores: Floats | None = None
    class_scores: Floats | None = None
    features: Floats | None = None
    flops: int = 0
    in_full: Callable[[Rows], NDArray[np.floating]] | None = None


def read_gate(way: Way, active: ActiveGate, features: Floats) -> Reading:
    """Return what the gate says of features float32 [B, D]: the analytic gate is asked once."""
    if not way.uses_sums:
        if active.indexed is not None:
            return _read_listed(way, active, active.indexed, features)
        weights = expert_weights(way.combination, None, active.prototypes, None, features)
        flops = 0 if active.prototypes is None else active.prototypes.flops_per_query
        return Reading(weights=weights, features=features, flops=flops)
    if active.columns is not None:
        return _read_columns(way, active, active.columns, features)
    analytic = _with_sums(active)
    scores = analytic.scores(features)
    weights = (
        expert_weights(way.combination, analytic, active.prototypes, scores, features)
        if way.asks_experts
        else np.zeros((len(features), len(active.value.leaves)), dtype=np.float32)
    )
    return Reading(
        weights=weights,
        scores=scores,
        class_scores=analytic.class_scores(scores),
        features=features,
        flops=analytic.flops_per_query,
    )


def _read_listed(way: Way, active: ActiveGate, indexed: IndexedPrototypes, features: Floats) -> Reading:
    regions = features[:, region_columns(features.shape[1])]
    return Reading(
        weights=indexed.shortlist(regions, way.combination.temperature),
        features=features,
        flops=indexed.flops_per_query,
        in_full=in_full(way, active, features),
    )


def _read_columns(way: Way, active: ActiveGate, columns: IndexedColumns, features: Floats) -> Reading:
    nobody = Shortlist(
        leaves=np.empty((len(features), 0), dtype=np.int64),
        weights=np.empty((len(features), 0)),
        rest=np.zeros(len(features)),
        total=len(active.value.leaves),
    )
    asks = way.asks_experts
    return Reading(
        weights=columns.shortlist(features, way.combination.temperature) if asks else nobody,
        class_scores=columns.class_scores(features),
        features=features,
        flops=columns.flops_per_query,
        in_full=in_full(way, active, features) if asks else None,
    )


def in_full(way: Way, active: ActiveGate, features: Floats) -> Callable[[Rows], NDArray[np.floating]]:
    """Return what gives all leaves' weights of some of the rows, [n, L], to the bit whichever they are."""

    def weights_of(rows: Rows) -> NDArray[np.floating]:
        def weights(tile: NDArray[np.generic]) -> NDArray[np.floating]:
            analytic = active.analytic if way.uses_sums else None
            scores = None if analytic is None else analytic.scores(tile)
            return expert_weights(way.combination, analytic, active.prototypes, scores, tile)

        return in_tiles(weights, features[rows])

    return weights_of


def distances_out(active: ActiveGate, reading: Reading) -> Floats | None:
    """Return how far out each row lies, float32 [B]; None where nobody computed features."""
    if active.prototypes is None or reading.features is None:
        return None
    regions = reading.features[:, region_columns(reading.features.shape[1])]
    return out_of_distribution(active.prototypes, regions, active.reach, active.indexed)


def gate_flops(active: ActiveGate, reading: Reading, root_shares: NDArray[np.float64]) -> float:
    """Return the gate's FLOPs per query, those rows included that asked the root after all, and how far out
    they lie."""
    distances = 0
    if reading.features is not None and active.prototypes is not None:
        distances = flops_of_distances(active.prototypes, active.indexed)
    if reading.class_scores is not None or active.analytic is None:
        return float(reading.flops + distances)
    helped = np.count_nonzero(root_shares) / max(len(root_shares), 1)
    root = active.analytic.flops_per_query
    if active.columns is not None:
        root = active.columns.classes.flops_per_query
    return reading.flops + distances + root * helped


def class_scores(active: ActiveGate, reading: Reading, rows: Rows) -> Floats:
    """Return the root's class scores of some rows, float32 [n, C]. Raises NotReadyError without sums."""
    if reading.class_scores is not None:
        return reading.class_scores[rows]
    analytic = _with_sums(active)
    if reading.features is None:
        raise _no_sums(active)
    features = reading.features[rows]
    if active.columns is not None:
        return active.columns.class_scores(features)
    return analytic.class_scores(analytic.scores(features))


def region_shares(
    active: ActiveGate, reading: Reading, answered: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield for each row regions of the analytic gate, int64 [n], and how much of its score for the class
    which it was answered is theirs, float32 [n]; `answered` int64 [B] are classes."""
    analytic, scores, features = _with_sums(active), reading.scores, reading.features
    if scores is None:
        if features is None:
            raise _no_sums(active)
        if active.columns is not None:
            yield from active.columns.region_shares(features, answered)
            return
        scores = analytic.scores(features)
    everywhere = np.arange(len(analytic.tree.regions))
    for shares in analytic.region_shares(scores, answered):
        yield everywhere, shares


def _with_sums(active: ActiveGate) -> AnalyticGate:
    if active.analytic is None:
        raise _no_sums(active)
    return active.analytic


def _no_sums(active: ActiveGate) -> NotReadyError:
    return NotReadyError(
        f"gate {active.version}",
        found="no owner's sums",
        expected="a contribution with sums",
        remedy="on a node: swarm train DATA",
    )
