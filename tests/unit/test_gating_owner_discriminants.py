"""Whose classes a sample is of by what all know, which of them by what the owner alone knows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.class_columns import ClassColumns
from swarm.gating.discriminants import class_samples, discriminants, scatter_weights
from swarm.gating.owner_discriminants import PRIOR, ByClass, solve_by_class
from swarm.gating.ridge import OwnerSums, solve, total_sums
from swarm.gating.sums import compact_sums, exact_gram, pack_triangle, quantised, target_columns

FIXED_POINT, SIZE, CLASSES = 64.0, 41, 4
RIDGES, SPREAD = (3.0, 30.0), 0.12
Samples = tuple[NDArray[np.int16], NDArray[np.int64]]


def samples_of(seed: int, count: int, *, at: float, draw: int = 0) -> Samples:
    """Return samples of one owner, CLASSES classes `at` a place of its own, each owner with its own
    directions in which the samples of a class differ much; features in fixed point, and labels."""
    rng = np.random.default_rng(seed)
    centres = at + SPREAD * rng.normal(size=(CLASSES, SIZE - 1))
    loud = rng.normal(size=(12, SIZE - 1))
    noise = np.random.default_rng((seed, draw, 1))
    labels = np.repeat(np.arange(CLASSES), count)
    features = centres[labels] + noise.normal(size=(len(labels), 12)) @ loud * 0.5
    features += 0.15 * noise.normal(size=features.shape)
    return quantised(features.astype(np.float32), FIXED_POINT, False), labels.astype(np.int64)


def owner_of(name: str, samples: Samples, rank: int = 0) -> OwnerSums:
    q, labels = samples
    columns = target_columns(q, labels, CLASSES)
    if rank:
        return OwnerSums(owner=name, samples=len(q), columns=columns, compact=compact_sums(q, rank))
    return OwnerSums(owner=name, samples=len(q), columns=columns, exact=pack_triangle(exact_gram(q)))


def solved(owners: Sequence[OwnerSums], ridges: Sequence[float] = RIDGES) -> ByClass:
    """Return the discriminants of owners whose classes are all different ones."""
    found = _solved(owners, ridges)
    assert found is not None
    return found


def _solved(owners: Sequence[OwnerSums], ridges: Sequence[float] = RIDGES) -> ByClass | None:
    classes, like = np.arange(CLASSES * len(owners)), solve(owners, ridges, FIXED_POINT)
    columns = np.concatenate([each.columns for each in owners], axis=1)
    return solve_by_class(owners, columns, classes, classes // CLASSES, ridges, FIXED_POINT, like)


def root_of(found: ByClass, row: int = 0) -> ClassColumns:
    return ClassColumns(
        weights=found.weights[row].astype(np.float32),
        rows=found.targets,
        classes=int(found.targets.max()) + 1,
        owners=found.owners,
    )


def right(root: ClassColumns, samples: Samples, owner: int) -> float:
    return float(root.right(samples[0], samples[1] + CLASSES * owner).mean())


ADA, BOB = samples_of(1, 60, at=0.0), samples_of(2, 60, at=1.0)
NEW_ADA, NEW_BOB = samples_of(1, 200, at=0.0, draw=7), samples_of(2, 200, at=1.0, draw=7)


def test_an_owners_classes_are_told_apart_by_its_own_scatter() -> None:
    """Against one covariance for all, on samples that nobody trained on."""
    owners = [owner_of("ada", ADA), owner_of("bob", BOB)]
    found = solved(owners)
    assert found.weights.shape == (2, SIZE, 4 * CLASSES) and found.owners is not None
    assert found.owners.tolist() == [0] * CLASSES + [1] * CLASSES
    weight_of = scatter_weights(owners)
    columns = np.concatenate([each.columns for each in owners], axis=1).astype(np.float64)
    common = discriminants(
        total_sums(owners, weight_of), columns, columns, found.targets, RIDGES, FIXED_POINT
    )
    assert common is not None
    one = ClassColumns(weights=common[0].astype(np.float32), rows=found.targets, classes=2 * CLASSES)
    for owner, new in enumerate((NEW_ADA, NEW_BOB)):
        assert right(root_of(found), new, owner) > right(one, new, owner) + 0.02


def test_nobody_moves_how_an_owners_classes_are_told_apart() -> None:
    few, many = (solved([owner_of("ada", ADA), owner_of("bob", samples_of(2, n, at=1.0))]) for n in (20, 200))
    of_ada = []
    for found in (few, many):
        within = found.weights[0][:, 2 * CLASSES : 3 * CLASSES]
        of_ada.append(within / np.linalg.norm(within))
    np.testing.assert_allclose(of_ada[0], of_ada[1], atol=1e-12)


def test_a_sample_goes_to_the_owner_whose_best_class_is_likeliest_with_more_samples_likelier() -> None:
    owners = [owner_of("ada", ADA), owner_of("bob", samples_of(2, 20, at=1.0))]
    found, classes = solved(owners), np.arange(2 * CLASSES)
    columns = np.concatenate([each.columns for each in owners], axis=1).astype(np.float64)
    weights = np.repeat(list(scatter_weights(owners).values()), CLASSES)
    total = total_sums(owners, scatter_weights(owners))
    between = discriminants(total, columns * weights, columns, classes, RIDGES, FIXED_POINT)
    assert between is not None
    between[:, -1] += PRIOR * np.log(class_samples(columns, FIXED_POINT)) / FIXED_POINT
    ours = found.weights[0][:, : 2 * CLASSES]
    scale = np.linalg.norm(ours[:-1]) / np.linalg.norm(between[0][:-1])
    np.testing.assert_allclose(ours, scale * between[0], rtol=1e-9, atol=1e-12 * np.abs(ours).max())
    q = np.concatenate([NEW_ADA[0], NEW_BOB[0]]).astype(np.float64)
    owner = (q @ between[0]).argmax(axis=1) // CLASSES
    assert np.array_equal(root_of(found).scores(q).argmax(axis=1) // CLASSES, owner)


def test_they_spread_as_the_columns_that_they_stand_for() -> None:
    owners = [owner_of("ada", ADA), owner_of("bob", BOB)]
    for some in (owners, owners[:1]):
        found, like = solved(some), solve(some, RIDGES, FIXED_POINT)
        assert (found.owners is None) == (len(some) == 1)
        means = np.concatenate([each.columns * FIXED_POINT / each.columns[-1] for each in some], axis=1).T
        for row in range(2):
            ours, theirs = root_of(found, row).scores(means), means @ like[row]
            spreads = [(s.diagonal() - s.mean(axis=1)).mean() for s in (ours, theirs)]
            assert np.isclose(*spreads, rtol=1e-4)


def test_the_order_in_which_targets_come_changes_nothing() -> None:
    owners = [owner_of("ada", ADA), owner_of("bob", BOB)]
    columns = np.concatenate([each.columns for each in owners], axis=1)
    like, classes = solve(owners, RIDGES, FIXED_POINT), np.arange(2 * CLASSES)
    order = np.random.default_rng(0).permutation(2 * CLASSES)
    here = solve_by_class(owners, columns, classes, classes // CLASSES, RIDGES, FIXED_POINT, like)
    mixed = solve_by_class(owners, columns[:, order], order, order // CLASSES, RIDGES, FIXED_POINT, like)
    assert here is not None and mixed is not None
    assert np.array_equal(here.weights, mixed.weights) and np.array_equal(here.targets, mixed.targets)


@pytest.mark.parametrize(("rank", "least"), [(6, 0.27), (16, 0.85), (30, 0.85)])
def test_compact_sums_that_leave_out_what_the_means_explain_tell_classes_apart(
    rank: int, least: float
) -> None:
    """Of rank 6 they have less than the loud directions alone: S is not positive definite by far."""
    found = solved([owner_of("ada", ADA, rank), owner_of("bob", BOB, rank)], (30.0,))
    assert right(root_of(found), NEW_ADA, 0) > least and right(root_of(found), NEW_BOB, 1) > least


def test_a_class_without_samples_has_no_column_and_an_owner_of_one_class_is_no_trouble() -> None:
    q, labels = BOB
    one = owner_of("bob", (q[labels == 2], labels[labels == 2]))
    found = solved([owner_of("ada", ADA), one])
    assert found.targets.tolist() == [0, 1, 2, 3, 6]
    assert right(root_of(found), NEW_ADA, 0) > 0.8
    new = NEW_BOB[0][NEW_BOB[1] == 2]
    assert root_of(found).right(new, np.full(len(new), 6)).mean() > 0.9


def test_where_nothing_tells_classes_apart_there_are_none() -> None:
    q, labels = samples_of(1, 40, at=0.0)
    blank = np.zeros_like(q)
    blank[:, -1] = round(FIXED_POINT)
    owners = [owner_of("ada", (blank, labels)), owner_of("bob", (blank, labels))]
    assert _solved(owners) is None


def test_columns_to_spread_like_have_to_fit() -> None:
    owners, classes = [owner_of("ada", ADA)], np.arange(CLASSES)
    with pytest.raises(ShapeMismatchError, match="spread like"):
        solve_by_class(
            owners, owners[0].columns, classes, 0 * classes, RIDGES, FIXED_POINT, np.ones((2, SIZE, 2))
        )


def test_an_owners_weight_changes_nothing_within_it() -> None:
    """One with far more samples than others counts as many as the median between them."""
    large = owner_of("cyd", samples_of(3, 600, at=-1.0))
    found = solved([owner_of("ada", ADA), owner_of("bob", BOB), large])
    alone = discriminants(
        total_sums([large], {"cyd": 1.0}),
        large.columns.astype(np.float64),
        large.columns.astype(np.float64),
        np.arange(CLASSES),
        RIDGES,
        FIXED_POINT,
    )
    assert alone is not None
    within = found.weights[0][:, -CLASSES:]
    np.testing.assert_allclose(
        within / np.linalg.norm(within), alone[0] / np.linalg.norm(alone[0]), atol=1e-9
    )
    renamed = [
        replace(each, owner=f"x-{each.owner}") for each in (owner_of("ada", ADA), owner_of("bob", BOB))
    ]
    assert solved(renamed).weights.shape == (2, SIZE, 4 * CLASSES)
