"""Values of experts with different classes become one distribution, by the formula of each combination."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.combination import Combination
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.combinations import mix, option_grid

COMBINATIONS = [each.combination for each in option_grid(True, (0.5, 2.0), True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_experts_are_mixed_by_weight_and_classes_they_do_not_know_count_as_zero() -> None:
    parts = [
        (np.array([0, 1]), np.array([0.75, 1.0]), np.array([3, 0]), np.array([[0.2, 0.8], [1.0, 0.0]])),
        (np.array([0]), np.array([0.25]), np.array([1, -1]), np.array([[1.0, 0.0]])),
    ]
    found = mix(Combination(name="prototypes"), class_scores=None, parts=parts, batch=2, classes=4)
    assert np.allclose(found, [[0.6, 0.25, 0, 0.15], [0, 0, 0, 1]], atol=5e-6)


def test_the_formulas_are_those_of_the_combinations() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    rows, ones, known = np.array([0, 1]), np.array([1.0, 1.0]), np.array([0, 2])
    said, shift = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, -1.0], [-2.0, 2.0]])

    def answer(combination: Combination, values: np.ndarray | None) -> np.ndarray:
        parts = [] if values is None else [(rows, ones, known, values)]
        return mix(combination, class_scores=scores, parts=parts, batch=2, classes=3)

    own = np.zeros((2, 3))
    own[:, known] = said
    root = softmax(scores / 0.1)
    assert np.allclose(answer(Combination(name="root"), None), root, atol=3e-6)
    assert np.allclose(answer(Combination(name="gate"), said), own, atol=3e-6)
    product = softmax(np.log(own + 1e-6) + 0.5 * np.log(root))
    assert np.allclose(answer(Combination(name="poe", strength=0.5), said), product, atol=3e-6)
    moved = scores / 0.2
    moved[:, known] += 0.25 * shift
    corrected = Combination(name="corrected", strength=0.25, class_temperature=0.2)
    assert np.allclose(answer(corrected, shift), softmax(moved), atol=3e-6)


@pytest.mark.parametrize("name", ["gate", "poe", "corrected"])
def test_rows_without_any_expert_get_the_roots_answer(name: str) -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    part = (np.array([1]), np.array([1.0]), np.array([0, 1]), np.array([[0.5, 0.5]]))
    combination = Combination(name=name, class_temperature=0.3)  # type: ignore[arg-type]
    found = mix(combination, class_scores=scores, parts=[part], batch=2, classes=3)
    assert np.allclose(found[0], softmax(scores / 0.3)[0], atol=3e-6)
    assert not np.allclose(found[1], softmax(scores / 0.3)[1], atol=1e-3)


def test_rows_without_any_expert_are_uniform_where_there_are_no_sums() -> None:
    found = mix(Combination(name="prototypes"), class_scores=None, parts=[], batch=2, classes=4)
    assert np.allclose(found, 0.25)


def test_what_is_missing_of_a_mixture_leaves_the_rest_its_shares() -> None:
    part = (np.array([0]), np.array([0.25]), np.array([0, 1]), np.array([[0.8, 0.2]]))
    found = mix(Combination(name="prototypes"), class_scores=None, parts=[part], batch=1, classes=2)
    assert np.allclose(found, [[0.8, 0.2]])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(COMBINATIONS),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_any_answers_mix_into_a_distribution(
    combination: Combination, batch: int, classes: int, seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(0 if combination.name == "root" else rng.integers(0, 4)):
        rows = np.flatnonzero(rng.random(batch) < 0.5)
        known = rng.permutation(classes)[: rng.integers(0, classes + 1)]
        values = size * rng.normal(size=(len(rows), len(known)))
        values = values if combination.name == "corrected" else np.abs(values)
        parts.append((rows, rng.random(len(rows)), known, values))
    scores = size * rng.normal(size=(batch, classes))
    found = mix(combination, class_scores=scores, parts=parts, batch=batch, classes=classes)
    assert found.shape == (batch, classes) and found.dtype == np.float32
    assert np.isfinite(np.log(found)).all() and np.allclose(found.sum(axis=1), 1, atol=1e-5)


ROWS, ONE, KNOWN, SAID = np.array([0]), np.array([1.0]), np.array([0, 1]), np.array([[0.5, 0.5]])


@pytest.mark.parametrize(
    "part",
    [
        (np.array([1]), ONE, KNOWN, SAID),
        (ROWS, ONE, np.array([0, 0]), SAID),
        (ROWS, ONE, np.array([0, 2]), SAID),
        (ROWS, ONE, KNOWN, SAID[:, :1]),
        (ROWS, -ONE, KNOWN, SAID),
        (ROWS, ONE, KNOWN, -SAID),
        (ROWS, ONE, KNOWN, SAID * np.nan),
    ],
)
def test_what_cannot_be_an_experts_answer_is_refused(part: tuple) -> None:
    with pytest.raises(InvalidInputError, match="expert's"):
        mix(Combination(name="prototypes"), class_scores=None, parts=[part], batch=1, classes=2)


def test_a_mixture_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="class scores for gate top-1"):
        mix(Combination(name="gate"), class_scores=None, parts=[], batch=1, classes=2)
    with pytest.raises(InvalidInputError, match="combination root"):
        mix(
            Combination(name="root"),
            class_scores=np.zeros((1, 2)),
            parts=[(ROWS, ONE, KNOWN, SAID)],
            batch=1,
            classes=2,
        )
