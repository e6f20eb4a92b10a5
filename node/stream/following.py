"""A stream's news for whoever looks on: unlike an order's run it goes on when nobody does."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from node.stream.trouble import Trouble
from swarm.domain.agent import TrainStep
from swarm.domain.errors import SwarmError

_KEPT = 100


class StreamRun:
    """A stream that runs, and its newest steps."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.error: SwarmError | None = None
        self.trouble: Trouble | None = None
        """What it waits for to be over, None while it goes well."""
        self._steps: deque[TrainStep] = deque(maxlen=_KEPT)
        self._told = 0
        self._changed = asyncio.Condition()

    async def tell(self, stage: str, message: str, fraction: float = 0.0) -> None:
        """Tell news."""
        await self.add(TrainStep(stage=stage, message=message, fraction=fraction))

    async def add(self, step: TrainStep) -> None:
        """Tell one more step."""
        async with self._changed:
            self._steps.append(step)
            self._told += 1
            self._changed.notify_all()

    async def end(self, error: SwarmError | None = None) -> None:
        """Tell that this was all, or what went wrong."""
        async with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    async def follow(self) -> AsyncIterator[TrainStep]:
        """Yield the newest step and all that come; raise the error that ended the stream."""
        seen = max(0, self._told - 1)
        while not (self.ended and seen == self._told):
            missed = max(seen, self._told - len(self._steps))
            new = list(self._steps)[len(self._steps) - (self._told - missed) :]
            seen = self._told
            for step in new:
                yield step
            async with self._changed:
                await self._changed.wait_for(lambda: self.ended or self._told > seen)  # noqa: B023
        if self.error is not None:
            raise self.error
