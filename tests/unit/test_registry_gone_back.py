"""A real Redis that lost what was acknowledged: nothing goes, nothing is given away, nothing is denied."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from swarm.cli.checks import registry_checks
from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import NotAuthorisedError, NotReadyError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.registry.service import RegistryService
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.registry import Registry, expert, fetched, open_registry
from tests.support.trust import SWARM, found, specification


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
        opened = World(await open_registry(tmp_path), store, redis, tmp_path)
        await opened.coordinator_came()
        await opened.service.reconciler.reconcile()
        yield opened
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


async def test_serve_only_weights_stay_here_while_the_store_is_lost_and_after_whoever_comes_first(
    world: World,
) -> None:
    made, blobs = expert()
    kept = replace(made, share="serve-only")
    await world.publish(kept, blobs)
    (large, *_) = blobs
    await world.redis.flushall()
    for _ in range(2):
        with pytest.raises(NotReadyError, match="swarm coordinator"):
            await fetched(world.service, large)
        world.restart()
        await world.service.reconciler.reconcile()
    theirs = replace(expert("bob")[0], share="public")
    await world.coordinator_came()
    offered = world.registry.signed(theirs, "bob")
    await world.service.bring_back(world.registry.caller("bob"), [offered], world.registry.fences["bob"])
    with pytest.raises(NotAuthorisedError, match="serve-only"):
        await fetched(world.service, large)
    order = await world.store.manifests()
    assert order[0] == await world.store.manifest_at(kept.expert, 1)


@pytest.mark.parametrize("way", ["commit", "announce"])
async def test_nobody_gets_before_others_in_the_order_that_the_journal_has(world: World, way: str) -> None:
    first = await world.registry.add("ada")
    made, blobs = expert("bob", seed=7)
    await world.registry.publish(blobs, "bob")
    await world.redis.flushall()
    bob, envelope = world.registry.caller("bob"), world.registry.signed(made, "bob")
    with pytest.raises(NotReadyError):
        if way == "announce":
            await world.service.announce(bob, [envelope], 1, "")
        else:
            await world.service.commit(bob, envelope, 1, "")
    await world.coordinator_came()
    fence = world.registry.fences["bob"]
    if way == "announce":
        await world.service.announce(bob, [envelope], fence, "")
    else:
        await world.service.commit(bob, envelope, fence, "")
    order = await world.store.manifests()
    assert order[0] == first and len(order) == 2


async def test_what_a_wiped_store_cannot_say_is_not_denied(world: World) -> None:
    digest = await world.registry.add()
    await world.redis.flushall()
    asked = [
        world.service.heads(""),
        world.service.heads("ada"),
        world.service.manifest("", "ada.e1", 0),
        world.service.manifest("", "ada.e1", 1),
        world.service.manifest(digest, "", 0),
        world.service.lineage("", "ada.e1"),
    ]
    for answer in asked:
        with pytest.raises(NotReadyError, match="1 acknowledged versions"):
            await answer
    assert not await world.service.heads("bob")
    await world.coordinator_came()
    (head,) = await world.service.heads("")
    assert head.manifest == digest


async def test_while_redis_is_away_what_was_shared_before_is_given(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, blobs = expert()
    await world.publish(made, blobs)
    (large, *_) = blobs
    await fetched(world.service, large)
    await world.redis.config_set("maxclients", 1)
    await world.redis.client_kill_filter(skipme=True)
    assert await fetched(world.service, large) == blobs[large]


async def test_a_version_that_another_one_displaced_keeps_no_collection_from_its_work(world: World) -> None:
    made, blobs = expert()
    await world.publish(made, blobs)
    other = world.registry.signed(replace(made, metrics={"mark": 1.0}))
    await world.journal.note_commit(statement_digest(other), other)
    await world.journal.note_commit(Digest("f" * 64), other)  # a line with a flipped bit
    assert not (await world.service.collect()).gone
    assert not world.registry.blobs.missing(list(blobs))


async def test_the_doctor_names_lost_versions_missing_blobs_and_a_damaged_journal(world: World) -> None:
    await world.coordinator_came()
    made, blobs = expert()
    await world.publish(made, blobs)

    async def bad() -> dict[str, str]:
        await world.service.missing_blobs()
        health = await world.service.health()
        return {each.name: each.found for each in registry_checks(health) if not each.ok}

    assert set(await bad()) == {"registry's blobs"}  # the trunk was never published here
    before = await world.service.missing_blobs()
    for blob in blobs:
        world.registry.blobs.remove(blob)
    needed = f"{before + len(blobs)} that are needed are not there"
    assert await bad() == {"registry's blobs": needed}
    path = world.folder / "commits.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "commit"}\n')
    world.restart()
    await world.service.reconciler.reconcile()
    assert await bad() == {"registry's blobs": needed, "registry's journal": "1 lines cannot be read"}
    assert (await world.service.rebuild(begin=True)).journal_damaged == 1
    await world.redis.flushall()
    await world.service.reconciler.reconcile()
    assert (await bad())["registry's versions"] == "1 acknowledged ones are not in Redis"
    missing = {(each.version, each.what) for each in (await world.service.rebuild(begin=True)).missing}
    assert ("ada.e1@1", "manifest") in missing
    await world.coordinator_came()
    report = await world.service.rebuild(begin=False)
    assert report.from_journal == ()
    await world.service.heads("")
    report = await world.service.rebuild(begin=False)
    assert report.from_journal == ("ada.e1@1",) and not [m for m in report.missing if m.what == "manifest"]


async def test_a_manifest_that_fell_out_of_the_stores_list_comes_back_and_is_no_hindrance(
    world: World,
) -> None:
    first = await world.registry.add(version=1)
    await world.registry.add(version=2)
    await world.redis.lrem(f"{{{SWARM}}}:manifests", 1, first)
    await world.service.collect()
    assert first in await world.store.manifests()


async def test_the_journal_says_nothing_that_another_swarm_wrote_into_the_store(
    world: World, tmp_path: Path
) -> None:
    other = found(tmp_path / "other swarm").member("ada")
    first, blobs = expert(version=1)
    for version in (1, 2):
        made = replace(first, version=version, parent_version=version - 1)
        envelope = sign_statement(made, other.required_signer())
        await world.store.put_back(made, statement_digest(envelope), envelope, as_head=True)
    await world.service.reconciler.reconcile()
    assert world.journal.count == 0 and not world.journal.experts()
    await world.redis.flushall()
    await world.coordinator_came()
    digest = await world.publish(first, blobs)
    world.restart()
    assert [head.manifest for head in await world.service.heads("")] == [digest]
    assert world.journal.commits == {digest}
