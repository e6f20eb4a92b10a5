"""k-means over features: plain (Lloyd), and balanced by an auction while fitting.

Plain k-means can collapse into one large cluster and crumbs. Balanced fitting (c-BTM, Gururangan et al. 2023)
gives every cluster the same number of points while the centres are sought; whoever uses the clusters
afterwards takes the nearest centre. Sources: Lloyd 1982; Arthur and Vassilvitskii 2007 (seeding);
Bertsekas and Castanon 1989 (the auction for the transportation problem).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.distances import Floats, Frame, check_features, squared_distances

Labels = NDArray[np.int64]
_TOLERANCE = 1e-3
_STEPS_OF_RANGE = 50
_MAX_ROUNDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clustering:
    """Centres float32 [k, D]; labels int64 [N], each point's nearest centre (ties: the lower row).

    `fitting_labels` are the labels that the centres are the means of: balanced where fitting was.
    `flops` is what finding them cost.
    """

    centres: Floats
    labels: Labels
    fitting_labels: Labels
    flops: int


def kmeans_pp_seed(features: Floats, k: int, rng: np.random.Generator) -> Labels:
    """Return k distinct rows, spread out: each next one is drawn in proportion to its squared distance.

    Where fewer than k points are distinct, the lowest unused rows fill up.
    """
    chosen = [int(rng.integers(len(features)))]
    nearest = squared_distances(features, features[chosen])[:, 0].astype(np.float64)
    while len(chosen) < k:
        nearest[chosen] = 0.0
        total = nearest.sum()
        if total > 0:
            row = int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right"))
            row = min(row, len(features) - 1)
            while nearest[row] == 0:
                row -= 1
        else:
            row = next(i for i in range(len(features)) if i not in set(chosen))
        chosen.append(row)
        nearest = np.minimum(nearest, squared_distances(features, features[row : row + 1])[:, 0])
    return np.array(chosen, dtype=np.int64)


def lloyd_kmeans(features: NDArray[np.generic], k: int, *, seed: int, iterations: int = 50) -> Clustering:
    """Return plain k-means of features [N, D], 1 <= k <= N. An empty cluster moves to the farthest point."""
    return _fit(features, k, seed, iterations, _nearest)


def balanced_kmeans(features: NDArray[np.generic], k: int, *, seed: int, iterations: int = 20) -> Clustering:
    """Return k-means of features [N, D] in which every cluster held N/k points (+-1) while fitting."""
    return _fit(features, k, seed, iterations, balanced_assignment)


def balanced_assignment(costs: NDArray[np.floating]) -> Labels:
    """Return a cluster for each point, int64 [N], so that each of k clusters has N // k or N // k + 1 points.

    costs [N, k]; the first N % k clusters take the larger share. An auction: a point without a place bids for
    the cluster that suits it best, up to what its second choice would be worth plus eps = (max - min) / 50;
    a full cluster keeps its highest bidders and its price becomes the lowest of their bids. The total cost is
    within N * eps of the least possible. Ties: the lower row. Should bidding not end, the rest is filled
    greedily.
    """
    count, k = costs.shape
    if k == 1:
        return np.zeros(count, dtype=np.int64)
    capacity = np.full(k, count // k)
    capacity[: count % k] += 1
    value = -np.asarray(costs, dtype=np.float64)
    value[:, capacity == 0] = -np.inf
    finite = value[:, capacity > 0]
    eps = float(finite.max() - finite.min()) / _STEPS_OF_RANGE or 1.0
    price = np.zeros(k)
    owner = np.full(count, -1, dtype=np.int64)
    bid = np.zeros(count)
    for _ in range(_MAX_ROUNDS):
        waiting = np.flatnonzero(owner < 0)
        if not len(waiting):
            return owner
        worth = value[waiting] - price
        best = worth.argmax(axis=1)
        rows = np.arange(len(waiting))
        first = worth[rows, best]
        worth[rows, best] = -np.inf
        second = worth.max(axis=1)
        margin = np.where(np.isfinite(second), first - second, 0.0)
        bid[waiting] = price[best] + margin + eps
        owner[waiting] = best
        for cluster in np.unique(best):
            holders = np.flatnonzero(owner == cluster)
            excess = len(holders) - capacity[cluster]
            if excess > 0:
                ranked = holders[np.lexsort((holders, -bid[holders]))]
                owner[ranked[capacity[cluster] :]] = -1
                holders = ranked[: capacity[cluster]]
            if excess >= 0:
                price[cluster] = bid[holders].min()
    return _fill_greedily(owner, value, capacity)


def _fill_greedily(owner: Labels, value: NDArray[np.float64], capacity: NDArray[np.int64]) -> Labels:
    room = capacity - np.bincount(owner[owner >= 0], minlength=len(capacity))
    for point in np.flatnonzero(owner < 0):
        owner[point] = int(np.where(room > 0, value[point], -np.inf).argmax())
        room[owner[point]] -= 1
    return owner


def _nearest(costs: NDArray[np.floating]) -> Labels:
    labels: Labels = costs.argmin(axis=1).astype(np.int64)
    return labels


def _fit(
    features: NDArray[np.generic],
    k: int,
    seed: int,
    iterations: int,
    assign: Callable[[NDArray[np.floating]], Labels],
) -> Clustering:
    points = check_features(features)
    if not 1 <= k <= len(points) or iterations < 1:
        raise InvalidInputError(
            "k-means", found=f"k {k}, {iterations} iterations", expected=f"1 <= k <= {len(points)} samples"
        )
    frame = Frame.around(points)
    inside = frame.inward(points)
    rng = np.random.default_rng(seed)
    centres = inside[kmeans_pp_seed(inside, k, rng)]
    count, size = inside.shape
    flops = 2 * count * k * size
    for _ in range(iterations):
        costs = squared_distances(inside, centres)
        labels = assign(costs)
        moved = _means(inside, labels, costs, k)
        flops += 2 * count * k * size + count * size
        shift = float(np.square(moved - centres).sum())
        spread = float(np.square(moved).sum())
        centres = moved
        if shift <= _TOLERANCE**2 * max(spread, 1e-30):
            break
    nearest = _nearest(squared_distances(inside, centres))
    flops += 2 * count * k * size
    return Clustering(centres=frame.outward(centres), labels=nearest, fitting_labels=labels, flops=flops)


def _means(points: Floats, labels: Labels, costs: NDArray[np.floating], k: int) -> Floats:
    sizes = np.bincount(labels, minlength=k)
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    means = np.empty((k, points.shape[1]), dtype=np.float32)
    empty = np.flatnonzero(sizes == 0)
    for cluster in np.flatnonzero(sizes):
        rows = order[starts[cluster] : starts[cluster + 1]]
        means[cluster] = points[rows].mean(axis=0, dtype=np.float64)
    if len(empty):
        far = np.argsort(-costs[np.arange(len(points)), labels], kind="stable")
        means[empty] = points[far[: len(empty)]]
    return means
