"""A node's regions: one leaf unless its data say otherwise, and what a leaf tells the gate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from swarm.domain.errors import InvalidInputError
from swarm.gating.regions import natural_leaves, summarise_leaf


def blobs(counts: list[int], distance: float, size: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [
        rng.normal(size=(count, size)) + distance * np.eye(size)[row] for row, count in enumerate(counts)
    ]
    return np.concatenate(parts).astype(np.float32)


def test_one_cloud_of_points_is_one_leaf() -> None:
    fit = natural_leaves(blobs([300], 0), max_leaves=6, min_shard=20, seed=0)
    assert len(fit.centres) == 1 and not fit.labels.any()


def test_overlapping_classes_are_one_leaf() -> None:
    assert len(natural_leaves(blobs([100, 100, 100], 4), max_leaves=6, min_shard=20, seed=0).centres) == 1


def test_far_clouds_are_leaves_of_their_own() -> None:
    fit = natural_leaves(blobs([100, 60, 80], 60), max_leaves=6, min_shard=20, seed=0)
    assert sorted(np.bincount(fit.labels)) == [60, 80, 100]
    assert fit.flops > 0


def test_no_leaf_is_smaller_than_min_shard() -> None:
    fit = natural_leaves(blobs([100, 100, 5], 60), max_leaves=6, min_shard=20, seed=0)
    assert np.bincount(fit.labels).min() >= 20


def test_no_more_leaves_than_the_limit() -> None:
    assert len(natural_leaves(blobs([50] * 5, 80), max_leaves=2, min_shard=10, seed=0).centres) <= 2
    assert len(natural_leaves(blobs([50] * 5, 80), max_leaves=1, min_shard=10, seed=0).centres) == 1


@settings(max_examples=50, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 60), st.integers(1, 4)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.integers(1, 30),
    st.integers(1, 6),
)
def test_a_summary_counts_every_sample_once_and_is_finite(
    features: np.ndarray, prototypes: int, min_count: int
) -> None:
    summary = summarise_leaf(features, prototypes=prototypes, seed=0, min_count=min_count)
    found = len(summary.prototypes)
    assert 1 <= found <= max(1, min(prototypes, len(features) // min_count))
    assert summary.counts.sum() == len(features) and summary.counts.min() >= 1
    assert np.isfinite(summary.prototypes).all() and np.isfinite(summary.radii).all()
    assert summary.prototypes.dtype == np.float32 and summary.counts.dtype == np.int64
    assert summary.radii.shape == (found, 3) and (np.diff(summary.radii, axis=1) >= 0).all()


def test_no_prototype_is_a_sample() -> None:
    features = np.random.default_rng(1).normal(size=(120, 10)).astype(np.float32)
    summary = summarise_leaf(features, prototypes=100, seed=0)
    assert len(summary.prototypes) <= 24
    distances = np.linalg.norm(features[:, None] - summary.prototypes[None], axis=2)
    assert distances.min() > 0.1


def test_the_radii_are_quantiles_of_the_distances_to_the_prototype() -> None:
    features = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    summary = summarise_leaf(features, prototypes=1, seed=0)
    distances = np.linalg.norm(features - features.mean(axis=0), axis=1)
    assert np.allclose(summary.radii[0], np.quantile(distances, [0.5, 0.9, 0.99]), rtol=1e-4)


@pytest.mark.parametrize("count", [0, 5])
def test_a_leaf_without_samples_or_prototypes_is_refused(count: int) -> None:
    with pytest.raises(InvalidInputError, match="leaf summary"):
        summarise_leaf(np.ones((count, 3), np.float32), prototypes=0 if count else 4, seed=0)
