"""Whose classes a sample is of by what all know, which of them by what the owner alone knows."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.class_columns import ClassColumns
from swarm.gating.discriminants import class_samples, discriminants, scatter_weights
from swarm.gating.owner_discriminants import COMMON, ByClass, solve_by_class
from swarm.gating.ridge import RIDGES as ALL_RIDGES
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


def solved(owners: Sequence[OwnerSums], ridges: Sequence[float] = RIDGES, **options: float) -> ByClass:
    """Return the discriminants of owners whose classes are all different ones."""
    found = _solved(owners, ridges, **options)
    assert found is not None
    return found


def _solved(
    owners: Sequence[OwnerSums],
    ridges: Sequence[float] = RIDGES,
    *,
    shared: bool = False,
    **options: float,
) -> ByClass | None:
    targets, like = np.arange(CLASSES * len(owners)), solve(owners, ridges, FIXED_POINT)
    classes = targets % CLASSES if shared else targets
    if shared:
        like = like.reshape(len(ridges), SIZE, len(owners), CLASSES).sum(axis=2)
    columns = np.concatenate([each.columns for each in owners], axis=1)
    return solve_by_class(owners, columns, classes, targets // CLASSES, ridges, FIXED_POINT, like, **options)


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
        assert right(root_of(found), new, owner) > right(one, new, owner) + 0.01


def test_others_hardly_move_how_an_owners_classes_are_told_apart() -> None:
    def within(count: int, **options: float) -> NDArray[np.float64]:
        owners = [owner_of("ada", ADA), owner_of("bob", samples_of(2, count, at=1.0))]
        columns = solved(owners, **options).weights[0][:, 2 * CLASSES : 3 * CLASSES]
        return columns / np.linalg.norm(columns)

    np.testing.assert_allclose(within(20, common=0.0), within(200, common=0.0), atol=1e-12)
    assert (within(20) * within(200)).sum() > 0.99  # the cosine


def test_owners_of_the_same_classes_lose_little_by_being_several() -> None:
    """Six of twelve samples for each class, 48 for 40 features, who know no covariance of their own."""
    q, labels = samples_of(1, 72, at=0.0)
    owners = [owner_of(f"node-{row}", (q[row::6], labels[row::6])) for row in range(6)]
    found, without = (_solved(owners, shared=True, common=common) for common in (COMMON, 0.0))
    assert found is not None and without is not None
    whole = right(root_of(solved([owner_of("all", (q, labels))])), NEW_ADA, 0)
    apart, alone = (right(root_of(each), NEW_ADA, 0) for each in (found, without))
    assert whole - 0.08 < apart > alone + 0.02


def test_the_best_of_many_targets_known_from_few_samples_is_taken_to_be_flattered() -> None:
    """By hand: Blom's expected maximum of four normal variables, 1.049, times sqrt(D / n)."""
    owners = [owner_of("ada", ADA), owner_of("bob", samples_of(2, 20, at=1.0))]
    plain, handicapped = solved(owners, handicap=0.0), solved(owners)
    columns = np.concatenate([each.columns for each in owners], axis=1)
    flattered = 1.04913 * np.sqrt((SIZE - 1) / class_samples(columns, FIXED_POINT))
    between = [each.weights[0][:, : 2 * CLASSES] for each in (plain, handicapped)]
    scale = np.linalg.norm(between[1][:-1]) / np.linalg.norm(between[0][:-1])
    taken = between[0][-1] * scale - between[1][-1]
    assert np.ptp(flattered) > 0.5
    weight_of = scatter_weights(owners)
    natural = discriminants(
        total_sums(owners, weight_of),
        columns * np.repeat([weight_of["ada"], weight_of["bob"]], CLASSES),
        columns.astype(np.float64),
        plain.targets,
        RIDGES,
        FIXED_POINT,
    )
    assert natural is not None
    unit = np.linalg.norm(between[1][:-1]) / np.linalg.norm(natural[0][:-1])
    expected = unit * (flattered - flattered.mean()) / FIXED_POINT
    np.testing.assert_allclose(taken, expected, rtol=1e-3, atol=1e-9)
    assert np.abs(handicapped.weights[0][:, : 2 * CLASSES].sum(axis=1)).max() < 1e-9


def test_regions_that_do_not_differ_count_as_one() -> None:
    """The same samples in four regions: their means are pulled together, and known as well as all are."""
    q, labels = ADA
    targets = labels * 4 + np.arange(len(labels)) % 4
    columns = target_columns(q, targets, 4 * CLASSES)
    split = OwnerSums(owner="ada", samples=len(q), columns=columns, exact=pack_triangle(exact_gram(q)))
    bob = owner_of("bob", BOB)
    classes = np.concatenate([np.arange(4 * CLASSES) // 4, np.arange(CLASSES) + CLASSES])
    owner_rows = np.repeat([0, 1], [4 * CLASSES, CLASSES])
    like = solve([owner_of("ada", ADA), bob], RIDGES, FIXED_POINT)
    found = solve_by_class(
        [split, bob],
        np.concatenate([split.columns, bob.columns], axis=1),
        classes,
        owner_rows,
        RIDGES,
        FIXED_POINT,
        like,
    )
    whole = solved([owner_of("ada", ADA), bob])
    assert found is not None
    for owner, new in enumerate((NEW_ADA, NEW_BOB)):
        assert abs(right(root_of(found), new, owner) - right(root_of(whole), new, owner)) < 0.03


def several_times(samples: Samples, times: int) -> Samples:
    return np.tile(samples[0], (times, 1)), np.tile(samples[1], times)


def test_means_that_do_not_differ_are_known_as_well_as_all_samples_of_the_class_tell() -> None:
    found = _solved([owner_of("ada", ADA), owner_of("bob", several_times(ADA, 3))], shared=True)
    assert found is not None and found.owners is not None
    between = found.weights[:, :, : len(found.targets)]
    of_ada, of_bob = (between[:, :, found.owners == owner] for owner in (0, 1))
    assert np.allclose(of_ada, of_bob, rtol=1e-6, atol=1e-9 * np.abs(of_bob).max())


def test_an_owner_of_few_samples_is_told_apart_as_if_it_had_each_of_them_twice() -> None:
    """Its ridge is the smaller the fewer it has: by all owners' ridge it would tell less apart."""
    few = samples_of(1, SIZE // 2, at=0.0)
    directions = []
    for times in (1, 2):
        found = solved([owner_of("ada", several_times(few, times)), owner_of("bob", BOB)], common=0.0)
        assert found.owners is not None
        within = found.weights[:, :-1, len(found.targets) :][:, :, found.owners == 0]
        directions.append(within / np.linalg.norm(within, axis=(1, 2), keepdims=True))
    assert np.allclose(*directions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 8, 16])
def test_a_ridge_alone_has_the_bits_that_it_has_among_others(rank: int) -> None:
    owners = [owner_of("ada", ADA, rank), owner_of("bob", BOB, rank), owner_of("cyd", ADA)]
    several = _solved(owners, ALL_RIDGES, shared=True)
    assert several is not None
    for row, ridge in enumerate(ALL_RIDGES):
        alone = _solved(owners, (ridge,), shared=True)
        assert alone is not None and np.array_equal(alone.weights[0], several.weights[row])


def test_an_owner_whose_classes_hardly_vary_makes_nobody_elses_answers_faint() -> None:
    q, labels = samples_of(3, 60, at=-1.0)
    still = np.where(np.arange(SIZE) < 3, q, np.round(q.mean(axis=0))).astype(np.int16)
    still[:, -1] = q[:, -1]
    still[:, :2] += (labels[:, None] * 40).astype(np.int16)
    spreads = []
    for owners in (
        [owner_of("ada", ADA), owner_of("bob", BOB)],
        [owner_of("ada", ADA), owner_of("bob", BOB)],
    ):
        if spreads:
            owners.append(owner_of("cyd", (still, labels)))
        scores = root_of(solved(owners)).scores(NEW_ADA[0])
        best = np.sort(scores, axis=1)
        spreads.append(float((best[:, -1] - best.mean(axis=1)).mean()))
    assert spreads[1] > 0.4 * spreads[0]


def test_the_median_owner_spreads_as_the_columns_that_they_stand_for() -> None:
    owners = [owner_of("ada", ADA), owner_of("bob", BOB)]
    for some in (owners, owners[:1]):
        found, like = solved(some), solve(some, RIDGES, FIXED_POINT)
        assert (found.owners is None) == (len(some) == 1)
        means = np.concatenate([each.columns * FIXED_POINT / each.columns[-1] for each in some], axis=1).T
        for row in range(2):
            ours, theirs = root_of(found, row).scores(means), means @ like[row]
            of_owner = [
                (s.diagonal() - s.mean(axis=1)).reshape(-1, CLASSES).mean(axis=1) for s in (ours, theirs)
            ]
            assert np.isclose((of_owner[0] / of_owner[1]).max(), 1, rtol=1e-4)


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


def test_one_owner_of_coarse_sums_takes_the_discriminants_from_nobody() -> None:
    owners = [owner_of("ada", ADA), owner_of("bob", BOB), owner_of("cyd", samples_of(3, 60, at=-1.0), 3)]
    found, without = solved(owners), solved(owners[:2])
    for owner, new in enumerate((NEW_ADA, NEW_BOB)):
        assert right(root_of(found), new, owner) > right(root_of(without), new, owner) - 0.1


def test_an_owners_weight_changes_nothing_within_it() -> None:
    """One with far more samples than others counts as many as the median between them."""
    large = owner_of("cyd", samples_of(3, 600, at=-1.0))
    found = solved([owner_of("ada", ADA), owner_of("bob", BOB), large], common=0.0)
    columns = large.columns.astype(np.float64)
    total = total_sums([large], {"cyd": 1.0})
    assert len(large.columns) * 4 < large.samples  # else its ridge were smaller
    alone = discriminants(total, columns, columns, np.arange(CLASSES), RIDGES, FIXED_POINT)
    assert alone is not None
    within = found.weights[0][:, -CLASSES:]
    np.testing.assert_allclose(
        within / np.linalg.norm(within), alone[0] / np.linalg.norm(alone[0]), atol=1e-9
    )
