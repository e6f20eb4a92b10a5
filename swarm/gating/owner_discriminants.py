"""Discriminants of several owners: whose classes a sample is of, and which of that owner's classes it is.

The first is told by a covariance that owners make together (`swarm.gating.discriminants`), the second by each
owner's own: what characters vary in is not what photographs vary in, and nobody else moves how an owner's
classes are told apart. Both come from the sums that are there. Source: quadratic discriminant analysis has a
covariance for each class, regularised (Friedman 1989) one between that and a common one; here it is one for
each owner, and between owners the common one, which needs no more columns than classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.class_columns import best_of_class, target_scores
from swarm.gating.discriminants import (
    class_samples,
    discriminants,
    is_definite,
    scatter_about,
    scatter_weights,
)
from swarm.gating.ridge import OwnerSums, total_sums, weight_by_owner
from swarm.gating.sums import constant_of

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
PRIOR = 10.0
"""By how much a class of e times the samples is likelier beforehand, between owners, as a log-likelihood.
Features lie further from their means than Gaussian ones: with as little as exact likelihoods have, 1, classes
of a dozen samples take from others what is odd there, and more of it as those become more (ADR 16)."""
_ROUNDING = 0.01
"""Of the least ridge: sums of fewer samples than features are singular but for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByClass:
    """Discriminants for the classes `targets` int64 [K], ascending: `weights` float64 [R, M, K], or, with
    `owners` int64 [K], those between the owners and those within them, [R, M, 2K] (`ClassColumns`). `places`
    int64 [K] say which of the targets asked for each of them is."""

    weights: Doubles
    targets: Integers
    places: Integers
    owners: Integers | None


def solve_by_class(
    owners: Sequence[OwnerSums],
    columns: NDArray[np.integer],
    classes: Integers,
    owner_of: Integers,
    ridges: Sequence[float],
    fixed_point: float,
    like: Doubles,
    *,
    prior: float = PRIOR,
) -> ByClass | None:
    """Return the discriminants of owners' classes for each ridge, spread as the columns like [R, M, C] are.

    columns [M, T] are the targets' sums of features, classes int64 [T] below C, owner_of int64 [T] below
    the number of owners. None where sums are too coarse, or nothing tells the classes apart.
    """
    names = [each.owner for each in owners]
    order = np.argsort(classes, kind="stable")
    order = order[class_samples(columns[:, order], fixed_point) > 0]
    columns, classes, owner_of = columns[:, order], classes[order], owner_of[order]
    weight_of, plain = scatter_weights(owners), weight_by_owner(owners)
    counted = columns * np.array([plain[name] for name in names])[owner_of]
    scattered = columns * np.array([weight_of[name] for name in names])[owner_of]
    total = total_sums(owners, weight_of)
    between = discriminants(total, scattered, counted, classes, ridges, fixed_point)
    if between is None:
        return None
    there, places = np.unique(owner_of, return_inverse=True)
    if len(there) == 1:
        found = _likened(between, counted, classes, None, fixed_point, like)
        return None if found is None else ByClass(weights=found, targets=classes, places=order, owners=None)
    within = between.copy()
    for place, owner in enumerate(there):
        rows = np.flatnonzero(places == place)
        own = _own_discriminants(owners[owner], columns[:, rows], classes[rows], ridges, fixed_point)
        if own is not None:
            within[:, :, rows] = own
    between[:, -1] += prior * np.log(class_samples(counted, fixed_point)) / constant_of(fixed_point)
    found = _likened(np.concatenate([between, within], axis=2), counted, classes, places, fixed_point, like)
    return None if found is None else ByClass(weights=found, targets=classes, places=order, owners=places)


def _own_discriminants(
    owner: OwnerSums,
    columns: NDArray[np.integer],
    classes: Integers,
    ridges: Sequence[float],
    fixed_point: float,
) -> Doubles | None:
    """Return D for each ridge, float64 [R, M, T], of one owner's targets' sums, as `discriminants`.

    Compact sums may leave out more of the scatter than the means explain of it: what S lacks to be positive
    definite is added to its diagonal. None where that would be as much as there is on it.
    """
    total, sums = total_sums([owner], {owner.owner: 1.0}), columns.astype(np.float64)
    lift = _lift(scatter_about(total, sums, fixed_point) / fixed_point**2, min(ridges))
    if lift is None:
        return None
    return discriminants(total, sums, sums, classes, [lift + ridge for ridge in ridges], fixed_point)


def _lift(scatter: Doubles, ridge: float) -> float | None:
    """Return what makes scatter [D, D] positive definite when it is added to the diagonal, at most a fifth
    more; 0 where nothing is lacking, None where it were more than the diagonal's mean."""
    rounding = _ROUNDING * ridge
    if is_definite(scatter, rounding):
        return 0.0
    most, enough = float(np.diag(scatter).mean()), ridge
    while not is_definite(scatter, enough + rounding):
        enough *= 2
        if enough > most:
            return None
    too_little = enough / 2
    for _ in range(2):
        middle = float(np.sqrt(too_little * enough))
        if is_definite(scatter, middle + rounding):
            enough = middle
        else:
            too_little = middle
    return enough


def _likened(
    found: Doubles,
    columns: Doubles,
    classes: Integers,
    owners: Integers | None,
    fixed_point: float,
    like: Doubles,
) -> Doubles | None:
    """Return found [R, M, J], scaled for each ridge to spread as least squares columns `like` [R, M, C] do.

    By how much a target's class exceeds the mean of all classes at the target's mean, averaged over the
    samples in columns [M, T], so that temperatures and corrections mean the same for both. classes, owners
    int64 [T] as for `ClassColumns`. None where nothing tells the classes apart.
    """
    if like.shape[:2] != found.shape[:2] or int(classes.max()) >= like.shape[2]:
        raise ShapeMismatchError(
            "columns to spread like", found=str(list(like.shape)), expected=f"{[*found.shape[:2], 'C']}"
        )
    samples, known = class_samples(columns, fixed_point), np.unique(classes)
    means = columns / samples
    scaled = np.zeros_like(found)
    for row, (ours, theirs) in enumerate(zip(found, like, strict=True)):
        scores = best_of_class(target_scores(means.T @ ours, owners), classes, int(classes.max()) + 1)
        reach = _spread(scores[:, known], samples, classes, known)
        if not reach > 0:
            return None
        scaled[row] = ours * (max(_spread(means.T @ theirs[:, known], samples, classes, known), 0.0) / reach)
    return scaled if np.isfinite(scaled).all() and scaled.any() else None


def _spread(scores: Doubles, samples: Doubles, classes: Integers, known: Integers) -> float:
    """Return by how much a target's class exceeds the mean of all, averaged over samples. scores [T, C] of
    the known classes [C], ascending."""
    own = scores[np.arange(len(classes)), np.searchsorted(known, classes)] - scores.mean(axis=1)
    return float(own @ samples / samples.sum())
