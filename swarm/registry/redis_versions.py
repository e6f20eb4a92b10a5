"""Experts' versions in Redis: heads, manifests and withdrawals."""

from collections.abc import Sequence
from typing import Any

from swarm.domain.ids import Digest, ExpertId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.registry import refusals
from swarm.registry.redis_connection import RedisConnection, number, text
from swarm.registry.store import MEMORY_OF_KEYS_S


class RedisVersions(RedisConnection):
    """The part of `MetadataStore` that is about experts."""

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
                raise refusals.other_at_version(expert, version, digest, text(held))
        return bool(reply[1])

    async def head(self, expert: ExpertId) -> Head | None:
        found = await self._ask(self._redis.hmget(self._key("expert", expert), ["version", "manifest"]))
        return _head(expert, found)

    async def heads(self, owner: str = "") -> list[Head]:
        names = await self._ask(self._redis.smembers(self._key("experts")))
        experts = sorted(text(name) for name in names)
        experts = [expert for expert in experts if not owner or expert.partition(".")[0] == owner]
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
        return Digest(text(found)) if found else None

    async def manifests(self, start: int = 0) -> list[Digest]:
        rows = await self._ask(self._redis.lrange(self._key("manifests"), start, -1))
        return [Digest(text(row)) for row in rows]

    async def withdraw(
        self, target: str, tombstone: bytes, fence: int | None, key: str
    ) -> tuple[ExpertId, ...]:
        owner = refusals.owner_of_target(target)
        reply = await self._run(
            "withdraw", target, owner, tombstone, "" if fence is None else fence, key, MEMORY_OF_KEYS_S
        )
        match reply:
            case [0, b"stale_fence", newest]:
                raise refusals.stale_fence(owner, fence or 0, newest)
            case [0, *_]:
                raise refusals.key_reused(key)
        return tuple(ExpertId(text(expert)) for expert in reply[1:])

    async def tombstones(self) -> dict[str, bytes]:
        rows = await self._ask(self._redis.hgetall(self._key("tombstones")))
        return {text(target): envelope for target, envelope in rows.items()}

    async def tombstone_count(self) -> int:
        return int(await self._ask(self._redis.hlen(self._key("tombstones"))))

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
                raise refusals.withdrawn(expert, version, text(target))
            case [0, b"other_at_version", held]:
                raise refusals.other_at_version(expert, version, digest, text(held))
        raise refusals.key_reused(key)


def _head(expert: ExpertId, row: Sequence[Any]) -> Head | None:
    version, manifest = row
    if not number(version) or manifest is None:
        return None  # none, or a damaged one: the registry puts back what it acknowledged
    return Head(expert=expert, version=number(version), manifest=Digest(text(manifest)))
