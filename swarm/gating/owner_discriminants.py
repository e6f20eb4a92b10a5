"""Discriminants of several owners: whose classes a sample is of, and which of that owner's classes it is.

The first is told by a covariance that owners make together (`swarm.gating.discriminants`), the second by each
owner's own as far as its samples know one: what characters vary in is not what photographs vary in, and
others hardly move how an owner's classes are told apart. Both come from the sums that are there. Source:
regularised discriminant analysis (Friedman 1989) goes from one covariance to one for each class; here it goes
to one for each owner, and between owners it stays at the common one, which needs no more columns than
targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.class_columns import best_of_class, target_scores
from swarm.gating.discriminants import (
    Scatter,
    class_samples,
    lifted,
    scatter_about,
    scatter_of,
    scatter_weights,
)
from swarm.gating.ridge import OwnerSums, total_sums, weight_by_owner
from swarm.gating.sums import constant_of

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
COMMON = 0.5
"""So many samples for each feature are what the common covariance counts in an owner's own (ADR 16)."""
RIDGE_FOR = 4.0
"""Below so many samples for each feature an owner's ridge is the smaller the fewer there are: chosen for all
owners' sums together, it would drown those of a small one."""


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
    common: float = COMMON,
    handicap: float = 1.0,
) -> ByClass | None:
    """Return the discriminants of owners' classes for each ridge, spread as the columns like [R, M, C] are.

    columns [M, T] are the targets' sums of features, classes int64 [T] below C, owner_of int64 [T] below
    the number of owners. None where sums are too coarse, or nothing tells the classes apart. `common` and
    `handicap`, what is taken from each target in units of `_flattered`, differ in benchmarks only.
    """
    names = [each.owner for each in owners]
    order = np.argsort(classes, kind="stable")
    order = order[class_samples(columns[:, order], fixed_point) > 0]
    columns, classes, owner_of = columns[:, order], classes[order], owner_of[order]
    weight_of, plain = scatter_weights(owners), weight_by_owner(owners)
    counted = columns * np.array([plain[name] for name in names])[owner_of]
    scattered = columns * np.array([weight_of[name] for name in names])[owner_of]
    scatter = scatter_of(total_sums(owners, weight_of), scattered, counted, classes, fixed_point)
    between = None if scatter is None else scatter.columns(ridges, fixed_point)
    if scatter is None or between is None:
        return None
    there, places = np.unique(owner_of, return_inverse=True)
    if len(there) == 1:
        found = _likened(between, counted, classes, None, fixed_point, like)
        return None if found is None else ByClass(weights=found, targets=classes, places=order, owners=None)
    within = between.copy()
    for place, owner in enumerate(there):
        rows = np.flatnonzero(places == place)
        own = _own_scatter(owners[owner], columns[:, rows], rows, scatter, common, fixed_point)
        if own is None:
            continue
        share = min(1.0, own.samples / (RIDGE_FOR * len(scatter.means)))
        of_owner = own.columns([share * ridge for ridge in ridges], fixed_point)
        if of_owner is not None:
            within[:, :, rows] = of_owner
    flattered = _flattered(class_samples(columns, fixed_point), classes, places, scatter)
    between[:, -1] -= handicap * flattered / constant_of(fixed_point)
    between -= between.mean(axis=2, keepdims=True)  # a class without a column scores 0: less than the best
    found = _likened(np.concatenate([between, within], axis=2), counted, classes, places, fixed_point, like)
    return None if found is None else ByClass(weights=found, targets=classes, places=order, owners=places)


def _own_scatter(
    owner: OwnerSums,
    columns: NDArray[np.integer],
    rows: Integers,
    scatter: Scatter,
    common: float,
    fixed_point: float,
) -> Scatter | None:
    """Return one owner's scatter about its targets' means, columns `rows` of the common scatter, to which
    that adds as much as `common` samples for each feature would. None where the owner's sums are too coarse.
    """
    means, sums = scatter.means[:, rows], columns.astype(np.float64)
    own = scatter_about(total_sums([owner], {owner.owner: 1.0}), sums, means, fixed_point)
    counted = common * (len(means) + 1)
    own += (counted / scatter.samples) * scatter.scatter
    if owner.compact is not None:
        found = lifted(own, fixed_point)
        if found is None:
            return None
        own = found[0]
    samples = float(class_samples(sums, fixed_point).sum()) + counted
    return Scatter(means=means, kept=scatter.kept[rows], scatter=own, samples=samples)


def _flattered(samples: Doubles, classes: Integers, owners: Integers, scatter: Scatter) -> Doubles:
    """Return by how much the best of an owner's targets is too likely because their means are known from few
    samples [T], as a log-likelihood [T].

    About D from each mean, a sample's log-likelihood is off by noise of variance D / n; the largest of T such
    is too large by z_T sqrt(D / n), z_T being the expected maximum of T normal variables. A pulled mean is as
    good as one of so many samples as give the variance kept / n + (1 - kept) / N. Source: for z_T, Blom 1958.
    """
    from scipy.special import ndtri  # where it is needed: services start without it

    of_class = np.bincount(classes, weights=samples)[classes]
    noise = scatter.kept / samples + (1 - scatter.kept) / of_class
    rivals = np.bincount(owners)[owners]
    largest: Doubles = ndtri((rivals - 0.375) / (rivals + 0.25))
    return largest * np.sqrt(len(scatter.means) * noise)


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
    samples in columns [M, T] of each owner, so that temperatures and corrections mean the same for both; the
    median of the owners counts, so that one whose classes are very far apart makes nobody else's answers
    faint. classes, owners int64 [T] as for `ClassColumns`. None where nothing tells the classes apart.
    """
    if like.shape[:2] != found.shape[:2] or int(classes.max()) >= like.shape[2]:
        raise ShapeMismatchError(
            "columns to spread like", found=str(list(like.shape)), expected=f"{[*found.shape[:2], 'C']}"
        )
    samples, known = class_samples(columns, fixed_point), np.unique(classes)
    means, whose = columns / samples, np.zeros_like(classes) if owners is None else owners
    scaled = np.zeros_like(found)
    for row, (ours, theirs) in enumerate(zip(found, like, strict=True)):
        scores = best_of_class(target_scores(means.T @ ours, owners), classes, int(classes.max()) + 1)
        reach = _spread(scores[:, known], samples, classes, whose)
        wanted = _spread(means.T @ theirs[:, known], samples, classes, whose)
        told_apart = reach > 0
        if not told_apart.any():
            return None
        ratios = np.maximum(wanted[told_apart], 0) / reach[told_apart]
        scaled[row] = ours * np.quantile(ratios, 0.5, method="lower")
    return scaled if np.isfinite(scaled).all() and scaled.any() else None


def _spread(scores: Doubles, samples: Doubles, classes: Integers, owners: Integers) -> Doubles:
    """Return by how much a target's class exceeds the mean of all, averaged over each owner's samples, [O].
    scores [T, C] are of the known classes, ascending."""
    column = np.searchsorted(np.unique(classes), classes)
    own = scores[np.arange(len(classes)), column] - scores.mean(axis=1)
    spread: Doubles = np.bincount(owners, weights=own * samples) / np.bincount(owners, weights=samples)
    return spread
