"""Discriminants from sums: those of pooled data, and no class is drowned by the samples of others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.class_columns import best_of_class
from swarm.gating.discriminants import (
    are_unbalanced,
    class_samples,
    discriminants,
    pulled_means,
    scatter_weights,
)
from swarm.gating.ridge import OwnerSums, solve, total_sums
from swarm.gating.sums import compact_sums, exact_gram, pack_triangle, quantised, target_columns

FIXED_POINT, SIZE, CLASSES = 64.0, 13, 6
RIDGES = (1e-6, 30.0)
ALL = np.arange(CLASSES)


def pooled(counts: tuple[int, ...], seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Return features in fixed point of Gaussian classes of so many samples each, and their labels."""
    rng = np.random.default_rng(seed)
    centres, mixing = 1.5 * rng.normal(size=(CLASSES, SIZE - 1)), rng.normal(size=(SIZE - 1, SIZE - 1))
    labels = np.repeat(np.arange(CLASSES), counts)
    features = centres[labels] + 0.4 * rng.normal(size=(len(labels), SIZE - 1)) @ mixing
    return quantised(features.astype(np.float32), FIXED_POINT, False), labels.astype(np.int64)


def owner_of(name: str, q: NDArray[np.int16], labels: NDArray[np.int64], rank: int = 0) -> OwnerSums:
    columns = target_columns(q, labels, CLASSES)
    if rank:
        return OwnerSums(owner=name, samples=len(q), columns=columns, compact=compact_sums(q, rank))
    exact = pack_triangle(exact_gram(q))
    return OwnerSums(owner=name, samples=len(q), columns=columns, exact=exact)


def solved(owners: list[OwnerSums], ridges: tuple[float, ...] = RIDGES) -> tuple[np.ndarray, np.ndarray]:
    """Return the discriminants of owners' sums, and the least squares columns."""
    columns = sum(each.columns for each in owners).astype(np.float64)
    roots = solve(owners, ridges, FIXED_POINT)
    roots = roots.reshape(len(ridges), SIZE, len(owners), CLASSES).sum(axis=2)
    weight_of = scatter_weights(owners)
    scattered = sum(weight_of[each.owner] * each.columns for each in owners)
    found = discriminants(total_sums(owners, weight_of), scattered, columns, ALL, ridges, FIXED_POINT)
    assert found is not None
    return found, roots


def test_they_choose_as_a_linear_discriminant_analysis_of_the_pooled_samples() -> None:
    q, labels = pooled((300, 200, 40, 40, 12, 9))
    found, _ = solved([owner_of("ada", q, labels)])
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(CLASSES, 1 / CLASSES))
    theirs.fit(q[:, :-1].astype(np.float64), labels)
    q_new, _ = pooled((50,) * CLASSES, seed=0)
    ours = (q_new.astype(np.float64) @ found[0]).argmax(axis=1)
    assert np.array_equal(ours, theirs.predict(q_new[:, :-1].astype(np.float64)))


@pytest.mark.parametrize(("rank", "near"), [(0, 1e-9), (SIZE, 0.05)])
def test_owners_sums_give_those_of_the_pooled_samples(rank: int, near: float) -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 10))
    halves = [owner_of(f"node-{row}", q[row::2], labels[row::2], rank) for row in range(2)]
    apart, _ = solved(halves, (30.0,))
    whole, _ = solved([owner_of("all", q, labels)], (30.0,))
    assert np.allclose(apart, whole, atol=near * np.abs(whole).max())
    assert np.mean((q @ apart[0]).argmax(axis=1) == (q @ whole[0]).argmax(axis=1)) > 0.99


def test_a_class_of_few_samples_is_found_however_many_the_others_have() -> None:
    new, truth = pooled((200,) * CLASSES, seed=3)
    few, drowned = [], []
    for many in (10, 100, 4000):
        q, labels = pooled((many,) * (CLASSES - 1) + (10,), seed=3)
        found, roots = solved([owner_of("ada", q, labels)])
        rows = truth == CLASSES - 1
        few.append(((new[rows] @ found[1]).argmax(axis=1) == truth[rows]).mean())
        drowned.append(((new[rows] @ roots[1]).argmax(axis=1) == truth[rows]).mean())
    assert min(few) > 0.9
    assert drowned[2] < 0.5 * drowned[0]  # least squares, for which this is


def test_the_more_an_owner_has_the_less_more_of_it_counts() -> None:
    shares = []
    for samples in (100, 300, 1200, 3600):
        owners = [
            OwnerSums(owner=name, samples=has, columns=np.zeros((SIZE, 1), np.int64), exact=np.zeros(0))
            for name, has in (("grows", samples), ("stays", 1000), ("too", 1000))
        ]
        weight_of = scatter_weights(owners)
        weighted = {each.owner: weight_of[each.owner] * each.samples for each in owners}
        assert np.isclose(sum(weighted.values()), samples + 2000)
        shares.append(weighted["grows"] / weighted["stays"])
    assert shares == sorted(shares) and shares[0] > 0.85  # a tenth of the samples for 13 features
    assert shares[3] < 1.01
    assert scatter_weights(owners[:1]) == {"grows": 1.0}


def test_the_scatter_is_that_of_weighted_samples_about_the_classes_means() -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 9))
    owners = [owner_of("ada", q[:150], labels[:150]), owner_of("bob", q[150:], labels[150:])]
    found, _ = solved(owners, (30.0,))
    weight_of = scatter_weights(owners)
    weights = np.repeat([weight_of["ada"], weight_of["bob"]], [150, len(q) - 150])
    x = q[:, :-1].astype(np.float64)
    means = np.stack([x[labels == each].mean(axis=0) for each in range(CLASSES)])
    apart = x - means[labels]
    scatter = (apart * weights[:, None]).T @ apart + 30.0 * FIXED_POINT**2 * np.eye(SIZE - 1)
    slopes = np.linalg.solve(scatter, means.T)
    slopes -= slopes.mean(axis=1, keepdims=True)
    ours = found[0][:-1]
    assert np.allclose(ours / np.linalg.norm(ours), slopes / np.linalg.norm(slopes), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_in_which_owners_come_changes_no_bit(order: list[int]) -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 9))
    owners = [owner_of(f"node-{row}", q[row::4], labels[row::4]) for row in range(4)]
    weight_of, again = scatter_weights(owners), scatter_weights([owners[row] for row in order])
    assert weight_of == again
    total = total_sums(owners, weight_of)
    assert np.array_equal(total, total_sums([owners[row] for row in order], again))


def test_samples_are_counted_by_the_constant_feature() -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 9))
    columns = target_columns(q, labels, CLASSES).astype(np.float64)
    assert class_samples(columns, FIXED_POINT).tolist() == [90, 60, 30, 20, 12, 9]


def test_classes_are_unbalanced_beyond_four_times_the_median() -> None:
    assert not are_unbalanced(np.array([10.0, 10.0, 40.0]))
    assert are_unbalanced(np.array([10.0, 10.0, 41.0]))
    assert not are_unbalanced(np.array([1.0, 40.0, 40.0]))


def test_sums_that_are_too_coarse_or_tell_nothing_apart_give_none() -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 9))
    columns = target_columns(q, labels, CLASSES).astype(np.float64)
    assert discriminants(np.zeros((SIZE, SIZE)), columns, columns, ALL, (30.0,), FIXED_POINT) is None
    one = columns.sum(axis=1, keepdims=True)
    total = total_sums([owner_of("ada", q, labels)], {"ada": 1.0})
    assert discriminants(total, one, one, ALL[:1], (30.0,), FIXED_POINT) is None


def test_what_does_not_fit_is_refused_by_name() -> None:
    q, labels = pooled((90, 60, 30, 20, 12, 9))
    columns = target_columns(q, labels, CLASSES).astype(np.float64)
    total = total_sums([owner_of("ada", q, labels)], {"ada": 1.0})
    with pytest.raises(ShapeMismatchError, match="class columns"):
        discriminants(total, columns, columns, ALL[:2], (30.0,), FIXED_POINT)
    columns[:, 2] = 0
    with pytest.raises(InvalidInputError, match="without samples"):
        discriminants(total, columns, columns, ALL, (30.0,), FIXED_POINT)


def domains(counts: tuple[int, int], seed: int = 5) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Return features of two domains that share their classes' names, and their targets: the second domain is
    the first one's negative."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.normal(size=(CLASSES, SIZE - 1))
    targets = np.repeat(np.arange(2 * CLASSES), [count for count in counts for _ in range(CLASSES)])
    places = np.concatenate([centres, -centres])
    features = places[targets] + 0.5 * rng.normal(size=(len(targets), SIZE - 1))
    return quantised(features.astype(np.float32), FIXED_POINT, False), targets.astype(np.int64)


def by_region(q: NDArray[np.int16], targets: NDArray[np.int64], *, apart: bool) -> np.ndarray:
    """Return D of one owner's samples, with a mean for each target or for each class alone."""
    known = targets if apart else targets % CLASSES
    columns = target_columns(q, known, int(known.max()) + 1)
    owner = OwnerSums(owner="ada", samples=len(q), columns=columns, exact=pack_triangle(exact_gram(q)))
    classes = np.arange(columns.shape[1]) % CLASSES
    sums, columns = total_sums([owner], {"ada": 1.0}), columns.astype(float)
    found = discriminants(sums, columns, columns, classes, (30.0,), FIXED_POINT)
    assert found is not None
    return found[0]


def test_a_class_that_two_domains_share_by_name_has_a_mean_in_each() -> None:
    q, targets = domains((200, 200))
    new, truth = domains((100, 100))
    classes = np.arange(2 * CLASSES) % CLASSES
    apart = best_of_class(new @ by_region(q, targets, apart=True), classes, CLASSES).argmax(axis=1)
    alone = (new @ by_region(q, targets, apart=False)).argmax(axis=1)
    assert np.mean(apart == truth % CLASSES) > 0.95
    assert np.mean(alone == truth % CLASSES) < 0.6


def test_more_of_one_domain_takes_nothing_from_the_other() -> None:
    new, truth = domains((200, 1))
    first = truth < CLASSES
    classes = np.arange(2 * CLASSES) % CLASSES
    right = []
    for many in (50, 200, 2000):
        q, targets = domains((50, many), seed=5)
        found = best_of_class(new @ by_region(q, targets, apart=True), classes, CLASSES).argmax(axis=1)
        right.append(np.mean(found[first] == truth[first]))
    assert max(right) - min(right) < 0.02


def test_a_mean_of_few_samples_is_pulled_to_its_classes_by_james_and_stein() -> None:
    """By hand: unit covariance, D = 2, a class of two targets at 0 and (2, 0), 4 and 12 samples."""
    means = np.array([[0.0, 2.0], [0.0, 0.0]])
    samples, classes = np.array([4.0, 12.0]), np.array([0, 0])
    found = pulled_means(means, samples, classes, 16.0 * np.eye(2))
    assert found is not None
    pulled, part = found
    # The centre is 1.5; 1.5 away: d2 2.25, by chance 2 (1/4 - 1/16) = .375; .5 away: .25 and 2 (1/12 - 1/16).
    kept = (1 - 0.375 / 2.25, 1 - (2 / 12 - 2 / 16) / 0.25)
    assert np.allclose(pulled, [[1.5 - 1.5 * kept[0], 1.5 + 0.5 * kept[1]], [0, 0]])
    assert np.allclose(part, kept)
    near = pulled_means(means * 0.1, samples, classes, 16.0 * np.eye(2))
    assert near is not None and np.allclose(near[0][0], 0.15)  # nothing tells them apart
    assert near[1].tolist() == [0, 0]
    alone = pulled_means(means, samples, np.array([0, 1]), 16.0 * np.eye(2))
    assert alone is not None and np.array_equal(alone[0], means) and alone[1].tolist() == [1, 1]
    assert pulled_means(means, samples, classes, -np.eye(2)) is None


def test_the_best_of_a_classs_targets_is_its_score() -> None:
    scores = np.array([[1.0, -2.0, 3.0, -4.0]], dtype=np.float32)
    assert best_of_class(scores, np.array([2, 0, 2, 0]), 4).tolist() == [[-2.0, 0.0, 3.0, 0.0]]
