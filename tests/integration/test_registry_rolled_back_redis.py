"""A Redis that is back with less before anybody asked it, brought forward from the journal of commits."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from swarm.domain.ids import NodeId
from swarm.domain.members import Tombstone
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import connect_redis
from swarm.registry.service import RegistryService
from tests.support.registry import Registry, open_registry
from tests.support.trust import SWARM


async def over_redis(folder: Path, redis: RedisServer) -> Registry:
    """A registry with a journal over a real Redis, which was compared when both were empty."""
    made = await open_registry(folder)
    store = connect_redis(redis.url, SWARM)
    for member, record in (await made.store.records()).items():
        await store.put_record(member, record)
        made.fences[member] = (await store.grant_lease(NodeId(member), 600)).fence
    envelope = await made.store.specification()
    assert envelope is not None
    await store.put_specification(1, envelope)
    service = RegistryService(
        store=store,
        blobs=made.blobs,
        keyring=made.keyring,
        certificate_days=lambda: 6.5,
        spare_bytes=0,
        journal=CommitJournal(folder / "commits.jsonl"),
    )
    await service.reconciler.reconcile()
    return replace(made, store=store, service=service)


@contextmanager
def its_last_writes_lost(redis: RedisServer) -> Iterator[None]:
    """What the append-only file gains meanwhile is lost with a kill; the server has to be started again."""
    (file,) = (path for path in redis.folder.rglob("*.aof") if path.stat().st_size)
    size = file.stat().st_size
    yield
    os.kill(redis.pid, signal.SIGKILL)
    os.truncate(file, size)


async def test_versions_acknowledged_and_lost_between_two_looks_come_back(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    registry = await over_redis(tmp_path, redis)
    try:
        for version in (1, 2, 3):
            with its_last_writes_lost(redis):
                digest = await registry.add(version=version)
            await redis.stop()
            await redis.start()
            await registry.service.reconciler.look()
            assert [head.manifest for head in await registry.store.heads()] == [digest]
    finally:
        await registry.store.close()
        await redis.stop()


async def test_a_withdrawal_acknowledged_and_lost_between_two_looks_comes_back(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    registry = await over_redis(tmp_path, redis)
    stone = Tombstone(swarm=SWARM, kind="expert", id="ada.e1", reason="", created_at=1.0)
    try:
        await registry.add()
        await registry.service.reconciler.look()
        with its_last_writes_lost(redis):
            await registry.service.withdraw(
                registry.caller("ada"), registry.signed(stone), registry.fences["ada"], ""
            )
        await redis.stop()
        await redis.start()
        await registry.service.reconciler.look()
        assert not await registry.store.heads() and "ada.e1" in await registry.store.tombstones()
    finally:
        await registry.store.close()
        await redis.stop()
