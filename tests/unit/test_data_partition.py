"""Data are dealt so that each sample is somewhere exactly once, and validation samples stay back."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.data.partition import partition
from swarm.data.validation import split_validation
from swarm.domain.errors import InvalidInputError, UsageError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(lambda found: np.array(found))
SCHEMES = st.one_of(
    st.just("iid"),
    st.integers(1, 8).map(lambda each: f"classes:{each}"),
    st.sampled_from(["dirichlet:0.5", "dirichlet:5"]),
)


@settings(max_examples=150, deadline=None)
@given(LABELS, SCHEMES, st.integers(1, 5), st.integers(0, 100))
def test_every_sample_is_at_exactly_one_node(labels: np.ndarray, scheme: str, nodes: int, seed: int) -> None:
    try:
        parts = partition(labels, scheme, nodes, seed)
    except UsageError:
        assume(False)
    assert len(parts) == nodes
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition(labels, scheme, nodes, seed)
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10), st.integers(1, 6), st.integers(0, 50))
def test_classes_gives_each_node_that_many_classes(each: int, nodes: int, seed: int) -> None:
    assume(each * nodes >= 10)
    labels = np.repeat(np.arange(10), 60)
    parts = partition(labels, f"classes:{each}", nodes, seed)
    assert [len(set(labels[part].tolist())) for part in parts] == [each] * nodes


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 16), st.integers(0, 50))
def test_classes_are_all_held_and_as_evenly_as_can_be(classes: int, each: int, nodes: int, seed: int) -> None:
    assume(each <= classes <= each * nodes)
    labels = np.repeat(np.arange(classes), 40)
    parts = partition(labels, f"classes:{each}", nodes, seed)
    held = np.zeros(classes, dtype=int)
    for part in parts:
        held[np.unique(labels[part])] += 1
    assert held.min() >= 1 and held.max() - held.min() <= 1


def test_ten_nodes_of_two_classes_hold_ten_different_pairs_each_class_at_two_nodes() -> None:
    labels = np.repeat(np.arange(10), 60)
    for seed in range(5):
        parts = partition(labels, "classes:2", 10, seed)
        pairs = {tuple(np.unique(labels[part])) for part in parts}
        assert len(pairs) == 10
        assert all(sum(label in pair for pair in pairs) == 2 for label in range(10))
        assert all(len(part) == 60 for part in parts)


def test_another_seed_deals_other_samples() -> None:
    labels = np.repeat(np.arange(10), 20)
    for scheme in ("iid", "classes:4", "dirichlet:1"):
        first, second = (partition(labels, scheme, 3, seed) for seed in (0, 1))
        assert [part.tolist() for part in first] != [part.tolist() for part in second]


def test_iid_parts_differ_by_one_sample_at_most() -> None:
    sizes = [len(part) for part in partition(np.zeros(101, int), "iid", 4, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_leaves_no_node_with_one_class_or_a_handful() -> None:
    labels = np.repeat(np.arange(10), 100)
    for seed in range(5):
        for part in partition(labels, "dirichlet:0.1", 5, seed):
            assert len(part) >= 10 and len(set(labels[part].tolist())) >= 2


@pytest.mark.parametrize(
    ("scheme", "nodes", "message"),
    [
        ("random", 2, r"'random'; expected iid, classes:N"),
        ("iid:3", 2, "'iid:3'"),
        ("classes", 2, "'classes'"),
        ("classes:x", 2, "'classes:x'"),
        ("classes:0", 2, "'classes:0'"),
        ("classes:-1", 2, "'classes:-1'"),
        ("classes:2", 2, r"2 nodes for 5 classes.*use classes:3"),
        ("classes:6", 2, r"2 nodes for 5 classes"),
        ("dirichlet:nan", 2, "'dirichlet:nan'"),
        ("dirichlet:0", 2, "'dirichlet:0'"),
        ("iid", 0, "nodes: found 0"),
        ("iid", 1000, "100 samples for 1000 nodes"),
        ("dirichlet:0.01", 40, "larger concentration or fewer nodes"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused(scheme: str, nodes: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        partition(np.repeat(np.arange(5), 20), scheme, nodes, 0)
    assert caught.value.expected and caught.value.remedy


@settings(max_examples=150, deadline=None)
@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 100))
def test_the_validation_split_is_disjoint_complete_and_stratified(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    counts = np.bincount(labels)
    assume(counts.max() >= 2)
    training, validation = split_validation(labels, fraction, seed)
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(len(labels)))
    for label in np.unique(labels):
        held = int((labels[validation] == label).sum())
        if counts[label] == 1:
            assert held == 0
        else:
            assert 1 <= held <= counts[label] - 1
            assert abs(held - fraction * counts[label]) <= 1
    again = split_validation(labels, fraction, seed)
    assert again[1].tolist() == validation.tolist()


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no class with two"):
        split_validation(np.array([0, 1, 2]), 0.1, 0)
    with pytest.raises(InvalidInputError, match="no class with two"):
        split_validation(np.array([], dtype=int), 0.1, 0)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(InvalidInputError, match="validation fraction"):
            split_validation(np.array([0, 0]), fraction, 0)
