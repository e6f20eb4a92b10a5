"""Columns that score classes: one or several for each, the best of which counts."""

import numpy as np
import pytest

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.class_columns import HALF_PEAK, ClassColumns, halved, whole

WEIGHTS = np.array([[1.0, 2, 3, 4], [-1, -2, -3, -4]], dtype=np.float32)
POINTS = np.array([[1.0, 0], [0, 1]], dtype=np.float32)


def test_a_class_scores_by_its_best_column_and_zero_without_any() -> None:
    columns = ClassColumns(weights=WEIGHTS, rows=np.array([3, 0, 3, 1]), classes=4)
    assert columns.known.tolist() == [0, 1, 3]
    assert columns.scores(POINTS).tolist() == [[2, 4, 0, 3], [-2, -4, 0, -1]]
    assert columns.scores(POINTS.astype(np.int16)).dtype == np.float32


def test_what_is_right_is_judged_among_the_classes_that_have_columns() -> None:
    columns = ClassColumns(weights=WEIGHTS, rows=np.array([3, 0, 3, 1]), classes=4)
    assert columns.right(POINTS, np.array([1, 3])).tolist() == [True, True]  # a zero for class 2 is no answer
    assert columns.right(POINTS, np.array([2, 2])).tolist() == [False, False]


def test_targets_of_a_class_are_summed_into_one_column() -> None:
    columns = ClassColumns.summing(np.array([[1.0, 2.0, 3.0]]), np.array([0, 2, 0]), 4)
    assert columns.weights.tolist() == [[4, 2]] and columns.rows.tolist() == [0, 2]
    found = columns.linear()
    assert found is not None and found.tolist() == [[4, 0, 2, 0]]


def test_several_columns_of_a_class_are_not_linear() -> None:
    assert ClassColumns(weights=WEIGHTS, rows=np.array([3, 0, 3, 1]), classes=4).linear() is None


def test_the_owner_with_the_best_column_between_owners_is_asked_which_of_its_classes_it_is() -> None:
    """By hand: owner 0 has classes 0 and 1, owner 1 has 1 and 2; one feature, 1."""
    between, within = [5.0, 3.0, 4.0, 1.0], [10.0, 12.0, 7.0, 1.0]
    columns = ClassColumns(
        weights=np.array([between + within], dtype=np.float32),
        rows=np.array([0, 1, 1, 2]),
        classes=4,
        owners=np.array([0, 0, 1, 1]),
    )
    # Owner 0's best is 5 and its class 1 by its own columns, 2 above class 0; owner 1's is 4, class 1 again.
    point = np.ones((1, 1), dtype=np.float32)
    assert columns.scores(point).tolist() == [[3, 5, -2, 0]]
    assert columns.right(point, np.array([1])).tolist() == [True]
    assert columns.known.tolist() == [0, 1, 2] and columns.linear() is None
    assert columns.flops_per_query == 2 * 8 + 4 * 4


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="class weights"):
        ClassColumns(weights=WEIGHTS, rows=np.array([0, 1]), classes=4, owners=np.array([0]))
    with pytest.raises(ShapeMismatchError, match="2K"):
        ClassColumns(weights=WEIGHTS, rows=np.array([3, 0, 3, 1]), classes=4, owners=np.zeros(4, int))
    with pytest.raises(InvalidInputError, match="class owners"):
        ClassColumns(weights=WEIGHTS, rows=np.array([0, 1]), classes=4, owners=np.array([0, 2]))
    with pytest.raises(ShapeMismatchError, match="class weights"):
        ClassColumns(weights=WEIGHTS, rows=np.array([0, 1]), classes=4)
    for rows in ([0, 1, 2, 4], [0, 1, 2, -1]):
        with pytest.raises(InvalidInputError, match="class rows"):
            ClassColumns(weights=WEIGHTS, rows=np.array(rows), classes=4)
    with pytest.raises(InvalidInputError, match="not finite"):
        ClassColumns(weights=np.full((1, 1), np.inf), rows=np.array([0]), classes=1)


def test_half_the_bytes_keep_eleven_bits_of_every_entry_however_small_the_column() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 400, 3)) * np.array([1e-7, 1.0, 1e5])
    weights[1, :, 0] = 0
    halves, scales = halved(weights)
    assert (halves.dtype, scales.dtype, scales.shape) == (np.float16, np.float32, (2, 3))
    assert np.abs(halves[0]).max() == HALF_PEAK and not halves[1, :, 0].any()
    found = whole(halves, scales)
    large = np.abs(weights) > 1e-6 * np.abs(weights).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found[large], weights[large], rtol=2**-11)
