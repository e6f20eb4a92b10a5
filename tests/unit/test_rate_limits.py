"""What a caller may ask in the long run, and at once."""

import pytest

from swarm.answering.rate_limits import BURST_S, RateLimits
from swarm.domain.errors import ExhaustedError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_rate_everything_goes() -> None:
    limits = RateLimits()
    for _ in range(1000):
        limits.spend("client/ada", 4096)


def test_a_caller_gets_its_rate_in_the_long_run_whatever_it_asks_at_once() -> None:
    clock = Clock()
    limits, answered = RateLimits(10.0, clock=clock), 0
    while clock.now < 1000.0:
        try:
            limits.spend("client/ada", 7)
            answered += 7
        except ExhaustedError as error:
            assert error.retry_after_s > 0
            clock.now += error.retry_after_s
    assert 10.0 * 1000 <= answered <= 10.0 * (1000 + BURST_S) + 7


def test_after_the_time_that_it_was_told_a_caller_may_ask_again() -> None:
    clock = Clock()
    limits = RateLimits(2.0, clock=clock)
    limits.spend("client/ada", 500)
    with pytest.raises(ExhaustedError) as caught:
        limits.check("client/ada")
    clock.now += caught.value.retry_after_s - 0.6
    with pytest.raises(ExhaustedError):
        limits.check("client/ada")
    clock.now += 0.6
    limits.spend("client/ada", 1)


def test_callers_are_counted_apart_and_those_named_have_their_own_rate() -> None:
    clock = Clock()
    limits = RateLimits(1.0, {"client/big": 1000.0, "client/free": 0.0}, clock)
    limits.spend("client/ada", 100)
    with pytest.raises(ExhaustedError, match="client/ada"):
        limits.check("client/ada")
    limits.spend("client/bob", 1)
    limits.spend("client/big", 5000)
    limits.spend("client/big", 4999)
    for _ in range(100):
        limits.spend("client/free", 4096)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    clock = Clock()
    limits = RateLimits(1.0, clock=clock)
    clock.now = 100.0
    limits.spend("client/ada", 5)
    clock.now = 50.0
    limits.spend("client/ada", 5)
    with pytest.raises(ExhaustedError):
        limits.check("client/ada")
