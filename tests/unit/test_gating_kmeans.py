"""k-means: balanced while fitting, deterministic, finite for whatever features come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.distances import squared_distances
from swarm.gating.kmeans import balanced_assignment, balanced_kmeans, kmeans_pp_seed, lloyd_kmeans

ANY_FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def features_and_k(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    count = draw(st.integers(1, 40))
    features = draw(arrays(np.float32, (count, draw(st.integers(1, 4))), elements=ANY_FLOAT32))
    return features, draw(st.integers(1, count))


@settings(max_examples=80, deadline=None)
@given(features_and_k(), st.integers(0, 3))
def test_balanced_fitting_gives_every_cluster_its_share_of_any_points(case: tuple, seed: int) -> None:
    features, k = case
    fit = balanced_kmeans(features, k, seed=seed)
    sizes = np.bincount(fit.fitting_labels, minlength=k)
    assert sizes.sum() == len(features)
    assert set(sizes) <= {len(features) // k, -(-len(features) // k)}
    assert np.isfinite(fit.centres).all() and fit.centres.shape == (k, features.shape[1])
    assert fit.labels.min() >= 0 and fit.labels.max() < k and fit.flops > 0


@settings(max_examples=60, deadline=None)
@given(features_and_k(), st.integers(0, 3))
def test_plain_k_means_is_finite_and_labels_every_point(case: tuple, seed: int) -> None:
    features, k = case
    fit = lloyd_kmeans(features, k, seed=seed)
    assert np.isfinite(fit.centres).all()
    assert fit.labels.shape == (len(features),) and set(fit.labels) <= set(range(k))


@settings(max_examples=60, deadline=None)
@given(features_and_k(), st.integers(0, 5))
def test_seeding_picks_distinct_rows(case: tuple, seed: int) -> None:
    features, k = case
    rows = kmeans_pp_seed(features.clip(-1e6, 1e6), k, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == k


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (24, 5), elements=st.floats(0, 100)))
def test_the_auction_is_within_its_bound_of_the_cheapest_balanced_assignment(costs: np.ndarray) -> None:
    labels = balanced_assignment(costs)
    slots = np.repeat(np.arange(5), [5, 5, 5, 5, 4])
    rows, columns = linear_sum_assignment(costs[:, slots])
    best = costs[:, slots][rows, columns].sum()
    assert best - 1e-9 <= costs[np.arange(24), labels].sum() <= best + 24 * np.ptp(costs) / 50 + 1e-9


def test_the_same_seed_gives_the_same_clusters_to_the_bit() -> None:
    features = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    first, second = (balanced_kmeans(features, 7, seed=3) for _ in range(2))
    assert first.centres.tobytes() == second.centres.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()


def test_labels_are_the_nearest_centres() -> None:
    features = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    fit = balanced_kmeans(features, 5, seed=0)
    assert (fit.labels == squared_distances(features, fit.centres).argmin(axis=1)).all()


def test_far_groups_are_found_whatever_the_offset() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(4), 25)
    features = (1e5 + 10 * groups[:, None] + rng.normal(size=(100, 6))).astype(np.float32)
    labels = balanced_kmeans(features, 4, seed=0).labels
    assert len({(group, label) for group, label in zip(groups, labels, strict=True)}) == 4


@pytest.mark.parametrize("k", [0, -1, 6])
def test_more_clusters_than_points_or_none_is_refused(k: int) -> None:
    with pytest.raises(InvalidInputError, match=r"k-means.*expected 1 <= k <= 5"):
        balanced_kmeans(np.ones((5, 2), np.float32), k, seed=0)


def test_features_that_are_not_a_finite_matrix_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="row 1"):
        lloyd_kmeans(np.array([[0.0], [np.nan]]), 1, seed=0)
    with pytest.raises(ShapeMismatchError, match="features"):
        lloyd_kmeans(np.ones(4), 1, seed=0)
    with pytest.raises(ShapeMismatchError, match="features"):
        lloyd_kmeans(np.array([["a"]]), 1, seed=0)
