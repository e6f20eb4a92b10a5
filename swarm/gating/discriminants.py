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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.cholesky import Factor, factor_of, solve_by
from swarm.gating.ridge import RIDGES, UNBALANCED, OwnerSums, weight_by_owner
from swarm.gating.sums import constant_of

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
LEAST = min(RIDGES)
"""What is found before a ridge is chosen goes by the least one, whichever are asked for: one or all of them
give the same bits."""
_ROUNDING = 0.01
"""Of the least ridge: sums of fewer samples than features are singular but for rounding."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scatter:
    """How targets' samples lie about their means: `means` float64 [D, T] are `pulled_means`, of which `kept`
    [T] is left; `scatter` [D, D] is the sum of (q - m)(q - m)' over `samples` of them, positive definite with
    any ridge. D features, without the constant, in fixed point."""

    means: Doubles
    kept: Doubles
    scatter: Doubles
    samples: float

    def columns(self, ridges: Sequence[float], fixed_point: float) -> Doubles | None:
        """Return D for each ridge, float64 [R, D + 1, T]: q @ D are log-likelihoods, up to a constant.

        With S the scatter and the ridge, over the samples, d_t(q) = m_t' S^-1 q - m_t' S^-1 m_t / 2. A ridge
        is in units of the features' sums. D adds up to 0 over the targets. None where S is not positive
        definite after all.
        """
        size, targets = self.means.shape
        found = np.zeros((len(ridges), size + 1, targets))
        for row, ridge in enumerate(ridges):
            factor = _factor(_ridged(self.scatter, ridge * fixed_point**2))
            if factor is None:
                return None
            slopes = self.samples * solve_by(factor, self.means)
            found[row, :-1] = slopes
            found[row, -1] = -0.5 * (self.means * slopes).sum(axis=0) / constant_of(fixed_point)
            found[row] -= found[row].mean(axis=1, keepdims=True)
        return found if np.isfinite(found).all() else None


def scatter_of(
    total: Doubles, scattered: Doubles, columns: Doubles, classes: Integers, fixed_point: float
) -> Scatter | None:
    """Return the scatter of targets, each a class in a region, int64 [T] says of which class.

    A class that two domains share under one name has a mean in each. columns [M, T] are the targets' sums of
    features, at least one sample each; the last feature is constant. total [M, M] is F'F and scattered [M, T]
    the targets' sums, both as `scatter_weights` weigh owners. Compact sums may leave out more of the scatter
    than the means explain of it: what it lacks to be positive definite is added to its diagonal (`lifted`).
    None where that would be as much as there is.
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
    means, kept = (columns / samples)[varying], np.ones(len(classes))
    own = lifted(_scatter(*sums, means), fixed_point)
    if own is None:
        return None
    scatter, lift = own
    if len(np.unique(classes)) < len(classes):  # else nothing is pulled, and no factor is needed for that
        pulled = pulled_means(means, samples, classes, _ridged(scatter, LEAST * fixed_point**2))
        if pulled is None:
            return None
        means, kept = pulled
        scatter = _ridged(_scatter(*sums, means), lift)
    return Scatter(means=means, kept=kept, scatter=scatter, samples=float(sums[2].sum()))


def discriminants(
    total: Doubles,
    scattered: Doubles,
    columns: Doubles,
    classes: Integers,
    ridges: Sequence[float],
    fixed_point: float,
) -> Doubles | None:
    """Return the columns of `scatter_of` these sums, float64 [R, M, T]; None where they are too coarse or
    nothing tells the targets apart."""
    scatter = scatter_of(total, scattered, columns, classes, fixed_point)
    found = None if scatter is None else scatter.columns(ridges, fixed_point)
    return found if found is not None and found.any() else None


def pulled_means(
    means: Doubles, samples: Doubles, classes: Integers, scatter: Doubles
) -> tuple[Doubles, Doubles] | None:
    """Return each target's mean [D, T], pulled to its class's as far as its samples do not tell them apart,
    and which part of what sets it apart is kept, [T] from 0 to 1.

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
    distance = samples.sum() * (apart * solve_by(factor, apart)).sum(axis=0)
    chance = len(means) * (1 / samples - 1 / total[classes])
    kept = np.clip(1 - np.divide(chance, distance, out=np.ones_like(chance), where=distance > 0), 0, 1)
    kept[chance <= 0] = 1  # the only target of its class is its class
    pulled: Doubles = centres + kept * apart
    return pulled, kept


def scatter_about(total: Doubles, columns: Doubles, means: Doubles, fixed_point: float) -> Doubles:
    """Return the sum of (q - m)(q - m)' about means [D, T], [D, D], from F'F [M, M] and the targets' sums
    [M, T]."""
    return _scatter(total[:-1, :-1], columns[:-1], class_samples(columns, fixed_point), means)


def lifted(scatter: Doubles, fixed_point: float) -> tuple[Doubles, float] | None:
    """Return scatter [D, D] with what makes it positive definite added to its diagonal, at most a fifth more,
    and how much that is: 0 where nothing is lacking. None where it were more than the diagonal's mean."""
    least, most = LEAST * fixed_point**2, float(np.diag(scatter).mean())
    rounding, enough = _ROUNDING * least, least
    if _factor(_ridged(scatter, rounding)) is not None:
        return scatter, 0.0
    while _factor(_ridged(scatter, enough + rounding)) is None:
        enough *= 2
        if enough > most:
            return None
    too_little = enough / 2
    for _ in range(2):
        middle = float(np.sqrt(too_little * enough))
        if _factor(_ridged(scatter, middle + rounding)) is not None:
            enough = middle
        else:
            too_little = middle
    return _ridged(scatter, enough), enough


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


def _factor(scatter: Doubles) -> Factor | None:
    try:
        return factor_of(scatter)
    except np.linalg.LinAlgError:
        return None
