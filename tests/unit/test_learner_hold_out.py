"""What was trained on is never judged on later."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.hold_out import hold_out
from swarm.domain.errors import InvalidInputError
from tests.support.learning import digits_like


def rows_of(inputs: np.ndarray, rows: np.ndarray) -> set[bytes]:
    return {inputs[row].tobytes() for row in rows}


def test_about_the_asked_fraction_is_held_out_of_every_class() -> None:
    images, labels = digits_like(2000, 4)
    training, validation = hold_out(images, labels, 0.1)
    assert sorted([*training, *validation]) == list(range(2000))
    assert (np.bincount(labels[validation]) > 20).all() and len(validation) < 280


def test_added_or_reordered_data_never_bring_a_trained_sample_into_validation() -> None:
    images, labels = digits_like(1000, 4)
    training, validation = hold_out(images[:600], labels[:600], 0.1)
    order = np.random.default_rng(1).permutation(1000)
    later_training, later_validation = hold_out(images[order], labels[order], 0.1)
    assert not rows_of(images, training) & rows_of(images[order], later_validation)
    assert rows_of(images, validation) <= rows_of(images[order], later_validation)
    assert rows_of(images, training) <= rows_of(images[order], later_training)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 1000))
def test_every_class_of_two_has_samples_on_both_sides(classes: list[int], seed: int) -> None:
    labels = np.array(classes, dtype=np.int64)
    inputs = np.random.default_rng(seed).integers(0, 256, (len(labels), 6)).astype(np.uint8)
    counts = np.bincount(labels)
    if counts.max() < 2:
        with pytest.raises(InvalidInputError, match="no class with two"):
            hold_out(inputs, labels, 0.01)
        return
    training, validation = hold_out(inputs, labels, 0.1)
    assert set(labels[training]) == set(labels)
    assert set(labels[validation]) == {label for label, count in enumerate(counts) if count >= 2}
