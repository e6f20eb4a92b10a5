"""How far out an input lies: its distance to the nearest prototype, in units of that region's own reach."""

import numpy as np
from numpy.typing import NDArray

from swarm.gating.distances import Floats, check_features
from swarm.gating.indexed_prototypes import IndexedPrototypes
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.regions import QUANTILES

REACH = QUANTILES[-1]
"""So many of a region's own training samples lie within its reach."""
_HALVINGS = 60


def reaches(gate: PrototypeGate) -> NDArray[np.float64]:
    """Return each region's reach, float64 [regions]: the REACH quantile of its samples' distances to their
    nearest prototype.

    It comes from what owners contributed: prototypes' radii at QUANTILES and their counts. Each prototype's
    distances are taken to rise linearly between its quantiles, from 0 to the first, and on beyond the last
    with the slope before it; the region's are all of them together, by count.
    """
    weights = np.maximum(np.expm1(gate.log_prior.astype(np.float64)), np.finfo(np.float32).tiny)
    radii = gate.radii.astype(np.float64)
    steps = np.diff([0.0, *QUANTILES, 1.0])
    last = radii[:, -1] + (radii[:, -1] - radii[:, -2]) * steps[-1] / steps[-2]
    bounds = np.column_stack([np.zeros(len(radii)), radii, last])
    widths = np.maximum(np.diff(bounds, axis=1), 1e-200)
    rows, regions = gate.leaf_rows, len(gate.tree.regions)
    all_weight = np.bincount(rows, weights, regions)
    low, high = np.zeros(regions), np.zeros(regions)
    np.maximum.at(high, rows, last)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        within = np.clip((middle[rows, None] - bounds[:, :-1]) / widths, 0, 1) @ steps
        reached = np.bincount(rows, weights * within, regions) >= REACH * all_weight
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high


def out_of_distribution(
    gate: PrototypeGate,
    features: NDArray[np.generic],
    reach: NDArray[np.float64],
    indexed: IndexedPrototypes | None = None,
) -> Floats:
    """Return how far out each row is, float32 [B] >= 0: distance to the nearest prototype, in reaches.

    Above 1: farther than REACH of the training samples of the region that it is nearest to. features float32
    [B, R] are the region columns of the gate's trunk; `reach` is of `reaches`; with
    `indexed` the nearest prototype is what the index finds. Raises ShapeMismatchError if R
    differs, InvalidInputError where features are not finite.
    """
    if indexed is None:
        points = check_features(features, gate.feature_size, "query features")
        costs = gate.squared_distances(points)
        nearest: NDArray[np.int64] = costs.argmin(axis=1)
        least = costs[np.arange(len(costs)), nearest]
    else:
        nearest, least = indexed.nearest(features)
    own = np.maximum(reach[gate.leaf_rows[nearest]], np.finfo(np.float32).tiny)
    ratio = np.sqrt(least) / own
    found: Floats = np.minimum(ratio, np.finfo(np.float32).max).astype(np.float32)
    return found


def flops_of_distances(gate: PrototypeGate, indexed: IndexedPrototypes | None = None) -> int:
    """Return what it takes to see how far out one row is: the distances to all prototypes of regions, or a
    search among them."""
    return 2 * int(gate.prototypes.size) if indexed is None else indexed.flops_of_distances
