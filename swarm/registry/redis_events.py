"""The stream of events in Redis. Ids follow Redis's own clock, the only one that all processes share."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from swarm.domain.membership import Event
from swarm.registry import refusals
from swarm.registry.redis_connection import RedisConnection, number, text
from swarm.registry.store import MAX_EVENTS

_LONGEST_BLOCK_S: Final = 2.0


class RedisEvents(RedisConnection):
    """The part of `MetadataStore` that is about events."""

    async def append_event(self, kind: str, fields: Mapping[str, str], at: float) -> Event:
        entry = {"kind": kind, "at": repr(at), **{f"f:{name}": value for name, value in fields.items()}}
        event_id = await self._ask(
            self._redis.xadd(self._key("events"), cast(Any, entry), maxlen=MAX_EVENTS, approximate=True)
        )
        return Event(id=text(event_id), kind=kind, at=at, fields=tuple(fields.items()))

    async def events(self, after: str = "", limit: int = 1000) -> list[Event]:
        refusals.event_id(after)
        rows = await self._ask(
            self._redis.xrange(self._key("events"), min=f"({after}" if after else "-", count=limit)
        )
        return [_event(row) for row in rows]

    async def wait_events(self, after: str, timeout_s: float, limit: int = 1000) -> list[Event]:
        refusals.event_id(after)
        start, left_s = after or "0-0", timeout_s
        while left_s > 0:
            block_s = min(left_s, _LONGEST_BLOCK_S)
            found = await self._ask(
                self._redis.xread(
                    {self._key("events"): start}, count=limit, block=max(1, round(block_s * 1000))
                )
            )
            if found:
                return [_event(row) for row in found[0][1]]
            left_s -= block_s
        return []

    async def last_event_id(self) -> str:
        rows = await self._ask(self._redis.xrevrange(self._key("events"), count=1))
        return text(rows[0][0]) if rows else ""


def _event(row: tuple[Any, Mapping[Any, Any]]) -> Event:
    fields = {text(name): text(value) for name, value in row[1].items()}
    return Event(
        id=text(row[0]),
        kind=fields.pop("kind", ""),
        at=_when(text(row[0]), fields.pop("at", "")),
        fields=tuple((name.removeprefix("f:"), value) for name, value in fields.items()),
    )


def _when(event_id: str, at: str) -> float:
    """Return when an event was made: `at`, or by its id where a script made it, or the row is damaged."""
    with suppress(ValueError):
        return float(at)
    return number(event_id.partition("-")[0]) / 1000
