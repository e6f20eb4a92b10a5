"""Answers of experts with different classes become one distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.combine import PROBABILITY_FLOOR, Part, combine

CLASSES = ("cat", "dog", "emu", "fox")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.data())
def test_every_row_is_a_distribution_without_zeros(batch: int, data: st.DataObject) -> None:
    parts = []
    for _ in range(data.draw(st.integers(0, 4))):
        rows = np.array(data.draw(st.lists(st.integers(0, batch - 1), max_size=5)), dtype=np.int64)
        names = data.draw(st.lists(st.sampled_from(CLASSES), unique=True))
        values = st.sampled_from([0.0, 1e-30, 0.3, 1.0])
        probabilities = [[data.draw(values) for _ in names] for _ in rows]
        weights = np.array([data.draw(values) for _ in rows])
        parts.append(Part(rows, weights, names, np.array(probabilities).reshape(len(rows), len(names))))
    mixture = combine(CLASSES, parts, batch=batch)
    assert mixture.shape == (batch, 4) and mixture.dtype == np.float32
    assert np.isfinite(np.log(mixture)).all() and np.allclose(mixture.sum(axis=1), 1, atol=1e-5)


def test_classes_are_matched_by_name_and_missing_ones_count_as_zero() -> None:
    mixture = combine(
        CLASSES,
        [
            (np.array([0, 1]), np.array([0.75, 1.0]), ("fox", "cat"), np.array([[0.2, 0.8], [1.0, 0.0]])),
            (np.array([0]), np.array([0.25]), ("dog",), np.array([[1.0]])),
        ],
    )
    assert np.allclose(mixture, [[0.6, 0.25, 0, 0.15], [0, 0, 0, 1]], atol=5 * PROBABILITY_FLOOR)


def test_a_row_that_nobody_answered_is_uniform() -> None:
    assert np.allclose(combine(CLASSES, [], batch=2), 0.25)


def test_a_missing_share_is_made_up_by_the_others() -> None:
    part = Part(np.array([0]), np.array([0.2]), ("cat", "dog"), np.array([[0.5, 0.5]]))
    assert np.allclose(combine(CLASSES, [part]), [[0.5, 0.5, 0, 0]], atol=5 * PROBABILITY_FLOOR)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((np.array([0]), np.ones(1), ("yak",), np.ones((1, 1))), "unknown class 'yak'"),
        ((np.array([0]), np.ones(1), ("cat", "cat"), np.ones((1, 2))), "a name twice"),
        ((np.array([0]), np.ones(1), ("cat",), np.full((1, 1), np.nan)), "not finite"),
        ((np.array([0]), np.full(1, -1.0), ("cat",), np.ones((1, 1))), "negative"),
        ((np.array([3]), np.ones(1), ("cat",), np.ones((1, 1))), r"outside 0\.\.1"),
        ((np.array([-1]), np.ones(1), ("cat",), np.ones((1, 1))), r"outside 0\.\.1"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(part: tuple, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        combine(CLASSES, [part], batch=2)


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="probabilities"):
        combine(CLASSES, [(np.array([0]), np.ones(1), ("cat", "dog"), np.ones((1, 3)))], batch=1)
