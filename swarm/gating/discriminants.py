"""Linear discriminants from owners' sums, for a root whose classes differ much in their samples.

Least squares on one-hot targets lets a class of many samples drown one of few: its scores are about the
classes' probabilities among all samples, so that of a class with 15 of 25,000 samples is next to nothing
wherever it lies, and falls further as others grow. Discriminants of Gaussian classes with one covariance
judge by the distance to the class's mean instead, however many samples made it. They need the same sums: the
scatter within the classes is F'F less what the classes' means explain. Each owner's scatter counts by how
well its samples know a covariance of M features, not by how many they are: else one owner's classes would go
on falling as others grow. Source: Fisher 1936; streaming and with shrinkage, SLDA (Hayes & Kanan 2020); from
random features, RanPAC (McDonnell et al. 2023).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.ridge import UNBALANCED, OwnerSums, weight_by_owner
from swarm.gating.sums import constant_of

Doubles = NDArray[np.float64]


def are_unbalanced(samples: Doubles) -> bool:
    """Return whether the largest class has more than UNBALANCED times the (lower) median's samples [C]."""
    return bool(samples.max() > UNBALANCED * np.quantile(samples, 0.5, method="lower"))


def class_samples(columns: Doubles, fixed_point: float) -> Doubles:
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
    ridges: Sequence[float],
    fixed_point: float,
    like: Doubles,
) -> Doubles | None:
    """Return D for each ridge, float64 [R, M, C]: scores q @ D of features in fixed point are discriminants.

    columns [M, C] are the classes' sums of features, at least one sample each, and make the means m; the last
    feature is constant. total [M, M] is F'F and scattered [M, C] the classes' sums, both as `scatter_weights`
    weigh owners; they make S, the sum of (q - m_c)(q - m_c)' within the classes. With a ridge in units of the
    features' sums, d_c(q) = m_c' S^-1 q - m_c' S^-1 m_c / 2. They are scaled to spread as the columns `like`
    [R, M, C] do over the classes' means, so that temperatures mean the same for both, and add up to 0 over
    the classes. None where the sums are too coarse for S to be positive definite, or nothing tells the
    classes apart.
    """
    if not columns.shape == scattered.shape == like.shape[1:] or total.shape != (len(columns), len(columns)):
        raise ShapeMismatchError(
            "class columns", found=str(list(columns.shape)), expected=f"{list(like.shape[1:])}"
        )
    samples = class_samples(columns, fixed_point)
    if samples.min() <= 0:
        raise InvalidInputError("class columns", found="a class without samples", expected="at least one")
    means = columns / samples
    varying = slice(0, len(columns) - 1)  # the constant tells no class from another
    explained = scattered[varying] @ means[varying].T
    counted = class_samples(scattered, fixed_point)
    within = total[varying, varying] - explained - explained.T + (means[varying] * counted) @ means[varying].T
    found = np.zeros((len(ridges), *columns.shape))
    for row, ridge in enumerate(ridges):
        work = within.copy()
        work[np.diag_indices(len(work))] += ridge * fixed_point**2
        try:
            factor = cho_factor(work, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        slopes = cho_solve(factor, means[varying], check_finite=False)
        found[row, varying] = slopes
        found[row, -1] = -0.5 * (means[varying] * slopes).sum(axis=0) / constant_of(fixed_point)
        found[row] -= found[row].mean(axis=1, keepdims=True)
        reach = _spread(found[row], means, samples)
        if not reach > 0:
            return None
        found[row] *= max(_spread(like[row], means, samples), 0.0) / reach
    return found if np.isfinite(found).all() and found.any() else None


def _spread(columns: Doubles, means: Doubles, samples: Doubles) -> float:
    """Return by how much a class's own score at its mean exceeds the mean of all, averaged over samples."""
    scores = means.T @ columns
    own = scores.diagonal() - scores.mean(axis=1)
    return float(own @ samples / samples.sum())
