"""Ten bugs, each in a wrapper around the real store: what the checker of heads has to find."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from swarm.domain.errors import StaleParentError
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.registry.redis_store import RedisStore

_A_MOMENT_S = 0.003
_BETWEEN_STEPS_S = 0.05


class Planted:
    """The real store; each bug below overrides what it breaks."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def heads(self, owner: str = "") -> list[Head]:
        """Return heads one by one through `head`, so that a bug there shows in both."""
        found = [await self.head(head.expert) for head in await self._store.heads(owner)]
        return [head for head in found if head is not None]

    async def head(self, expert: ExpertId) -> Head | None:
        return await self._store.head(expert)

    async def _set_head(self, head: Head) -> None:
        redis, key, ask = self._store._redis, self._store._key, self._store._ask
        row = {"version": head.version, "manifest": head.manifest}
        await ask(redis.hset(key("expert", head.expert), mapping=row))
        await ask(redis.sadd(key("experts"), head.expert))


class StaleRead(Planted):
    """Heads are answered from a cache that is renewed at every fourth look."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store)
        self._known: dict[ExpertId, tuple[Head | None, int]] = {}

    async def head(self, expert: ExpertId) -> Head | None:
        head, looks = self._known.get(expert, (None, 0))
        if not looks:
            head = await self._store.head(expert)
        self._known[expert] = head, (looks + 1) % 4
        return head


class LostWrite(Planted):
    """A head that was acknowledged and read goes back, as if it had been in memory alone."""

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        before = await self._store.head(manifest.expert)
        head = await self._store.commit_manifest(manifest, digest, envelope, fence, key)
        if before is not None and before.version == 2:
            self._losing = asyncio.create_task(self._lose(before, head))
        return head

    async def _lose(self, before: Head, head: Head) -> None:
        await asyncio.sleep(_A_MOMENT_S)
        if await self._store.head(head.expert) == head:
            await self._set_head(before)


class SkippedVersion(Planted):
    """The third version is counted twice: the head moves by two."""

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        head = await self._store.commit_manifest(manifest, digest, envelope, fence, key)
        if head.version == 3 and await self._store.head(manifest.expert) == head:
            await self._set_head(replace(head, version=4))
        return head


class TwoWinners(Planted):
    """Compare and set in two steps: what another commit did in the moment between them is not seen."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store)
        self._moved_at: dict[ExpertId, float] = {}

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        now = asyncio.get_running_loop().time()
        try:
            head = await self._store.commit_manifest(manifest, digest, envelope, fence, key)
        except StaleParentError:
            newest = await self._store.head(manifest.expert)
            was_compared = now - self._moved_at.get(manifest.expert, 0.0) < _BETWEEN_STEPS_S
            if newest is None or newest.version != manifest.version or not was_compared:
                raise
            head = Head(expert=manifest.expert, version=manifest.version, manifest=digest)
            await self._set_head(head)
        self._moved_at[manifest.expert] = now
        return head


class WithdrawnHead(Planted):
    """A withdrawal leaves the head where it was read last."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store)
        self._known: dict[ExpertId, Head] = {}

    async def head(self, expert: ExpertId) -> Head | None:
        head = await self._store.head(expert)
        if head is None:
            return self._known.get(expert)
        self._known[expert] = head
        return head


class BackwardsHead(Planted):
    """An announced version that is older than the head replaces it."""

    async def restore_head(self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int) -> bool:
        moved = await self._store.restore_head(manifest, digest, envelope, fence)
        head = await self._store.head(manifest.expert)
        if moved or head is None or head.version == manifest.version:
            return moved
        await self._set_head(Head(expert=manifest.expert, version=manifest.version, manifest=digest))
        return True


class PhantomVersion(Planted):
    """A version is written down before it is known whether it may be."""

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        redis, ask = self._store._redis, self._store._ask
        await ask(redis.hsetnx(self._store._key("versions", manifest.expert), str(manifest.version), digest))
        await ask(redis.setnx(self._store._key("manifest", f"phantom-{digest}"), envelope))
        return await self._store.commit_manifest(manifest, digest, envelope, fence, key)

    async def manifest(self, digest: Digest) -> bytes | None:
        found = await self._store.manifest(digest)
        return found or await self._store.manifest(Digest(f"phantom-{digest}"))


class NeverWritten(Planted):
    """Every fourth commit is acknowledged and goes nowhere."""

    _commits = 0

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        self._commits += 1
        if self._commits % 4:
            return await self._store.commit_manifest(manifest, digest, envelope, fence, key)
        return Head(expert=manifest.expert, version=manifest.version, manifest=digest)


class IgnoredFence(Planted):
    """A write under an older lease is taken."""

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        return await self._store.commit_manifest(manifest, digest, envelope, None, key)


class UndoneWithdrawal(Planted):
    """A publish that comes after the withdrawal brings the expert back."""

    async def commit_manifest(
        self, manifest: Manifest, digest: Digest, envelope: bytes, fence: int | None, key: str
    ) -> Head:
        await self._store._ask(self._store._redis.hdel(self._store._key("tombstones"), manifest.expert))
        if await self._store.head(manifest.expert) is not None or manifest.version == 1:
            return await self._store.commit_manifest(manifest, digest, envelope, fence, key)
        head = Head(expert=manifest.expert, version=manifest.version, manifest=digest)
        await self._store.restore_head(manifest, digest, envelope, fence or 0)
        return head


BUGS: dict[str, Callable[[RedisStore], Planted]] = {
    "a stale read after the acknowledgement": StaleRead,
    "an acknowledged write is lost": LostWrite,
    "a version is skipped": SkippedVersion,
    "two winners for one version": TwoWinners,
    "a withdrawn head is read": WithdrawnHead,
    "a head goes backwards": BackwardsHead,
    "a phantom version": PhantomVersion,
    "an acknowledged write is never visible": NeverWritten,
    "an older lease's write is taken": IgnoredFence,
    "a late publish undoes a withdrawal": UndoneWithdrawal,
}
