"""What happens, as events in the store and as log lines; an outage of the store delays events."""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from swarm.domain.errors import UnreachableError
from swarm.registry.store import MetadataStore

MOST_DELAYED = 1000

log = structlog.get_logger()


class Journal:
    """Records events in order. While the store is away they wait; beyond the bound the oldest go."""

    def __init__(self, store: MetadataStore, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._delayed: deque[tuple[str, dict[str, str], float]] = deque(maxlen=MOST_DELAYED)
        self._writing = asyncio.Lock()

    async def record(self, kind: str, /, **fields: object) -> None:
        """Record that kind happened now."""
        texts = {name: str(value) for name, value in fields.items()}
        log.info(kind, **texts)
        self._delayed.append((kind, texts, self._clock()))
        await self.catch_up()

    async def catch_up(self) -> None:
        """Write down what waits, as far as the store answers."""
        async with self._writing:
            while self._delayed:
                kind, fields, at = self._delayed[0]
                try:
                    await self._store.append_event(kind, fields, at)
                except UnreachableError as error:
                    log.warning("events.delayed", waiting=len(self._delayed), reason=str(error))
                    return
                self._delayed.popleft()
