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


def test_a_stream_of_small_mega_batches_holds_out_the_fraction_once_it_has_each_class() -> None:
    images, labels = digits_like(3000, 10)
    validated: set[int] = set()
    held_out, at_first = 0, 0
    for start in range(0, 3000, 30):
        part = slice(start, start + 30)
        training, validation = hold_out(images[part], labels[part], 0.1, validated)
        assert sorted([*training, *validation]) == list(range(30))
        assert set(labels[part][training]) == set(labels[part])
        new = set(labels[part].tolist()) - validated
        assert {label for label in new if (labels[part] == label).sum() > 1} <= set(labels[part][validation])
        validated |= set(labels[part][validation].tolist())
        held_out += len(validation)
        at_first += len(hold_out(images[part], labels[part], 0.1)[1])
    assert 0.07 * 3000 < held_out < 0.13 * 3000 < at_first


def test_where_classes_are_validated_already_nothing_need_be_held_out() -> None:
    images, labels = digits_like(4, 1)
    training, validation = hold_out(images, labels, 1e-9, [0])
    assert len(training) == 4 and not len(validation)
    with pytest.raises(InvalidInputError, match="no class with two"):
        hold_out(images[:1], labels[:1], 1e-9)
    assert len(hold_out(images[:1], labels[:1], 1.0, [0])[0]) == 1


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
