"""Sums in fixed point: exact whatever the order, compact without losing what the gate needs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.sums import (
    MAX_INT16,
    CompactSums,
    compact_bytes,
    compact_sums,
    exact_bytes,
    exact_gram,
    pack_triangle,
    quantised,
    rank_for,
    target_columns,
    unpack_triangle,
)

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 8))
INT16S = arrays(np.int16, SHAPES, elements=st.integers(-MAX_INT16, MAX_INT16))


def whole(sums: CompactSums) -> np.ndarray:
    return sums.scaled() @ sums.scaled().T + np.diag(sums.diagonal.astype(np.float64))


def features(count: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(size, size)) * np.geomspace(3, 0.01, size)[:, None]
    return (rng.normal(size=(count, size)) @ mixing + rng.normal(size=size)).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(INT16S)
def test_the_gram_is_the_whole_numbers_gram_to_the_last_digit(q: np.ndarray) -> None:
    expected = q.astype(object).T @ q.astype(object)
    assert exact_gram(q).tolist() == expected.tolist()


@settings(max_examples=100, deadline=None)
@given(INT16S, st.integers(0, 2**32 - 1))
def test_sums_of_parts_are_the_sums_of_the_whole(q: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner, labels = rng.integers(0, 3, len(q)), rng.integers(0, 4, len(q))
    grams = [exact_gram(q[owner == row]) for row in range(3)]
    columns = [target_columns(q[owner == row], labels[owner == row], 4) for row in range(3)]
    assert np.array_equal(sum(grams), exact_gram(q))
    assert np.array_equal(sum(columns), target_columns(q, labels, 4))


def test_chunks_of_rows_do_not_show() -> None:
    q = np.full((5000, 2), MAX_INT16, dtype=np.int16)
    assert exact_gram(q).tolist() == [[5000 * MAX_INT16**2] * 2] * 2


@settings(max_examples=60, deadline=None)
@given(INT16S)
def test_a_packed_triangle_gives_the_gram_back(q: np.ndarray) -> None:
    gram = exact_gram(q)
    packed = pack_triangle(gram)
    assert packed.dtype == (np.int32 if np.abs(gram).max() < 2**31 else np.int64)
    assert np.array_equal(unpack_triangle(packed, len(gram)), gram)


def test_a_triangle_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="F'F"):
        unpack_triangle(np.zeros(5), 3)
    with pytest.raises(ShapeMismatchError, match="square"):
        pack_triangle(np.zeros((2, 3), np.int64))


def test_features_are_rounded_clamped_and_led_by_a_constant() -> None:
    q = quantised(np.array([[0.5, -2000.0, 0.016]], np.float32), 32.0, False)
    assert q.dtype == np.int16 and q.tolist() == [[16, -MAX_INT16, 1, 32]]
    own = quantised(np.array([[0.5, 1.0]], np.float32), 32.0, True)
    assert own.tolist() == [[16, 32]]


@pytest.mark.parametrize("fixed_point", [0.0, np.nan, 40000.0])
def test_a_fixed_point_without_a_constant_in_int16_is_refused(fixed_point: float) -> None:
    with pytest.raises(InvalidInputError, match="fixed point"):
        quantised(np.zeros((1, 2), np.float32), fixed_point, False)


def test_wrong_features_and_labels_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="not finite in row 1"):
        quantised(np.array([[0.0], [np.nan]], np.float32), 32.0, False)
    with pytest.raises(ShapeMismatchError, match="int16"):
        exact_gram(np.zeros((2, 2), np.int32))  # type: ignore[arg-type]
    for labels in ([0], [0, 3], [-1, 0]):
        with pytest.raises(InvalidInputError, match="labels"):
            target_columns(np.zeros((2, 2), np.int16), np.array(labels), 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 50))
def test_compact_sums_of_full_rank_lose_next_to_nothing(count: int, size: int, seed: int) -> None:
    q = quantised(features(count, size, seed), 32.0, False)
    exact = exact_gram(q).astype(float)
    near = whole(compact_sums(q, count + 1))
    scale = np.abs(exact).max()
    assert np.abs(near - exact).max() <= 2e-4 * scale


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(2, 12), st.integers(1, 6), st.integers(0, 50))
def test_compact_sums_keep_diagonal_and_constant_and_stay_positive(
    count: int, size: int, rank: int, seed: int
) -> None:
    q = quantised(features(count, size, seed), 32.0, False)
    exact, near = exact_gram(q).astype(float), whole(compact_sums(q, rank))
    scale = np.abs(exact).max()
    assert np.abs(np.diag(near) - np.diag(exact)).max() <= 1e-4 * scale
    assert np.abs(near[-1] - exact[-1]).max() <= 1e-4 * scale
    assert np.linalg.eigvalsh(near).min() >= -1e-6 * scale


def test_more_rank_comes_closer() -> None:
    q = quantised(features(400, 60), 32.0, False)
    exact = exact_gram(q)
    gaps = [np.linalg.norm(whole(compact_sums(q, rank)) - exact) for rank in (1, 5, 15, 40)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.01 * gaps[0]


def test_the_same_samples_give_the_same_compact_sums() -> None:
    q = quantised(features(50, 10), 32.0, False)
    first, second = compact_sums(q, 4, seed=3), compact_sums(q, 4, seed=3)
    assert first.factors.tobytes() == second.factors.tobytes()
    assert first.diagonal.tobytes() == second.diagonal.tobytes()


def test_the_rank_fills_the_budget_and_no_more() -> None:
    rank = rank_for(2_000_000, 6401, 102_416)
    assert compact_bytes(6401, rank) + 102_416 <= 2_000_000 < compact_bytes(6401, rank + 1) + 102_416
    assert rank == 284
    assert rank_for(10**9, 65, 0) == 65
    with pytest.raises(InvalidInputError, match="budget of 100 bytes"):
        rank_for(100, 65, 0)
    assert exact_bytes(65) == 4 * 65 * 66 // 2


def test_compact_sums_of_nothing_are_refused() -> None:
    q = quantised(features(5, 3), 32.0, False)
    for samples, rank in ((q, 0), (q[:0], 2)):
        with pytest.raises(InvalidInputError, match="compact sums"):
            compact_sums(samples, rank)


def test_samples_that_are_all_alike_have_no_direction_but_their_mean() -> None:
    sums = compact_sums(np.full((3, 2), 32, dtype=np.int16), 2)
    assert np.abs(whole(sums) - 3 * 32**2).max() <= 1
