"""How sure answers are: expected calibration error, and the temperature that heals it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from swarm.domain.combination import CALIBRATIONS
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.calibration import (
    BINS,
    calibrated,
    expected_calibration_error,
    fitted_temperature,
    losses_by_temperature,
)

CONFIDENCES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80)
LOGITS = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-6, 6))


def shares(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def drawn(count: int, classes: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, C], and labels drawn by exactly them."""
    random = np.random.default_rng(seed)
    p = shares(random.normal(scale=spread, size=(count, classes)))
    return p, (random.random((count, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)


@given(CONFIDENCES, st.randoms(use_true_random=False))
def test_the_error_lies_in_0_to_1_and_the_order_of_answers_does_not_matter(
    answers: list[tuple[float, bool]], random: object
) -> None:
    def error(pairs: list[tuple[float, bool]]) -> float:
        return expected_calibration_error(
            np.array([sure for sure, _ in pairs]), np.array([right for _, right in pairs])
        )

    found = error(answers)
    assert 0 <= found <= 1
    random.shuffle(answers)  # type: ignore[attr-defined]
    assert error(answers) == pytest.approx(found, abs=1e-12)


@given(CONFIDENCES)
def test_one_bin_says_how_far_mean_confidence_is_from_accuracy_and_more_bins_no_less(
    answers: list[tuple[float, bool]],
) -> None:
    sure = np.array([each for each, _ in answers])
    right = np.array([each for _, each in answers])
    whole = expected_calibration_error(sure, right, bins=1)
    assert whole == pytest.approx(abs(sure.mean() - right.mean()), abs=1e-12)
    assert expected_calibration_error(sure, right) >= whole - 1e-12


def test_bins_have_equal_mass() -> None:
    """Of 30 answers the two of each bin are off by +0.1 and -0.1: nothing is left of it in bins of two."""
    sure = np.repeat(np.arange(1, 16) / 20, 2) + np.tile([0.0, 1e-6], 15)
    off = np.tile([True, False], 15)
    by_hand = np.mean([abs((sure[k : k + 2] - off[k : k + 2]).mean()) for k in range(0, 30, 2)])
    assert expected_calibration_error(sure, off) == pytest.approx(by_hand)
    assert len(sure) // 2 == BINS


def test_the_error_is_what_it_should_be_at_the_extremes() -> None:
    ones, right = np.ones(40), np.ones(40, dtype=bool)
    assert expected_calibration_error(ones, right) == 0
    assert expected_calibration_error(ones, ~right) == 1
    assert expected_calibration_error(0.75 * ones, np.arange(40) % 4 > 0) == 0


@pytest.mark.parametrize("sure", [np.zeros(0), np.array([1.5]), np.array([math.nan])])
def test_confidences_that_cannot_be_are_refused(sure: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        expected_calibration_error(sure, np.ones(len(sure), dtype=bool))
    with pytest.raises(ShapeMismatchError):
        expected_calibration_error(np.ones(2), np.ones(3, dtype=bool))


@given(LOGITS, st.floats(0.25, 8))
def test_a_temperature_leaves_the_likeliest_class_and_sums_of_1(logits: np.ndarray, degree: float) -> None:
    p = shares(logits).astype(np.float32)
    found = calibrated(p, degree)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5) and (found > 0).all()
    best = p.argmax(axis=1)
    assert (found[np.arange(len(p)), best] >= found.max(axis=1) - 1e-6).all()
    if degree > 1:
        assert (found.max(axis=1) <= p.max(axis=1) + 1e-5).all()


@given(LOGITS)
def test_no_temperature_and_1_leave_an_answer_to_the_bit(logits: np.ndarray) -> None:
    p = shares(logits).astype(np.float32)
    assert np.array_equal(calibrated(p, 0.0), p) and np.array_equal(calibrated(p, 1.0), p)


@settings(max_examples=25)
@given(LOGITS, st.integers(0, 9))
def test_losses_are_those_of_the_calibrated_answers(logits: np.ndarray, seed: int) -> None:
    p = shares(logits).astype(np.float32)
    labels = np.random.default_rng(seed).integers(-1, p.shape[1], len(p))
    found = losses_by_temperature(p, labels)
    for loss, temperature in zip(found, CALIBRATIONS, strict=True):
        likely = calibrated(p, temperature)[np.arange(len(p)), np.maximum(labels, 0)]
        expected = -np.log(np.where(labels >= 0, likely, 1e-6).astype(np.float64)).sum()
        assert loss == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("degree", [0.5, 1.0, 2.5])
def test_the_temperature_that_answers_lack_is_found_and_heals_them(degree: float) -> None:
    p, labels = drawn(4000, 5, 2.0, 1)
    wrong = shares(np.log(p) * degree)  # too sure by that factor
    found = fitted_temperature(losses_by_temperature(wrong, labels))
    assert found == pytest.approx(degree, rel=0.08)
    healed = calibrated(wrong, found)
    right = healed.argmax(axis=1) == labels
    after = expected_calibration_error(healed.max(axis=1), right)
    assert after < 0.03
    if degree != 1.0:
        assert after < expected_calibration_error(wrong.max(axis=1), right) / 2


def test_a_few_samples_that_are_all_right_make_nothing_certain() -> None:
    p = np.tile([[0.7, 0.3]], (5, 1))
    assert 0.4 < fitted_temperature(losses_by_temperature(p, np.zeros(5, dtype=np.int64))) < 1
    assert fitted_temperature([0.0] * len(CALIBRATIONS)) == pytest.approx(1.0)
