"""Follow the store: bring both sides to the same after every outage, then live by its events."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.membership import Event
from swarm.registry.store import MetadataStore

WAIT_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0

log = structlog.get_logger()


class Follower:
    """Runs until cancelled. `synchronise` runs before the first event and again after each outage."""

    def __init__(
        self,
        store: MetadataStore,
        synchronise: Callable[[], Awaitable[None]],
        on_event: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._store, self._synchronise, self._on_event = store, synchronise, on_event
        self._after: str | None = None
        self.in_step = asyncio.Event()
        """Set while both sides are the same."""

    async def run(self) -> None:
        """Follow for ever."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if not self.in_step.is_set():
                    if self._after is None:
                        self._after = await self._store.last_event_id()
                    await self._synchronise()
                    log.info("store.in_step", after=self._after)
                    self.in_step.set()
                    pause_s = FIRST_PAUSE_S
                for event in await self._store.wait_events(self._after or "", WAIT_S):
                    self._after = event.id
                    await self._on_event(event)
            except UnreachableError as error:
                log.warning("store.away", reason=str(error), again_in_s=round(pause_s, 1))
                self.in_step.clear()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except (SwarmError, OSError) as error:  # a full disk is not the end
                log.error("store.not_in_step", reason=str(error))
                self.in_step.clear()
                await asyncio.sleep(LONGEST_PAUSE_S)
