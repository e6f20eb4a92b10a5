"""The store in Redis. Every change is one Lua script, so it is atomic and its checks are inside it.

Keys share the hash tag `{<swarm>}`. Expiry and event ids follow Redis's own clock, the only one that all
processes share. Needs no Redis newer than 6.2: no functions, no WAITAOF.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from swarm.domain.errors import ExhaustedError, UnreachableError, UsageError
from swarm.domain.ids import Digest, ExpertId, NodeId, SwarmId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Role
from swarm.domain.membership import Event, Head, Lease, TokenView
from swarm.registry import refusals
from swarm.registry.store import MAX_EVENTS, MEMORY_OF_KEYS_S, StoredToken

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ANSWER_S: Final = 5.0
_CONNECT_S: Final = 3.0
_LONGEST_BLOCK_S: Final = 2.0
_CANCEL_AGAIN_S: Final = 0.05


def connect_redis(url: str, swarm: SwarmId) -> "RedisStore":
    """Return a store at `redis://`, `rediss://` or `unix://` url; it connects on first use.

    Raises UsageError for another kind of url.
    """
    try:
        # A command is sent once: a second try could use a token or append an event twice.
        client = Redis.from_url(
            url,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        raise UsageError(
            "Redis URL", found=str(error), expected="redis://HOST:PORT/0 or unix:///path/to/redis.sock"
        ) from None
    return RedisStore(client, swarm, _without_password(url))


class RedisStore:
    """Implements `MetadataStore` on a Redis client that does not decode replies."""

    def __init__(self, client: Redis, swarm: SwarmId, address: str) -> None:
        self._redis, self._prefix, self._address = client, f"{{{swarm}}}:", address
        prelude = (_SCRIPTS / "prelude.lua").read_text()
        self._scripts = {
            path.stem: client.register_script(prelude + path.read_text())
            for path in sorted(_SCRIPTS.glob("*.lua"))
            if path.stem != "prelude"
        }

    async def ping(self) -> None:
        await self._ask(self._redis.ping())

    async def durability(self) -> str:
        try:
            config = await self._ask(self._redis.config_get("append*"))
        except ResponseError:
            return "unknown: this Redis does not show its configuration"
        settings = {_text(name): _text(value) for name, value in config.items()}
        if settings.get("appendonly") != "yes":
            return "snapshots only: the last minutes may be lost in a crash"
        return f"appendfsync {settings.get('appendfsync', 'unknown')}"

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
                Lease(node=NodeId(_text(node)), fence=fence, expires_at=expires_ms / 1000)
                for node, fence, expires_ms in _triples(rows)
            ),
            key=lambda lease: lease.node,
        )

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        await self._commit("commit", manifest, digest, envelope, fence=fence, key=key)
        return Head(expert=manifest.expert, version=manifest.version, manifest=digest)

    async def restore_head(self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int) -> bool:
        return await self._commit("restore", manifest, digest, envelope, fence=fence, key="")

    async def put_back(
        self,
        manifest: Manifest,
        digest: Digest,
        envelope: bytes,
        *,
        as_head: bool,
        fence: int | None = None,
        mend: bool = False,
    ) -> bool:
        expert, version = manifest.expert, manifest.version
        reply = await self._run(
            "put_back", expert, manifest.owner, version, digest, envelope, int(as_head),
            "" if fence is None else fence, int(mend),
        )  # fmt: skip
        match reply:
            case [0, b"stale_fence", newest]:
                raise refusals.stale_fence(manifest.owner, fence or 0, newest)
            case [0, _, held]:
                raise refusals.other_at_version(expert, version, digest, _text(held))
        return bool(reply[1])

    async def head(self, expert: ExpertId) -> Head | None:
        found = await self._ask(self._redis.hmget(self._key("expert", expert), ["version", "manifest"]))
        return _head(expert, found)

    async def heads(self, owner: str = "") -> list[Head]:
        names = await self._ask(self._redis.smembers(self._key("experts")))
        experts = sorted(_text(name) for name in names)
        experts = [e for e in experts if not owner or refusals.owner_of_target(e) == owner]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for expert in experts:
                pipeline.hmget(self._key("expert", expert), ["version", "manifest"])
            rows = await self._ask(pipeline.execute())
        heads = (_head(ExpertId(expert), row) for expert, row in zip(experts, rows, strict=True))
        return [head for head in heads if head is not None]

    async def manifest(self, digest: Digest) -> bytes | None:
        return await self._get("manifest", digest)

    async def manifest_at(self, expert: ExpertId, version: int) -> Digest | None:
        found = await self._ask(self._redis.hget(self._key("versions", expert), str(version)))
        return Digest(_text(found)) if found else None

    async def manifests(self, start: int = 0) -> list[Digest]:
        rows = await self._ask(self._redis.lrange(self._key("manifests"), start, -1))
        return [Digest(_text(row)) for row in rows]

    async def withdraw(
        self, target: str, tombstone: bytes, fence: int | None, key: str
    ) -> tuple[ExpertId, ...]:
        owner = refusals.owner_of_target(target)
        reply = await self._run(
            "withdraw", target, owner, tombstone, "" if fence is None else fence, key, MEMORY_OF_KEYS_S
        )
        if not reply[0]:
            raise refusals.stale_fence(owner, fence or 0, reply[2])
        return tuple(ExpertId(_text(expert)) for expert in reply[1:])

    async def tombstones(self) -> dict[str, bytes]:
        rows = await self._ask(self._redis.hgetall(self._key("tombstones")))
        return {_text(target): envelope for target, envelope in rows.items()}

    async def put_record(self, member: NodeId, envelope: bytes) -> bool:
        return bool((await self._run("put_record", member, envelope))[1])

    async def record(self, member: NodeId) -> bytes | None:
        return await self._get("node", member)

    async def records(self) -> dict[NodeId, bytes]:
        names = await self._ask(self._redis.smembers(self._key("nodes")))
        members = sorted(_text(name) for name in names)
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

    async def add_token(
        self,
        token_id: str,
        secret_hash: str,
        *,
        role: Role,
        uses: int,
        expires_at: float,
        created_at: float,
    ) -> bool:
        reply = await self._run(
            "token_add", token_id, secret_hash, role, uses, repr(expires_at), repr(created_at)
        )
        return bool(reply[1])

    async def claim_token(
        self, token_id: str, secret_hash: str, now: float, *, role: str = "", claimant: str = ""
    ) -> Role:
        reply = await self._run(
            "token_claim", token_id, secret_hash, repr(now), role, claimant, MEMORY_OF_KEYS_S
        )
        if not reply[0]:
            raise refusals.bad_token(token_id, _text(reply[1]))
        return cast(Role, _text(reply[1]))

    async def token(self, token_id: str) -> StoredToken | None:
        return _token(await self._ask(self._redis.hgetall(self._key("token", token_id))))

    async def tokens(self) -> list[TokenView]:
        names = [_text(name) for name in await self._ask(self._redis.smembers(self._key("tokens")))]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(self._key("token", name))
            rows = await self._ask(pipeline.execute())
        found = ((name, _token(row)) for name, row in zip(names, rows, strict=True))
        views = [token.view(name) for name, token in found if token is not None and not token.is_revoked]
        return sorted(views, key=lambda view: (view.created_at, view.id))

    async def revoke_token(self, token_id: str) -> None:
        if not (await self._run("token_revoke", token_id))[1]:
            raise refusals.no_token(token_id)

    async def append_event(self, kind: str, fields: Mapping[str, str], at: float) -> Event:
        entry = {"kind": kind, "at": repr(at), **{f"f:{name}": value for name, value in fields.items()}}
        event_id = await self._ask(
            self._redis.xadd(self._key("events"), cast(Any, entry), maxlen=MAX_EVENTS, approximate=True)
        )
        return Event(id=_text(event_id), kind=kind, at=at, fields=tuple(fields.items()))

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
        return _text(rows[0][0]) if rows else ""

    async def remember(self, key: str, outcome: str) -> str:
        # SET with NX and GET together needs Redis 7.
        name = self._key("key", "call", key)
        if await self._ask(self._redis.set(name, outcome, nx=True, ex=MEMORY_OF_KEYS_S)):
            return outcome
        first = await self._ask(self._redis.get(name))
        return outcome if first is None else _text(first)

    async def recall(self, key: str) -> str | None:
        first = await self._get("key", "call", key)
        return None if first is None else _text(first)

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes, int]]:
        for key, payload, ttl_ms in _triples(await self._run("dump")):
            yield key, payload, ttl_ms

    async def restore_dump(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        reply = await self._run("restore", *(cell for row in rows for cell in row))
        if not reply[0]:
            raise refusals.not_empty(f"{_text(reply[1])} keys at {self._address}")

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    async def _ask(self, command: Awaitable[Any]) -> Any:
        """Await a command; outages and a Redis that cannot write become errors with a remedy.

        The client may lose a cancellation that comes while it takes a connection, and go on; so the command
        has a task of its own, which is cancelled until it ends.
        """
        task = asyncio.ensure_future(command)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
            if not task.cancelled():
                task.exception()  # Seen, so that nobody logs it: the caller has gone.
            raise
        try:
            return task.result()
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        except (MovedError, ClusterDownError) as error:
            raise self._elsewhere(error) from error
        except (ResponseError, OutOfMemoryError) as error:
            if isinstance(error, OutOfMemoryError) or str(error).startswith("MISCONF"):
                raise self._cannot_write(error) from error
            raise

    async def _run(self, script: str, *args: str | bytes | float) -> list[Any]:
        reply = await self._ask(self._scripts[script](keys=[self._prefix], args=list(args)))
        return cast(list[Any], reply)

    async def _lease(self, act: str, node: NodeId, fence: int, ttl_s: float) -> Lease:
        reply = await self._run("lease", act, node, fence, max(1, round(ttl_s * 1000)))
        if not reply[0]:
            raise refusals.stale_fence(node, fence, reply[2])
        return Lease(node=node, fence=reply[1], expires_at=reply[2] / 1000)

    async def _commit(
        self, act: str, manifest: Manifest, digest: Digest, envelope: bytes, *, fence: int | None, key: str
    ) -> bool:
        expert, version, parent = manifest.expert, manifest.version, manifest.parent_version
        reply = await self._run(
            "commit", act, expert, manifest.owner, version, parent, digest, envelope,
            "" if fence is None else fence, key, MEMORY_OF_KEYS_S,
        )  # fmt: skip
        match reply:
            case [1, moved]:
                return bool(moved)
            case [0, b"stale_parent", head]:
                raise refusals.stale_parent(expert, version, parent, head)
            case [0, b"stale_fence", newest]:
                raise refusals.stale_fence(manifest.owner, fence or 0, newest)
            case [0, b"withdrawn", target]:
                raise refusals.withdrawn(expert, version, _text(target))
            case [0, b"other_at_version", held]:
                raise refusals.other_at_version(expert, version, digest, _text(held))
        raise refusals.key_reused(key)

    async def _put_next(self, series: str, version: int, envelope: bytes) -> None:
        reply = await self._run("put_next", series, version, envelope)
        if not reply[0]:
            raise refusals.not_next(series, version, reply[2])

    async def _numbered(self, series: str, version: int) -> bytes | None:
        newest = version or int(await self._get(series, "newest") or 0)
        return await self._get(series, str(newest))

    async def _get(self, *parts: str) -> bytes | None:
        return cast(bytes | None, await self._ask(self._redis.get(self._key(*parts))))

    async def _get_all(self, table: str, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        rows = await self._ask(self._redis.mget([self._key(table, name) for name in names]))
        return cast(list[bytes | None], rows)

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"Redis at {self._address}",
            found=str(error) or type(error).__name__,
            expected="an answer",
            remedy="see that it runs: swarm doctor; what was not acknowledged can be sent again",
        )

    def _elsewhere(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"Redis at {self._address}",
            found=f"a node of a cluster without this swarm's slot: {error}",
            expected="the node that has it",
            remedy=f"see redis-cli cluster keyslot '{self._prefix}' and cluster slots; docs/registry.md",
        )

    def _cannot_write(self, error: Exception) -> ExhaustedError:
        return ExhaustedError(
            f"Redis at {self._address}",
            found=str(error),
            expected="room for its data",
            remedy="free memory or disk space there; what was not acknowledged can be sent again",
        )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _triples(reply: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(reply[1::3], reply[2::3], reply[3::3], strict=True)


def _head(expert: ExpertId, row: Sequence[Any]) -> Head | None:
    version, manifest = row
    if version is None:
        return None
    return Head(expert=expert, version=int(version), manifest=Digest(_text(manifest)))


def _token(row: Mapping[bytes, bytes]) -> StoredToken | None:
    try:
        return StoredToken(
            hash=_text(row[b"hash"]),
            role=cast(Role, _text(row[b"role"])),
            uses=int(row[b"uses"]),
            expires_at=float(row[b"expires_at"]),
            created_at=float(row[b"created_at"]),
            is_revoked=row[b"revoked"] != b"0",
        )
    except (KeyError, ValueError):
        return None


def _event(row: tuple[Any, Mapping[Any, Any]]) -> Event:
    fields = {_text(name): _text(value) for name, value in row[1].items()}
    return Event(
        id=_text(row[0]),
        kind=fields.pop("kind"),
        at=float(fields.pop("at")),
        fields=tuple((name.removeprefix("f:"), value) for name, value in fields.items()),
    )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
