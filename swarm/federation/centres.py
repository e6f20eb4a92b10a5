"""The mathematics of regions in common: seeds from weighted centroids, sums by nearest centre, next centres.

Source: Lloyd 1982; k-means++ by Arthur and Vassilvitskii 2007, weighted.
"""

import numpy as np
from numpy.typing import NDArray

from swarm.gating.distances import squared_distances

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
_SEEDING_ROUNDS = 25
_STARTS = 8
_ROWS = 4096


def cluster_sums(
    features: Floats, distances: NDArray[np.floating], minimum: int
) -> tuple[Doubles, Counts, float]:
    """Return sums [k, R], counts [k] and inertia by nearest centre; clusters below minimum are zeros."""
    nearest = distances.argmin(axis=1)
    k = distances.shape[1]
    counts = np.bincount(nearest, minlength=k).astype(np.int64)
    counts[counts < minimum] = 0
    sums = np.zeros((k, features.shape[1]))
    inertia = 0.0
    for cluster in np.flatnonzero(counts):
        rows = nearest == cluster
        sums[cluster] = features[rows].sum(axis=0, dtype=np.float64)
        inertia += float(distances[rows, cluster].sum(dtype=np.float64))
    return sums, counts, inertia


def seed_centres(candidates: Floats, counts: Counts | Doubles, k: int, seed: int) -> Floats:
    """Return k centres float32 [k, R] from candidates [m, R] that stand for counts [m] samples.

    Weighted k-means++ and weighted Lloyd, from _STARTS starts; the one of least weighted inertia. With
    fewer than k candidates the rest are candidates moved apart by a little noise of their own spread.
    """
    rng = np.random.default_rng(seed)
    weights = counts.astype(np.float64)
    points = candidates.astype(np.float64)
    if len(points) < k:
        spread = points.std(axis=0) + 1e-3
        extra = rng.choice(len(points), k - len(points), p=weights / weights.sum())
        more = points[extra] + 0.1 * spread * rng.standard_normal((len(extra), points.shape[1]))
        return np.concatenate([points, more]).astype(np.float32)
    best, best_inertia = points[:k], np.inf
    for _ in range(_STARTS):
        centres = points[_weighted_seeds(points, weights, k, rng)]
        for _ in range(_SEEDING_ROUNDS):
            nearest, _ = _nearest(points, centres)
            moved = centres.copy()
            for cluster in np.unique(nearest):
                rows = nearest == cluster
                moved[cluster] = np.average(points[rows], axis=0, weights=weights[rows])
            if np.allclose(moved, centres):
                break
            centres = moved
        inertia = float((_nearest(points, centres)[1] * weights).sum())
        if inertia < best_inertia:
            best, best_inertia = centres, inertia
    return best.astype(np.float32)


def next_centres(centres: Floats, sums: Doubles, counts: Counts | Doubles, candidates: Floats) -> Floats:
    """Return the means of what was summed [k, R]; an empty cluster's centre moves to the candidate that is
    farthest from all centres (ties: the lower row), each candidate once."""
    moved = centres.astype(np.float64)
    filled = counts > 0
    moved[filled] = sums[filled] / counts[filled, None]
    for cluster in np.flatnonzero(~filled):
        others = moved[filled]
        if not len(others):
            break
        _, distance = _nearest(candidates.astype(np.float64), others)
        moved[cluster] = candidates[int(distance.argmax())]
        filled = filled.copy()
        filled[cluster] = True
    return moved.astype(np.float32)


def most_regions(stands_for: Doubles, nodes: int, k: int, minimum: int) -> int:
    """Return how many regions, 1 to k, so many nodes' samples can fill: at each node a region has on average
    twice the least that is told of it."""
    return max(1, min(k, int(stands_for.sum()) // (2 * nodes * minimum)))


def _nearest(points: Doubles, centres: Doubles) -> tuple[Counts, Doubles]:
    """Return each point's nearest centre int64 [m] and its squared distance [m]; never [m, k] at once."""
    rows, distances = np.empty(len(points), dtype=np.int64), np.empty(len(points))
    for start in range(0, len(points), _ROWS):
        part = squared_distances(points[start : start + _ROWS], centres)
        rows[start : start + _ROWS] = part.argmin(axis=1)
        distances[start : start + _ROWS] = part.min(axis=1)
    return rows, distances


def _weighted_seeds(points: Doubles, weights: Doubles, k: int, rng: np.random.Generator) -> list[int]:
    chosen = [int(rng.choice(len(points), p=weights / weights.sum()))]
    nearest = squared_distances(points, points[chosen])[:, 0].astype(np.float64)
    while len(chosen) < k:
        nearest[chosen] = 0.0
        mass = nearest * weights
        total = mass.sum()
        if total > 0:
            row = int(rng.choice(len(points), p=mass / total))
        else:
            row = next(each for each in range(len(points)) if each not in chosen)
        chosen.append(row)
        nearest = np.minimum(nearest, squared_distances(points, points[row : row + 1])[:, 0])
    return chosen
