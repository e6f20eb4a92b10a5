"""Linear discriminants from owners' sums, for a root whose classes differ much in their samples.

Least squares on one-hot targets lets a class of many samples drown one of few: its scores are about the
classes' probabilities among all samples, so that of a class with 15 of 25,000 samples is next to nothing
wherever it lies, and falls further as others grow. Discriminants of Gaussian classes with one covariance
judge by the distance to the class's mean instead, however many samples made it. They need the same sums: the
scatter within the classes is F'F less what the classes' means explain.

Each owner's scatter counts by how well its samples know a covariance of M features, not by how many they are:
else one owner's classes would go on falling as others grow. Source: Fisher 1936; streaming and with
shrinkage, SLDA (Hayes & Kanan 2020); from random features, RanPAC (McDonnell et al. 2023).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.ridge import UNBALANCED, OwnerSums, weight_by_owner
from swarm.gating.sums import constant_of

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


def are_unbalanced(samples: Doubles) -> bool:
    """Return whether the largest class has more than UNBALANCED times the (lower) median's samples [C]."""
    return bool(samples.max() > UNBALANCED * np.quantile(samples, 0.5, method="lower"))


def class_samples(columns: NDArray[np.integer] | Doubles, fixed_point: float) -> Doubles:
    """Return how many samples made each class's column, float64 [C]: what its constant feature counts."""
    samples: Doubles = columns[-1] / constant_of(fixed_point)
    return samples


def scatter_weights(owners: Sequence[OwnerSums]) -> dict[str, float]:
    """Return by which weight each owner's sums make the scatter within the classes.

    With s_j the samples that `weight_by_owner` lets it have and M features, s_j / (s_j + M) is the trust in
    its covariance: few samples count each, many together not more than 1. Scaled, so that the weighted
    samples are as many as before and a ridge means the same.
    """
    weight_of = weight_by_owner(owners)
    had = {each.owner: weight_of[each.owner] * each.samples for each in owners}
    size = owners[0].size
    trust = {owner: samples / (samples + size) for owner, samples in had.items()}
    scale = sum(had[owner] for owner in sorted(had)) / sum(trust[owner] for owner in sorted(trust))
    return {owner: weight_of[owner] * scale * trust[owner] / samples for owner, samples in had.items()}


def discriminants(
    total: Doubles,
    scattered: Doubles,
    columns: Doubles,
    classes: Integers,
    ridges: Sequence[float],
    fixed_point: float,
) -> Doubles | None:
    """Return D for each ridge, float64 [R, M, T]: q @ D are the targets' log-likelihoods, up to a constant.

    A target is a class in a region, classes int64 [T] are theirs: a class that two domains share under one
    name has a mean in each. columns [M, T] are the targets' sums of features, at least one sample each; the
    last feature is constant. total [M, M] is F'F and scattered [M, T] the targets' sums, both as
    `scatter_weights` weigh owners. The means m are those of `pulled_means`; S is the sum of
    (q - m_t)(q - m_t)' within the targets over their samples. With a ridge in units of the features' sums,
    d_t(q) = m_t' S^-1 q - m_t' S^-1 m_t / 2. D adds up to 0 over the targets. None where the sums are too
    coarse for S to be positive definite.
    """
    shape = (len(columns), len(classes))
    if not columns.shape == scattered.shape == shape or total.shape != (shape[0], shape[0]):
        raise ShapeMismatchError(
            "class columns", found=str(list(columns.shape)), expected=f"{[len(total), len(classes)]}"
        )
    samples = class_samples(columns, fixed_point)
    if samples.min() <= 0:
        raise InvalidInputError("class columns", found="a class without samples", expected="at least one")
    varying = slice(0, shape[0] - 1)  # the constant tells no class from another
    sums = total[varying, varying], scattered[varying], class_samples(scattered, fixed_point)
    means = (columns / samples)[varying]
    if len(np.unique(classes)) < len(classes):  # else nothing is pulled, and no factor is needed for that
        least = min(ridges) * fixed_point**2
        pulled = pulled_means(means, samples, classes, _ridged(_scatter(*sums, means), least))
        if pulled is None:
            return None
        means = pulled
    within = _scatter(*sums, means)
    found = np.zeros((len(ridges), *shape))
    for row, ridge in enumerate(ridges):
        factor = _factor(_ridged(within, ridge * fixed_point**2))
        if factor is None:
            return None
        slopes = sums[2].sum() * cho_solve(factor, means, check_finite=False)
        found[row, varying] = slopes
        found[row, -1] = -0.5 * (means * slopes).sum(axis=0) / constant_of(fixed_point)
        found[row] -= found[row].mean(axis=1, keepdims=True)
    return found if np.isfinite(found).all() and found.any() else None


def pulled_means(means: Doubles, samples: Doubles, classes: Integers, scatter: Doubles) -> Doubles | None:
    """Return each target's mean [D, T], pulled to its class's as far as its samples do not tell them apart.

    With m the target's mean of n samples, g its class's of N, and d2 the squared distance between them under
    the covariance scatter / sum of samples [D, D], the expected d2 of equal means is D (1/n - 1/N):
    g + max(0, 1 - D (1/n - 1/N) / d2) (m - g). Source: the positive-part estimator of James & Stein 1961
    (Baranchik 1964). None where the scatter is not positive definite.
    """
    of_class = np.zeros((int(classes.max()) + 1, len(means)))
    total = np.zeros(len(of_class))
    np.add.at(of_class, classes, (means * samples).T)
    np.add.at(total, classes, samples)
    centres = (of_class[classes] / total[classes, None]).T
    factor = _factor(scatter)
    if factor is None:
        return None
    apart = means - centres
    distance = samples.sum() * (apart * cho_solve(factor, apart, check_finite=False)).sum(axis=0)
    chance = len(means) * (1 / samples - 1 / total[classes])
    kept = np.clip(1 - np.divide(chance, distance, out=np.ones_like(chance), where=distance > 0), 0, 1)
    pulled: Doubles = centres + kept * apart
    return pulled


def scatter_about(total: Doubles, columns: Doubles, fixed_point: float) -> Doubles:
    """Return S without the constant, [M - 1, M - 1]: the sum of (q - m)(q - m)' about the targets' own means,
    from F'F [M, M] and the targets' sums [M, T]."""
    samples, varying = class_samples(columns, fixed_point), slice(0, len(total) - 1)
    means = (columns / samples)[varying]
    return _scatter(total[varying, varying], columns[varying], samples, means)


def is_definite(scatter: Doubles, added: float) -> bool:
    """Return whether a symmetric matrix is positive definite with `added` on its diagonal."""
    return _factor(_ridged(scatter, added)) is not None


def _scatter(total: Doubles, columns: Doubles, samples: Doubles, means: Doubles) -> Doubles:
    """Return the sum of (q - m)(q - m)' over samples whose targets have these sums and means, [D, D]."""
    explained = columns @ means.T
    found: Doubles = total - explained - explained.T + (means * samples) @ means.T
    return found


def _ridged(scatter: Doubles, added: float) -> Doubles:
    """Return a copy with `added` on the diagonal."""
    found = scatter.copy()
    found[np.diag_indices(len(found))] += added
    return found


def _factor(scatter: Doubles) -> tuple[Doubles, bool] | None:
    try:
        found: tuple[Doubles, bool] = cho_factor(scatter, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    return found
