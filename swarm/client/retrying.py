"""Asking again within the caller's deadline: while nobody answers, or it is too early, or too much waits."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    NotReadyError,
    SwarmError,
    TooManyExpertsError,
    UnreachableError,
)

T = TypeVar("T")
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
_jitter = random.Random()  # noqa: S311 (no secret)


async def until_answered(ask: Callable[[float], Awaitable[T]], deadline: float) -> T:
    """Return what ask(seconds left) returns, asked again with growing pauses until the deadline.

    `deadline` is in `time.monotonic` seconds. Nothing is asked beyond it: where the pause would not end
    before, the last error is raised, with a note of how often was asked. Asked again are UnreachableError,
    NotReadyError and ExhaustedError; every other error is raised at once.
    """
    began, asked = time.monotonic(), 0
    last: SwarmError = DeadlineError("query", found="no time left", expected="a deadline in the future")
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            _note(last, asked, began)
            raise last
        asked += 1
        try:
            return await ask(left)
        except SwarmError as error:
            last = error
            pause = pause_s(asked)
            if isinstance(error, ExhaustedError) and error.retry_after_s > pause:
                pause = error.retry_after_s * _jitter.uniform(1.0, 1.25)
            if not passes(error) or time.monotonic() + pause >= deadline:
                _note(error, asked, began)
                raise
        await asyncio.sleep(pause)


def passes(error: SwarmError) -> bool:
    """Say whether an error may pass by itself."""
    return isinstance(error, UnreachableError | NotReadyError | ExhaustedError) and not isinstance(
        error, TooManyExpertsError
    )


def _note(error: SwarmError, asked: int, began: float) -> None:
    if asked > 1:
        error.add_note(f"asked {asked} times in {time.monotonic() - began:.1f} s")


def pause_s(asked: int) -> float:
    """Return the pause after so many attempts: it doubles up to a limit, half of it by chance."""
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(asked - 1, 10))
    return longest * _jitter.uniform(0.5, 1.0)
