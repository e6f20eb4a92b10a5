"""In front of whoever answers: what a caller may ask, whose turn it is, and a trail of what was answered."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from swarm.answering.query_queue import Arriving, QueryQueue
from swarm.answering.rate_limits import RateLimits
from swarm.domain.errors import DeadlineError, SwarmError
from swarm.domain.inference import Answer, Examples, Profile, Query
from swarm.domain.membership import Caller
from swarm.rpc.callers import current_caller
from swarm.rpc.ports import InferencePort

SWARM_MODEL: Final = "swarm"
DRAIN_S: Final = 8.0
"""How long what was taken up may go on once its process is told to end."""


class Trail(Protocol):
    """Where it is written down who was answered, and by whom."""

    def answered(
        self, caller: str, model: str, rows: int, duration_s: float, answer: Answer | None, outcome: str
    ) -> None:
        """Note a query's end: `outcome` is "answered" or an error's code."""


@dataclass(slots=True)
class Passed:
    """A query whose turn it is: how long it may take, and, set by whoever answers it, the answer."""

    left_s: float = 0.0
    answer: Answer | None = None


class FrontDoor:
    """Lets queries through to what answers them. For one event loop."""

    def __init__(
        self, queue: QueryQueue, rates: RateLimits | None = None, trail: Trail | None = None
    ) -> None:
        self.queue = queue
        self._rates, self._trail = rates if rates is not None else RateLimits(), trail

    @property
    def is_closing(self) -> bool:
        """Say whether nothing new is taken up any more."""
        return self.queue.is_closing

    def admit(self, caller: Caller, timeout_s: float) -> Arriving:
        """Return the context in which a caller's query is read. Raises where it would be refused whatever it
        is, before any of it is read.

        ExhaustedError beyond its rate, or where too much waits for the time that it has, with when to ask
        again; NotReadyError while this process ends.
        """
        name = named(caller)
        arriving = self.queue.arrive(name, timeout_s)
        self._rates.check(name)
        return arriving

    @asynccontextmanager
    async def query(self, caller: Caller, model: str, rows: int, timeout_s: float) -> AsyncIterator[Passed]:
        """Wait for the caller's turn and hold it while the context lasts.

        Raises as `admit` does, and DeadlineError where no time is left.
        """
        name, began, passed = named(caller), time.monotonic(), Passed()
        try:
            self._rates.spend(name, rows)
            async with self.queue.turn(name, rows, timeout_s):
                waited_s = time.monotonic() - began
                passed.left_s = timeout_s - waited_s
                if passed.left_s <= (self.queue.takes_s if waited_s > passed.left_s else 0):
                    # Most of its time went by in the queue: work on it would be lost.
                    raise DeadlineError(
                        "query", found=f"no turn within its {timeout_s:g} s", remedy="give it more time"
                    )
                yield passed
        except SwarmError as error:
            self._note(name, model, rows, began, None, error.code)
            raise
        except BaseException as error:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else SwarmError.code
            self._note(name, model, rows, began, None, outcome)
            raise
        self._note(name, model, rows, began, passed.answer, "answered")

    async def drain(self, what: str, grace_s: float = DRAIN_S) -> bool:
        """Take up nothing new; return whether all that was taken up ended within the grace (seconds)."""
        return await self.queue.drain(what, grace_s)

    def _note(
        self, caller: str, model: str, rows: int, began: float, answer: Answer | None, outcome: str
    ) -> None:
        if self._trail is not None:
            self._trail.answered(caller, model, rows, time.monotonic() - began, answer, outcome)


def named(caller: Caller) -> str:
    """Return a caller as limits and trails name it: `role/id`."""
    return f"{caller.role}/{caller.id}"


class GuardedInference:
    """Implements `InferencePort`: another one, behind a front door."""

    def __init__(self, port: InferencePort, door: FrontDoor) -> None:
        self._port, self._door = port, door

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the port's answer once it is the caller's turn; raises as both do."""
        rows = max(1, len(query.inputs))
        async with self._door.query(current_caller(), SWARM_MODEL, rows, timeout_s) as passed:
            passed.answer = await self._port.predict(query, passed.left_s)
        return passed.answer

    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile:
        """Return the port's profile once it is the caller's turn; raises as both do."""
        rows = max(1, len(examples.inputs))
        async with self._door.query(caller, "profile", rows, timeout_s) as passed:
            return await self._port.make_profile(caller, examples, passed.left_s)
