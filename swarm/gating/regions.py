"""A node's own regions: how many leaves its data call for, and what a leaf says about itself to the gate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.distances import Floats, check_features, squared_distances
from swarm.gating.kmeans import Clustering, balanced_kmeans, lloyd_kmeans

REAL_CLUSTERS = 0.7
"""Mean silhouette above which clusters count as real (Kaufman and Rousseeuw 1990: a strong structure)."""
FIT_ROWS = 20_000
"""Centres are sought on at most this many samples; counts and radii come from all."""
QUANTILES = (0.5, 0.9, 0.99)
MIN_CLASS_COUNT = 5
"""What a node tells of its samples is a mean or a sum over at least so many: each prototype, and each class
of a leaf. A sum over one sample would be that sample."""
DEFAULT_PROTOTYPES = 60
"""Routed validation accuracy on digits, 3 nodes of 4 classes: .94 with 4 prototypes, .98 with 16 and .99 with
32 to 80; larger data gain longer."""
LEAF_ROWS = 2000
"""Whether there are real clusters is looked up on at most this many samples: a silhouette is a mean."""
MAX_REGION_COLUMNS = 1024
"""Regions, prototypes and novelty look at no more features than these, so that prototypes stay small."""


def region_columns(feature_size: int) -> NDArray[np.int64]:
    """Return the features that regions are made of, int64 [R] rising: all, or 1024 evenly spaced ones.

    One more than 1024 is left whole: the constant of the trunk.
    """
    if feature_size < 1:
        raise InvalidInputError("feature size", found=str(feature_size), expected="at least 1")
    if feature_size <= MAX_REGION_COLUMNS + 1:
        return np.arange(feature_size)
    return np.arange(MAX_REGION_COLUMNS) * feature_size // MAX_REGION_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeafSummary:
    """What the gate knows of a leaf: prototypes float32 [P, D], counts int64 [P] > 0, radii float32 [P, 3].

    `radii` are the distances of a prototype's own samples at the quantiles .5, .9 and .99.
    """

    prototypes: Floats
    counts: NDArray[np.int64]
    radii: Floats
    flops: int = 0


def natural_leaves(
    features: NDArray[np.generic], *, max_leaves: int, min_shard: int, seed: int
) -> Clustering:
    """Return the node's leaves: one, unless its features [N, D] fall into clearly separate clusters.

    Tries 2..max_leaves by k-means (three seeds each) and takes the k of the highest mean silhouette (to
    centres, not pairwise) if that is above REAL_CLUSTERS and every cluster holds min_shard samples. No
    labels are used.
    """
    points = check_features(features)
    if max_leaves < 1 or min_shard < 1 or not len(points):
        raise InvalidInputError(
            "leaves",
            found=f"{len(points)} samples, max_leaves {max_leaves}, min_shard {min_shard}",
            expected="at least 1 each",
        )
    sample = _sample(points, seed, LEAF_ROWS)
    flops, best, best_score = 0, None, REAL_CLUSTERS
    for k in range(2, min(max_leaves, len(points) // min_shard, len(sample)) + 1):
        for attempt in range(3):
            fit = lloyd_kmeans(sample, k, seed=seed + attempt)
            score = _silhouette(sample, fit.centres)
            flops += fit.flops + 2 * len(sample) * k * points.shape[1]
            if score <= best_score:
                continue
            labels = squared_distances(points, fit.centres.astype(np.float64)).argmin(axis=1)
            flops += 2 * len(points) * k * points.shape[1]
            if np.bincount(labels, minlength=k).min() >= min_shard:
                best, best_score = (fit.centres, labels.astype(np.int64)), score
    if best is None:
        whole = lloyd_kmeans(points, 1, seed=seed, iterations=1)
        best = (whole.centres, whole.labels)
    return Clustering(centres=best[0], labels=best[1], fitting_labels=best[1], flops=flops)


def summarise_leaf(
    features: NDArray[np.generic],
    *,
    prototypes: int = DEFAULT_PROTOTYPES,
    seed: int,
    min_count: int = MIN_CLASS_COUNT,
) -> LeafSummary:
    """Return at most `prototypes` prototypes of a leaf's features [N, D] by balanced k-means.

    Each is the mean of at least min_count samples (fewer only where the whole leaf has fewer), so that no
    prototype is one sample. Counts and radii are of the samples nearest to each; a prototype that is nearest
    to none is dropped.
    """
    points = check_features(features)
    if not len(points) or prototypes < 1 or min_count < 1:
        raise InvalidInputError(
            "leaf summary",
            found=f"{len(points)} samples, {prototypes} prototypes, min_count {min_count}",
            expected="at least 1 each",
        )
    sample = _sample(points, seed, FIT_ROWS)
    k = max(1, min(prototypes, len(sample) // min_count))
    fit = balanced_kmeans(sample, k, seed=seed)
    costs = squared_distances(points, fit.centres.astype(np.float64))
    return _summary_of(fit.centres, costs, fit.flops + 2 * len(points) * k * points.shape[1])


def summarise_by(
    features: NDArray[np.generic], centres: Floats, *, min_count: int = MIN_CLASS_COUNT
) -> LeafSummary:
    """Return what a leaf of features [N, D] is by given prototypes [K, D], those that enough of it is near.

    The prototype that is nearest to the fewest goes, until each is nearest to min_count samples or one is
    left. Counts and radii are of the leaf's own samples.
    """
    points = check_features(features)
    if not len(points) or not len(centres) or centres.shape[1:] != points.shape[1:]:
        raise InvalidInputError(
            "leaf summary",
            found=f"{len(points)} samples, prototypes {list(centres.shape)}",
            expected=f"at least 1 each, of {points.shape[1]} features",
        )
    costs = squared_distances(points, centres.astype(np.float64))
    kept = np.arange(len(centres))
    while len(kept) > 1:
        counts = np.bincount(costs[:, kept].argmin(axis=1), minlength=len(kept))
        if counts.min() >= min_count:
            break
        kept = np.delete(kept, counts.argmin())
    return _summary_of(centres[kept], costs[:, kept], 2 * len(points) * centres.size)


def _summary_of(centres: Floats, costs: NDArray[np.floating], flops: int) -> LeafSummary:
    """Return the summary of samples with squared distances `costs` [N, K] to prototypes, each sample by the
    nearest one; without those that are nearest to none."""
    labels = costs.argmin(axis=1)
    nearest = np.sqrt(costs[np.arange(len(costs)), labels])
    counts = np.bincount(labels, minlength=len(centres)).astype(np.int64)
    kept = np.flatnonzero(counts)
    radii = np.array([np.quantile(nearest[labels == row], QUANTILES) for row in kept])
    return LeafSummary(
        prototypes=centres[kept],
        counts=counts[kept],
        radii=np.minimum(np.maximum.accumulate(radii, axis=1), np.finfo(np.float32).max).astype(np.float32),
        flops=flops,
    )


def _sample(points: Floats, seed: int, most: int) -> Floats:
    if len(points) <= most:
        return points
    return points[np.sort(np.random.default_rng(seed).choice(len(points), most, replace=False))]


def _silhouette(points: Floats, centres: Floats) -> float:
    """Return the mean of (b - a) / max(a, b): a to the nearest centre, b to the second nearest."""
    distances = np.sqrt(squared_distances(points, centres.astype(np.float64)))
    two = np.partition(distances, 1, axis=1)
    own, other = two[:, 0], two[:, 1]
    return float(np.mean(np.where(other > 0, (other - own) / np.where(other > 0, other, 1.0), 0.0)))
