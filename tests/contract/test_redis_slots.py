"""All keys of a swarm lie in one slot of a Redis Cluster, whatever script or command touches them."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from swarm.domain.errors import StaleParentError, UnreachableError
from swarm.domain.ids import NodeId, SwarmId
from swarm.registry import redis_store
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from tests.contract.test_store_contract import ADA, commit
from tests.support.redis_servers import ClusterNode, running, slot_of
from tests.support.trust import manifest

SWARM = SwarmId("garden-of-the-slots")
_KEYLESS = {"HELLO", "TIME", "MULTI", "EXEC", "PING", "CLIENT", "CONFIG", "SCRIPT"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running("redis", tmp_path_factory.mktemp("slots")) as server:
        yield server


async def everything(store: RedisStore, other: RedisStore) -> None:
    """Use every script and every command of the store; other: an empty one, for what was dumped."""
    fence = (await store.grant_lease(ADA, 60)).fence
    await store.renew_lease(ADA, fence, 60)
    await commit(store, manifest(), fence, "k")
    await commit(store, manifest(number=2), fence)
    with pytest.raises(StaleParentError):
        await commit(store, manifest(version=3), fence)
    await store.restore_head(manifest(version=3), *_envelope(), fence)
    await store.put_back(manifest(number=3), "f" * 64, b"third", as_head=True, fence=fence)
    await store.withdraw("ada.e2", b"stone", fence, "w")
    await store.put_record(ADA, b"record")
    await store.put_specification(1, b"s")
    await store.put_gate(1, b"g")
    await store.put_revocations(1, b"r")
    await store.add_token("t", "hash", role="node", uses=2, expires_at=9e9, created_at=1.0)
    await store.claim_token("t", "hash", 2.0, claimant="c")
    await store.revoke_token("t")
    await store.token("t")
    await store.append_event("kind", {"a": "b"}, 1.0)
    await store.wait_events("", 1)
    await store.remember("call", "outcome")
    for read in (
        store.leases, store.heads, store.manifests, store.tombstones, store.records, store.revocations,
        store.specification, store.gate, store.tokens, store.events, store.last_event_id,
    ):  # fmt: skip
        await read()
    await store.recall("call")
    await store.record(NodeId("bob"))
    await other.restore_dump([row async for row in store.dump()])
    await store.drop_lease(ADA, fence)


def _envelope() -> tuple[str, bytes]:
    return hashlib.sha256(b"third").hexdigest(), b"third"


async def seen(server: RedisServer, act: Coroutine[Any, Any, None]) -> list[tuple[str, str]]:
    """The commands that a server was sent, or a script called, during act, with their keys or scripts."""
    commands: list[tuple[str, str]] = []
    async with Redis.from_url(server.url) as client, client.monitor() as monitor:
        doing = asyncio.ensure_future(act)
        doing.add_done_callback(lambda _: asyncio.ensure_future(Redis.from_url(server.url).echo("the-end")))
        while True:
            name, *words = (await monitor.next_command())["command"].split(" ")
            if [name, *words] == ["ECHO", "the-end"]:
                break
            if name.upper() == "EVALSHA":
                commands += [("SHA", words[0]), ("KEY", words[2])]
            elif words:
                commands.append((name.upper(), words[0]))
        await doing
    return commands


async def test_every_key_of_every_script_and_command_is_in_the_swarms_slot(server: RedisServer) -> None:
    store, other = connect_redis(server.url, SWARM), connect_redis(server.url, SwarmId("empty"))
    commands = await seen(server, everything(store, other))
    scripts = Path(redis_store.__file__).parent / "scripts"
    prelude = (scripts / "prelude.lua").read_text()
    used = {argument for command, argument in commands if command == "SHA"}
    for script in scripts.glob("*.lua"):
        if script.name != "prelude.lua":
            sha = hashlib.sha1((prelude + script.read_text()).encode()).hexdigest()
            assert sha in used, f"{script.name} was not used here"
    slots = {slot_of(f"{{{swarm}}}:"): swarm for swarm in (SWARM, "empty")}
    keys = {key for command, key in commands if command not in {*_KEYLESS, "SHA", "XREAD"} and key}
    assert len(keys) > 30
    assert {slot_of(key) for key in keys} == set(slots), sorted(keys)
    async with Redis.from_url(server.url) as client:
        kept = [key async for key in client.scan_iter()]
        assert {slot_of(key) for key in kept} == set(slots)
    await store.close()
    await other.close()


async def test_a_cluster_node_without_the_swarms_slot_is_refused_by_name(tmp_path: Path) -> None:
    with_slot = ClusterNode(tmp_path)
    await with_slot.start()
    try:
        with_slot.serve_slot_of(SWARM)
        elsewhere = connect_redis(with_slot.url, SwarmId("elsewhere"))
        with pytest.raises(UnreachableError, match="cluster"):
            await elsewhere.grant_lease(ADA, 10)
        await elsewhere.close()
    finally:
        await with_slot.stop()
