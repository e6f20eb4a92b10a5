"""A Redis with damaged rows: each is read as what is not there, and what was acknowledged comes back."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.domain.errors import VerificationError
from swarm.domain.ids import ExpertId, NodeId
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore
from tests.integration.test_registry_rolled_back_redis import over_redis
from tests.support.trust import specification

ADA_1 = ExpertId("ada.e1")

Damage = Callable[[Any, Callable[..., str]], Awaitable[object]]
DAMAGES: dict[str, Damage] = {
    "a head's version is no number": lambda redis, key: redis.hset(key("expert", ADA_1), "version", "q"),
    "a head's version is another one": lambda redis, key: redis.hset(key("expert", ADA_1), "version", "9"),
    "a head without its manifest": lambda redis, key: redis.hdel(key("expert", ADA_1), "manifest"),
    "a head's manifest is no text": lambda redis, key: redis.hset(key("expert", ADA_1), "manifest", b"\xb8"),
    "a version's manifest is no text": lambda redis, key: redis.hset(key("versions", ADA_1), "2", b"4\xb3f"),
    "a row of the list is no text": lambda redis, key: redis.lset(key("manifests"), 0, b"a8\xb8f"),
    "an event is no text": lambda redis, key: redis.xadd(key("events"), {b"k\xb8nd": b"x", b"at": b"\xff"}),
    "an expert's name is no text": lambda redis, key: redis.sadd(key("experts"), b"ada.\xe5"),
    "a fence is no number": lambda redis, key: redis.set(key("fence", "ben"), "q"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_what_was_acknowledged_is_there_again_over_damaged_rows(tmp_path: Path, damage: Damage) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    registry = await over_redis(tmp_path, redis)
    store = registry.store
    assert isinstance(store, RedisStore)
    try:
        digests = [await registry.add(version=version) for version in (1, 2)]
        await damage(store._redis, store._key)
        await registry.service.reconciler.reconcile(audit=True)
        assert [(head.expert, head.version, head.manifest) for head in await store.heads()] == [
            (ADA_1, 2, digests[1])
        ]
        assert [await store.manifest_at(ADA_1, version) for version in (1, 2)] == digests
        assert set(digests) <= set(await store.manifests())
        assert {event.fields for event in await store.events() if event.kind == "module.published"}
        assert (await registry.add(version=3)) == (await store.heads())[0].manifest
        assert (await store.grant_lease(NodeId("ben"), 60)).fence >= 1
    finally:
        await store.close()
        await redis.stop()


@pytest.mark.parametrize("count", ["q", "7", "0", ""])
async def test_a_damaged_count_of_a_series_loses_nothing(tmp_path: Path, count: str) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    registry = await over_redis(tmp_path, redis)
    store = registry.store
    assert isinstance(store, RedisStore)
    try:
        envelope = await store.specification()
        assert envelope is not None
        newest = store._key("specification", "newest")
        await (store._redis.set(newest, count) if count else store._redis.delete(newest))
        assert await store.specification() == envelope
        await store.put_specification(1, envelope)
        assert await store._redis.get(newest) == b"1"
        await store.put_specification(2, registry.signed(specification()))
        assert await store.specification() != envelope
    finally:
        await store.close()
        await redis.stop()


async def test_a_row_of_another_kind_is_an_error_with_a_remedy_and_no_defect(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    registry = await over_redis(tmp_path, redis)
    store = registry.store
    assert isinstance(store, RedisStore)
    try:
        await store._redis.set(store._key("experts"), "not a set")
        with pytest.raises(VerificationError, match="WRONGTYPE") as refused:
            await store.heads()
        assert "put back" in refused.value.remedy
    finally:
        await store.close()
        await redis.stop()
