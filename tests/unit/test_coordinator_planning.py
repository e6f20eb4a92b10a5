"""The pure parts of the coordinator: answer board, trials, candidates, throttle, addresses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.addresses import Endpoints, told_address, told_elsewhere
from coordinator.answer_board import AnswerBoard, merge_rows
from coordinator.throttle import MOST_ADDRESSES, Throttle
from coordinator.trials import is_beyond_chance, is_harmed, is_sound, judge_trials
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.gating.routing import plan_route

ADA, BOB = NodeId("ada"), NodeId("bob")


def board(weights: list[list[float]], top_k: int, **options: bool) -> AnswerBoard:
    array = np.array(weights)
    plan = plan_route(array, [f"expert {leaf}" for leaf in range(array.shape[1])], top_k)
    return AnswerBoard(plan, array.shape[1], **options)


def test_a_leaf_that_fails_is_replaced_by_the_rows_next_one_and_the_row_is_degraded() -> None:
    answers = board([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], 1)
    assert {leaf: rows.tolist() for leaf, rows in answers.wanted().items()} == {0: [0], 2: [1]}
    instead = answers.failed({0: np.array([0])})
    assert {leaf: rows.tolist() for leaf, rows in instead.items()} == {1: [0]}
    assert answers.degraded.tolist() == [True, False]
    np.testing.assert_allclose(answers.shares(), [[0, 1, 0], [0, 0, 1]])


def test_what_is_left_of_a_row_is_renormalised_by_the_gates_weights() -> None:
    answers = board([[0.5, 0.3, 0.2]], 2)
    answers.failed({0: np.array([0])})
    np.testing.assert_allclose(answers.shares(), [[0, 0.6, 0.4]], rtol=1e-6)


def test_a_row_with_no_leaf_left_is_said_to_be_unanswered() -> None:
    answers = board([[0.6, 0.4]], 1)
    assert answers.failed({0: np.array([0])}) != {}
    assert answers.failed({1: np.array([0])}) == {}
    assert answers.unanswered().tolist() == [0]


def test_uniform_shares_are_equal_whatever_the_weights() -> None:
    answers = board([[0.9, 0.05, 0.05]], 3, uniform=True)
    np.testing.assert_allclose(answers.shares(), [[1 / 3] * 3])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    leaves=st.integers(1, 6),
    top_k=st.integers(1, 7),
    seed=st.integers(0, 10**6),
    dead=st.sets(st.integers(0, 5)),
)
def test_every_row_ends_with_living_leaves_and_shares_that_sum_to_one(
    rows: int, leaves: int, top_k: int, seed: int, dead: set[int]
) -> None:
    weights = np.random.default_rng(seed).random((rows, leaves))
    plan = plan_route(weights, [str(leaf) for leaf in range(leaves)], min(top_k, leaves))
    answers = AnswerBoard(plan, leaves)
    pending = answers.wanted()
    for _ in range(2 * leaves + 2):
        losses = {leaf: where for leaf, where in pending.items() if leaf in dead}
        pending = merge_rows([answers.failed(losses)])
        if not pending:
            break
    assert not pending
    shares = answers.shares()
    alive = [leaf for leaf in range(leaves) if leaf not in dead]
    assert len(answers.unanswered()) == (0 if alive else rows)
    if alive:
        np.testing.assert_allclose(shares.sum(axis=1), 1.0)
        assert (shares[:, sorted(dead & set(range(leaves)))] == 0).all()
        assert ((shares > 0).sum(axis=1) == min(top_k, len(alive))).all() or (weights == 0).any()


def trial(nll: tuple[float, ...], gained: tuple[int, ...], lost: tuple[int, ...]) -> GateTrial:
    same = tuple(50 for _ in nll)
    return GateTrial(
        samples=100,
        temperatures=tuple(range(1, len(nll) + 1)),
        nll_sum=nll,
        correct_top1=same,
        correct_top2=same,
        correct_top4=same,
        incumbent_correct=50,
        gained=gained,
        lost=lost,
    )


def test_the_temperature_has_the_lowest_summed_likelihood_loss() -> None:
    trials = {ADA: trial((30, 10), (0, 0), (0, 0)), BOB: trial((10, 20), (0, 0), (0, 0))}
    verdict = judge_trials(trials, frozenset({ADA}), (1.0, 2.0), 9.0)
    assert (verdict.temperature, verdict.harmed) == (2.0, ())
    assert verdict.evidence["validation_samples"] == 200 and verdict.evidence["judges"] == 2


def test_a_temperature_that_harms_an_incumbent_is_passed_over_and_only_then_comes_refusal() -> None:
    harmful_first = {ADA: trial((10, 20), (0, 3), (9, 2))}
    assert judge_trials(harmful_first, frozenset({ADA}), (1.0, 2.0), 9.0).temperature == 2.0
    harmful_always = {ADA: trial((10, 20), (0, 0), (9, 9))}
    verdict = judge_trials(harmful_always, frozenset({ADA}), (1.0, 2.0), 9.0)
    assert [str(harm) for harm in verdict.harmed] == ["ada would lose 9 and gain 0 of 100 validation samples"]


def test_a_newcomers_own_loss_is_no_reason_to_refuse() -> None:
    trials = {BOB: trial((10,), (0,), (9,))}
    assert judge_trials(trials, frozenset({ADA}), (1.0,), 9.0).harmed == ()


def test_without_trials_the_default_temperature_stands_and_the_evidence_says_so() -> None:
    verdict = judge_trials({}, frozenset({ADA}), (1.0,), 9.0)
    assert (verdict.temperature, verdict.evidence["judges"], verdict.evidence["incumbents_heard"]) == (
        9.0,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("gained", "lost", "harmed"), [(0, 0, False), (0, 1, False), (0, 2, True), (5, 8, False), (5, 10, True)]
)
def test_harm_is_a_loss_beyond_one_standard_error(gained: int, lost: int, harmed: bool) -> None:
    assert is_harmed(gained, lost) is harmed


def test_trials_that_cannot_be_true_are_recognised() -> None:
    assert is_sound(trial((1.0,), (0,), (0,)), (1.0,))
    for broken in (
        trial((1.0, 2.0), (0, 0), (0, 0)),
        trial((float("nan"),), (0,), (0,)),
        trial((1.0,), (0,), (101,)),
        trial((1.0,), (-1,), (0,)),
    ):
        assert not is_sound(broken, (1.0,))


def test_a_throttle_admits_a_burst_then_a_steady_rate_for_each_address() -> None:
    now = [0.0]
    throttle = Throttle(burst=3, per_second=1, clock=lambda: now[0])
    assert [throttle.admits("1.2.3.4") for _ in range(4)] == [True, True, True, False]
    assert throttle.admits("1.2.3.5")
    now[0] = 1.0
    assert [throttle.admits("1.2.3.4") for _ in range(2)] == [True, False]
    assert [throttle.admits(f"2001:db8::{n:x}") for n in range(1, 5)] == [True, True, True, False]
    for number in range(2 * MOST_ADDRESSES):
        throttle.admits(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._buckets) == MOST_ADDRESSES


@pytest.mark.parametrize(
    ("advertised", "listen", "told"),
    [
        ("", "127.0.0.1", ":7071"),
        ("", "0.0.0.0", ":7071"),
        ("", "::", ":7071"),
        ("", "10.0.0.7", "10.0.0.7:7071"),
        ("swarm.example", "0.0.0.0", "swarm.example:7071"),
        ("2001:db8::1", "::", "[2001:db8::1]:7071"),
    ],
)
def test_joiners_are_told_an_address_only_where_it_means_something_to_them(
    advertised: str, listen: str, told: str
) -> None:
    assert told_address(advertised, listen, 7071) == told


def test_a_local_registry_is_told_without_its_host_and_the_join_line_always_has_one() -> None:
    assert told_elsewhere("127.0.0.1:7072") == ":7072"
    assert told_elsewhere("registry:7072") == "registry:7072"
    endpoints = Endpoints(advertise="", listen="127.0.0.1", join_port=7070, port=7071, registry="[::1]:7072")
    assert (endpoints.join, endpoints.registry_told) == ("127.0.0.1:7070", ":7072")


@pytest.mark.parametrize(
    ("gained", "lost", "refused"), [(0, 3, False), (0, 4, False), (0, 5, True), (5, 10, False), (5, 13, True)]
)
def test_a_loss_that_chance_explains_refuses_nobody(gained: int, lost: int, refused: bool) -> None:
    assert is_harmed(gained, lost) and is_beyond_chance(gained, lost) is refused


def test_a_gate_that_costs_little_within_chance_comes_at_its_best_temperature_and_says_so() -> None:
    verdict = judge_trials({ADA: trial((20, 10), (0, 0), (3, 3))}, frozenset({ADA}), (1.0, 2.0), 9.0)
    assert (verdict.temperature, verdict.harmed) == (2.0, ())
    assert verdict.evidence["losing_within_chance"] == 1
