"""A gate's trial gives the sums of the mixture that users would get."""

import numpy as np
import pytest
from numpy.typing import NDArray

from node.gate_trial import TrialGate, TrialLeaf, judge

LABELS = ["cat", "dog", "cat", "owl"]


def gate(
    weights: NDArray[np.float32],
    leaves: list[TrialLeaf],
    names: tuple[str, ...] = ("cat", "dog", "owl"),
    top_k: int = 1,
) -> TrialGate:
    return TrialGate(
        leaf_weights=lambda _: weights, leaves=tuple(leaves), class_names=names, temperature=1.0, top_k=top_k
    )


def leaf(identity: str, names: tuple[str, ...], rows: list[list[float]] | None) -> TrialLeaf:
    answers = None if rows is None else np.array(rows, dtype=np.float32)
    return TrialLeaf(identity=identity, class_names=names, probabilities=answers)


PETS = leaf("pets", ("cat", "dog"), [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
OWLS = leaf("owls", ("owl", "cat"), [[0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.9, 0.1]])
TO_PETS = np.tile(np.float32([0.9, 0.1]), (4, 1))
TO_OWLS_LAST = np.float32([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])


def test_correct_answers_are_counted_by_class_name_at_top_1_2_and_4() -> None:
    trial = judge(LABELS, gate(TO_PETS, [PETS, OWLS]), None, [1.0])
    assert (trial.samples, trial.correct_top1) == (4, (2,))
    mixed = judge(LABELS, gate(np.full((4, 2), 0.5, np.float32), [PETS, OWLS]), None, [1.0])
    assert mixed.correct_top2 == mixed.correct_top4 == (4,)


def test_gained_and_lost_compare_the_same_samples_with_the_incumbent() -> None:
    incumbent = gate(TO_PETS, [PETS, OWLS])
    better = judge(LABELS, gate(TO_OWLS_LAST, [PETS, OWLS]), incumbent, [1.0, 2.0])
    assert (better.incumbent_correct, better.gained, better.lost) == (2, (1, 1), (0, 0))
    worse = judge(LABELS, incumbent, gate(TO_OWLS_LAST, [PETS, OWLS]), [1.0])
    assert (worse.incumbent_correct, worse.gained, worse.lost) == (3, (0,), (1,))


def test_likelihood_is_that_of_the_mixture_and_never_infinite() -> None:
    sure = leaf("sure", ("cat", "dog", "owl"), [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    trial = judge(LABELS, gate(np.ones((4, 1), np.float32), [sure]), None, [1.0])
    assert np.isfinite(trial.nll_sum[0]) and trial.nll_sum[0] > 10
    unknown = judge(
        ["bat"], gate(np.ones((1, 1), np.float32), [leaf("s", ("cat",), [[1.0]])], ("cat",)), None, [1.0]
    )
    assert np.isfinite(unknown.nll_sum[0]) and unknown.correct_top1 == (0,)


def test_an_expert_that_may_not_be_held_counts_as_uniform_and_is_named_missing() -> None:
    hidden = leaf("hidden", ("owl", "dog"), None)
    trial = judge(["owl"], gate(np.float32([[0.1, 0.9]]), [PETS_ONE, hidden]), None, [1.0])
    assert trial.experts_missing == 1
    assert trial.nll_sum[0] == pytest.approx(-np.log(0.5), abs=1e-4)


PETS_ONE = leaf("pets", ("cat", "dog"), [[0.9, 0.1]])


def test_leaves_with_one_expert_count_as_one() -> None:
    weights = np.float32([[0.3, 0.3, 0.4]])
    owls = leaf("owls", ("owl", "cat"), [[0.9, 0.1]])
    trial = judge(["cat"], gate(weights, [PETS_ONE, PETS_ONE, owls]), None, [1.0])
    assert trial.correct_top1 == (1,)


def test_classes_that_an_older_gate_does_not_know_count_for_nothing() -> None:
    newer = leaf("newer", ("cat", "bat"), [[0.7, 0.3]])
    trial = judge(["cat"], gate(np.ones((1, 1), np.float32), [newer], ("cat", "dog")), None, [1.0])
    assert trial.correct_top1 == (1,)
