"""The store in Redis. Every change is one Lua script, so it is atomic and its checks are inside it.

Keys share the hash tag `{<swarm>}`. Expiry and event ids follow Redis's own clock, the only one that all
processes share. Needs no Redis newer than 6.2: no functions, no WAITAOF.
"""

from collections.abc import AsyncIterator, Iterable

from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.membership import Lease
from swarm.registry import refusals
from swarm.registry.redis_connection import number, redis_client, text, triples, without_password
from swarm.registry.redis_events import RedisEvents
from swarm.registry.redis_tokens import RedisTokens
from swarm.registry.redis_versions import RedisVersions
from swarm.registry.store import MEMORY_OF_KEYS_S


def connect_redis(url: str, swarm: SwarmId) -> "RedisStore":
    """Return a store at `redis://`, `rediss://` or `unix://` url; it connects on first use.

    Raises UsageError for another kind of url.
    """
    return RedisStore(redis_client(url), swarm, without_password(url))


class RedisStore(RedisVersions, RedisTokens, RedisEvents):
    """Implements `MetadataStore`: versions, tokens, events; here leases, records, gates and keys."""

    async def grant_lease(self, node: NodeId, ttl_s: float, after: int = 0) -> Lease:
        return await self._lease("grant", node, after, ttl_s)

    async def renew_lease(self, node: NodeId, fence: int, ttl_s: float) -> Lease:
        return await self._lease("renew", node, fence, ttl_s)

    async def drop_lease(self, node: NodeId, fence: int) -> None:
        # A superseded lease is not ours to drop: the refusal is the wanted outcome.
        await self._run("lease", "drop", node, fence, 0)

    async def leases(self) -> list[Lease]:
        rows = await self._run("leases")
        return sorted(
            (
                Lease(node=NodeId(text(node)), fence=fence, expires_at=expires_ms / 1000)
                for node, fence, expires_ms in triples(rows)
            ),
            key=lambda lease: lease.node,
        )

    async def put_record(self, member: NodeId, envelope: bytes) -> bool:
        return bool((await self._run("put_record", member, envelope))[1])

    async def record(self, member: NodeId) -> bytes | None:
        return await self._get("node", member)

    async def records(self) -> dict[NodeId, bytes]:
        names = await self._ask(self._redis.smembers(self._key("nodes")))
        members = sorted(text(name) for name in names)
        rows = await self._get_all("node", members)
        return {NodeId(member): row for member, row in zip(members, rows, strict=True) if row is not None}

    async def put_revocations(self, number: int, envelope: bytes) -> None:
        await self._put_next("revocations", number, envelope)

    async def revocations(self) -> bytes | None:
        return await self._numbered("revocations", 0)

    async def put_specification(self, version: int, envelope: bytes) -> None:
        await self._put_next("specification", version, envelope)

    async def specification(self, version: int = 0) -> bytes | None:
        return await self._numbered("specification", version)

    async def put_gate(self, version: int, envelope: bytes) -> None:
        await self._put_next("gate", version, envelope)

    async def gate(self, version: int = 0) -> bytes | None:
        return await self._numbered("gate", version)

    async def remember(self, key: str, outcome: str) -> str:
        # SET with NX and GET together needs Redis 7.
        name = self._key("key", "call", key)
        if await self._ask(self._redis.set(name, outcome, nx=True, ex=MEMORY_OF_KEYS_S)):
            return outcome
        first = await self._ask(self._redis.get(name))
        return outcome if first is None else text(first)

    async def recall(self, key: str) -> str | None:
        first = await self._get("key", "call", key)
        return None if first is None else text(first)

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes, int]]:
        for key, payload, ttl_ms in triples(await self._run("dump")):
            yield key, payload, ttl_ms

    async def restore_dump(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        reply = await self._run("restore", *(cell for row in rows for cell in row))
        if not reply[0]:
            raise refusals.not_empty(f"{text(reply[1])} keys at {self._address}")

    async def _lease(self, act: str, node: NodeId, fence: int, ttl_s: float) -> Lease:
        reply = await self._run("lease", act, node, fence, max(1, round(ttl_s * 1000)))
        if not reply[0]:
            raise refusals.stale_fence(node, fence, reply[2])
        return Lease(node=node, fence=reply[1], expires_at=reply[2] / 1000)

    async def _put_next(self, series: str, version: int, envelope: bytes) -> None:
        reply = await self._run("put_next", series, version, envelope)
        if not reply[0]:
            raise refusals.not_next(series, version, reply[2])

    async def _numbered(self, series: str, version: int) -> bytes | None:
        if version:
            return await self._get(series, str(version))
        newest = number(await self._get(series, "newest"))
        found = await self._get(series, str(newest)) if newest else None
        # None where there is none at all, or where the count is damaged.
        return found if found is not None else await self._last(series)

    async def _last(self, series: str) -> bytes | None:
        found, version = None, 1
        while (row := await self._get(series, str(version))) is not None:
            found, version = row, version + 1
        return found
