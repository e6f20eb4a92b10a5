"""A leaf's samples in two parts by 2-means, neither of which tells of too few; and a gate between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.distances import squared_distances
from swarm.gating.kmeans import balanced_kmeans
from swarm.gating.regions import FIT_ROWS, MIN_CLASS_COUNT

Floats = NDArray[np.float32]
ATTEMPTS = 5
_ITERATIONS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Which samples belong to the second part, bool [N]; `moved` classes lie in one part by their small
    number; `flops` is what finding the parts cost."""

    second: NDArray[np.bool_]
    moved: tuple[str, ...]
    flops: int

    def of(self, part: int) -> NDArray[np.int64]:
        """Return the rows of part 0 or 1, int64, rising."""
        return np.flatnonzero(self.second if part else ~self.second)


def two_parts(
    regions: Floats,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    told: Mapping[str, int],
    *,
    min_count: int,
    seed: int,
    subject: str,
) -> Parts:
    """Return a leaf's samples in two parts by balanced 2-means on their features in region columns [N, R].

    Balanced while the centres are sought; then each sample goes to the nearer one (Gururangan et al. 2023).
    labels int64 [N] are rows of class_names (-1: the gate is told nothing of the sample), `told` the classes
    that the gate is told of. One of them with
    fewer than MIN_CLASS_COUNT samples in a part lies in the other part altogether. Tries up to five seeds;
    raises InvalidInputError where each leaves a part with fewer than min_count told samples.
    """
    sample = _sample(regions, seed)
    flops, sizes = 0, (0, len(regions))
    for attempt in range(ATTEMPTS):
        if len(sample) < 2:
            break
        fit = balanced_kmeans(sample, 2, seed=seed + attempt)
        second = squared_distances(regions, fit.centres.astype(np.float64)).argmin(axis=1) == 1
        flops += fit.flops + 4 * regions.size
        second, moved = _small_classes_moved(second, labels, class_names, told)
        is_told = np.isin(labels, [row for row, name in enumerate(class_names) if name in told])
        found = (int((is_told & ~second).sum()), int((is_told & second).sum()))
        if min(found) >= min_count:
            return Parts(second=second, moved=moved, flops=flops)
        sizes = max(sizes, found, key=min)
    raise InvalidInputError(
        f"split of {subject}",
        found=f"parts of {sizes[0]} and {sizes[1]} samples at best, of {len(regions)}",
        expected=f"at least {min_count} in each, the least that a leaf may stand for",
        remedy="split it when it has more samples",
    )


def _small_classes_moved(
    second: NDArray[np.bool_],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    told: Mapping[str, int],
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    second, moved = second.copy(), []
    for row, name in enumerate(class_names):
        own = labels == row
        there, here = int((own & second).sum()), int((own & ~second).sum())
        if name in told and 0 < min(here, there) < MIN_CLASS_COUNT:
            second[own] = there > here
            moved.append(name)
    return second, tuple(moved)


def fit_gate(
    regions: Floats, first: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32] | None:
    """Return a learned binary gate over region columns [N, R] and the constant 1, float32 [R + 1]: the
    logistic of (regions, 1) times it is the share of the first of two children.

    `first` bool [N] says whose a sample is, `weights` [N] how much that counts. None where all are of one.
    """
    from sklearn.linear_model import LogisticRegression

    if first.all() or not first.any():
        return None
    rows = _rows(len(regions), 0)
    points = regions[rows].astype(np.float64)
    mean, scale = points.mean(axis=0), points.std(axis=0)
    scale[scale < 1e-6 * max(float(scale.max()), 1e-12)] = np.inf
    model = LogisticRegression(C=1.0, max_iter=_ITERATIONS)
    model.fit((points - mean) / scale, first[rows], None if weights is None else weights[rows])
    slopes = model.coef_[0] / scale
    found = np.concatenate([slopes, model.intercept_ - slopes @ mean]).astype(np.float32)
    return found if np.isfinite(found).all() else None


def _sample(regions: Floats, seed: int) -> Floats:
    return regions[_rows(len(regions), seed)]


def _rows(count: int, seed: int) -> NDArray[np.int64]:
    if count <= FIT_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, FIT_ROWS, replace=False)).astype(np.int64)
