"""A real Redis that lost what was acknowledged: nothing goes, nothing is given away, nothing is denied."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import NotReadyError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.registry.service import RegistryService
from swarm.trust.statements import sign_statement
from tests.support.registry import Registry, expert, open_registry
from tests.support.trust import SWARM, specification


class World:
    """A registry with a journal over a Redis that can be wiped and set back."""

    def __init__(self, registry: Registry, store: RedisStore, redis: Redis, folder: Path) -> None:
        self.store, self.redis, self.folder = store, redis, folder
        self.journal = CommitJournal(folder / "commits.jsonl")
        self.registry = registry.over(store)
        self.restart()

    def restart(self) -> None:
        self.journal = CommitJournal(self.folder / "commits.jsonl")
        self.registry.service = RegistryService(
            store=self.store,
            blobs=self.registry.blobs,
            keyring=self.registry.founded.coordinator.keyring(),
            certificate_days=lambda: 6.5,
            spare_bytes=0,
            retention=RetentionPolicy(keep_versions=1),
            journal=self.journal,
        )

    @property
    def service(self) -> RegistryService:
        return self.registry.service

    async def members_are_back(self) -> None:
        """Put back what a coordinator does before the specification."""
        for name, identity in self.registry.nodes.items():
            await self.store.put_record(NodeId(name), identity.record)
            self.registry.fences[name] = (await self.store.grant_lease(NodeId(name), 60)).fence

    async def coordinator_came(self) -> None:
        await self.members_are_back()
        envelope = sign_statement(specification(), self.registry.founded.coordinator_signer)
        await self.store.put_specification(1, envelope)

    async def publish(self, made: Manifest, blobs: dict[Digest, bytes]) -> Digest:
        await self.registry.publish(blobs, made.owner)
        return await self.registry.commit(made)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = RedisServer(tmp_path / "redis")
    await server.start()
    store = connect_redis(server.url, SWARM)
    async with Redis.from_url(server.url) as redis:
        found = World(await open_registry(tmp_path), store, redis, tmp_path)
        await found.coordinator_came()
        await found.service.reconciler.reconcile()
        yield found
    await store.close()
    await server.stop()


async def test_a_collection_over_a_store_that_went_back_removes_nothing_acknowledged(world: World) -> None:
    first, blobs = expert(version=1)
    await world.publish(first, blobs)
    for version in (2, 3):
        await world.registry.add(version=version)
    kept = [row async for row in world.store.dump()]
    back, _ = expert(version=4)  # over the weights of the first, which are superseded in what was kept
    digest = await world.publish(back, blobs)
    await world.redis.flushall()
    await world.store.restore_dump(kept)
    await world.service.collect()
    (head,) = await world.service.heads("")
    assert (head.version, head.manifest) == (4, digest)
    assert not world.registry.blobs.missing(list(blobs))


async def test_no_collection_while_the_store_lacks_what_was_acknowledged(world: World) -> None:
    await world.registry.add()
    before = set(world.registry.blobs.digests())
    await world.redis.flushall()
    with pytest.raises(NotReadyError, match="1 acknowledged"):
        await world.service.collect()
    assert await world.service.sweep() == 0
    assert set(world.registry.blobs.digests()) == before
