"""Whom to ask and when to ask another, too, by what calls took; a test's clock."""

from itertools import pairwise

import pytest

from swarm.answering.call_times import (
    FEW,
    FIRST_HEDGE_S,
    FRESH_S,
    LITTLE_TO_DO,
    LONGEST_PAUSE_S,
    STALE_S,
    CallTimes,
    HedgeBudget,
)
from swarm.domain.ids import NodeId

ADA, BOB, EVE = NodeId("ada"), NodeId("bob"), NodeId("eve")
BOTH = (ADA, BOB)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(clock: Clock) -> CallTimes:
    return CallTimes(clock)


def took(times: CallTimes, node: NodeId, seconds: float, count: int = FEW, rows: int = 1) -> None:
    for _ in range(count):
        times.took(node, rows, seconds)


def test_the_first_node_is_asked_while_it_is_about_as_good(times: CallTimes) -> None:
    assert times.best(BOTH, 1) == 0
    took(times, ADA, 0.012)
    took(times, BOB, 0.010)
    assert times.best(BOTH, 1) == 0 and times.best((BOB, ADA), 1) == 0


def test_a_node_that_became_slow_is_left_within_a_few_calls_and_tried_again_later(
    times: CallTimes, clock: Clock
) -> None:
    took(times, ADA, 0.01)
    took(times, BOB, 0.01)
    took(times, ADA, 0.1, count=2)
    assert times.best(BOTH, 1) == 1
    clock.now += STALE_S + 1
    took(times, BOB, 0.01)
    assert times.best(BOTH, 1) == 0, "what it took is long ago: it may be well again"
    took(times, ADA, 0.1, count=1)
    assert times.best(BOTH, 1) == 1


def test_a_node_that_stays_slow_is_tried_again_ever_more_seldom(times: CallTimes, clock: Clock) -> None:
    took(times, ADA, 0.1)
    tried = []
    for tick in range(4000):
        clock.now += 0.1
        took(times, BOB, 0.01, count=1)
        if times.best(BOTH, 1) == 0:
            tried.append(tick / 10)
            took(times, ADA, 0.1, count=1)
    gaps = [late - early for early, late in pairwise(tried)]
    assert gaps[0] < 3 < gaps[3] and len(tried) < 20
    assert max(gaps) <= STALE_S + 1
    took(times, ADA, 0.01, count=20)
    clock.now += FRESH_S + 0.1
    took(times, BOB, 0.001)
    assert times.best(BOTH, 1) == 0, "well again, it is tried again as soon as at first"


def test_a_node_that_nobody_has_asked_is_expected_to_be_as_good_as_the_best(times: CallTimes) -> None:
    took(times, BOB, 0.01)
    took(times, ADA, 0.1)
    assert times.expected_s(EVE, 1) == pytest.approx(0.01)


def test_of_two_alike_the_one_with_less_to_do_is_asked(times: CallTimes) -> None:
    took(times, ADA, 0.01)
    took(times, BOB, 0.01)
    times.started(ADA, 1)
    assert times.best(BOTH, 1) == 0, "one row more is no load"
    times.started(ADA, 4 * LITTLE_TO_DO)
    assert times.best(BOTH, 1) == 1
    times.ended(ADA, 4 * LITTLE_TO_DO)
    times.ended(ADA, 1)
    assert times.best(BOTH, 1) == 0


def test_large_calls_say_nothing_of_small_ones(times: CallTimes) -> None:
    took(times, ADA, 0.01)
    took(times, BOB, 0.01)
    took(times, ADA, 5.0, rows=4096)
    assert times.best(BOTH, 1) == 0


def test_a_call_is_hedged_once_nearly_all_of_the_other_nodes_would_have_ended(times: CallTimes) -> None:
    assert times.hedge_after_s(BOB, 1) == FIRST_HEDGE_S
    took(times, ADA, 0.1)
    took(times, BOB, 0.02, count=18)
    times.took(BOB, 1, 3.0)
    assert times.hedge_after_s(BOB, 1) == 3.0
    took(times, BOB, 0.02, count=1)
    assert times.hedge_after_s(BOB, 1) == 0.02
    assert times.hedge_after_s(EVE, 1) == 0.02, "of one that nobody knows, what the best takes"


def test_a_call_that_was_given_up_counts_for_at_least_what_it_took(times: CallTimes) -> None:
    took(times, ADA, 0.01)
    took(times, BOB, 0.01)
    times.took_longer(ADA, 1, 0.001)
    assert times.best(BOTH, 1) == 0
    times.took_longer(ADA, 1, 0.1)
    assert times.best(BOTH, 1) == 1


def test_a_node_that_failed_comes_last_longer_each_time_until_it_answers(
    times: CallTimes, clock: Clock
) -> None:
    pauses = []
    for _ in range(8):
        times.failed(ADA)
        assert times.best(BOTH, 1) == 1 and times.best((ADA,), 1) == 0
        began = clock.now
        while times.best(BOTH, 1) == 1:
            clock.now += 0.25
        pauses.append(clock.now - began)
    assert pauses[0] < pauses[1] < pauses[2] and pauses[-1] <= LONGEST_PAUSE_S + 0.25
    times.failed(ADA)
    times.took(ADA, 1, 0.01)
    assert times.best(BOTH, 1) == 0


def test_what_was_asked_of_a_node_lately_fades(times: CallTimes, clock: Clock) -> None:
    assert times.rows_lately(ADA) == 0
    times.started(ADA, 100)
    assert times.rows_lately(ADA) == 100
    clock.now += 60
    assert times.rows_lately(ADA) == pytest.approx(50)


def test_what_is_known_of_a_node_can_be_forgotten(times: CallTimes) -> None:
    took(times, ADA, 0.1)
    took(times, BOB, 0.01)
    times.forget(ADA)
    assert times.best(BOTH, 1) == 0


def test_hedges_are_a_small_share_of_all_calls() -> None:
    budget = HedgeBudget(share=0.05, at_once=4)
    assert [budget.take() for _ in range(6)] == [True] * 4 + [False] * 2
    taken = 0
    for _ in range(1000):
        budget.call()
        taken += budget.take()
    assert 45 <= taken <= 50
    for _ in range(1000):
        budget.call()
    assert sum(budget.take() for _ in range(100)) == 4, "what was not used does not pile up"
