"""Turns at making profiles: one is made at a time, and who asks for many keeps nobody else waiting.

Callers are served in turn, each caller's requests in their order: whoever comes waits for the one that is
being made and for one of every other caller, however many those sent.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import NodeId

MOST_WAITING = 4
"""A request that waits holds its examples and their features: some 50 MB for 2,048 of 6,400 features."""


class Turns:
    """Who may make a profile now. For one event loop."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._busy = False
        self._waiting: OrderedDict[NodeId, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, caller: NodeId) -> AsyncIterator[None]:
        """Wait for a caller's turn and hold it. Raises ExhaustedError where too much of its waits already."""
        await self._taken(caller)
        try:
            yield
        finally:
            self._pass_on(caller)

    async def _taken(self, caller: NodeId) -> None:
        if not self._busy:
            self._busy = True
            return
        if len(self._waiting.get(caller, ())) >= self._most_waiting:
            raise ExhaustedError(
                f"profiles of {caller}",
                found=f"{self._most_waiting} requests that wait already",
                expected="one at a time, or a few",
                remedy="wait until one is answered, then send the next examples",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(caller, turn)
            else:
                self._pass_on(caller)  # the turn came in the moment in which its caller gave up
            raise

    def _pass_on(self, caller: NodeId) -> None:
        if caller in self._waiting:
            self._waiting.move_to_end(caller)
        while self._waiting:
            first = next(iter(self._waiting))
            turn = self._waiting[first][0]
            self._forget(first, turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    def _forget(self, caller: NodeId, turn: asyncio.Future[None]) -> None:
        with suppress(KeyError, ValueError):
            self._waiting[caller].remove(turn)
            if not self._waiting[caller]:
                del self._waiting[caller]
