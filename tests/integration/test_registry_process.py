"""The registry as a process: mutual TLS, a real Redis, SIGTERM, outages, revocation while it runs."""

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    ExhaustedError,
    NotAuthorisedError,
    StaleParentError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import NodeId
from swarm.registry.app import RegistryConfig, serve
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.rpc import methods as m
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.statements import sign_statement
from tests.support.registry import expert
from tests.support.trust import SWARM, Founded, found, revocations, specification

REGISTRY = NodeId("registry")
_RUN = """
import asyncio, sys
from pathlib import Path
from swarm.registry.app import RegistryConfig, serve
identity, blobs, redis_url = sys.argv[1:]
config = RegistryConfig(identity=Path(identity), blobs=Path(blobs), redis_url=redis_url, port=0)
asyncio.run(serve(config, lambda port: print(port, flush=True)))
"""


@dataclass
class Running:
    founded: Founded
    redis: RedisServer
    store: RedisStore
    config: RegistryConfig
    process: asyncio.subprocess.Process
    port: int
    ada: Identity
    fence: int

    def client(self, identity: Identity) -> RegistryClient:
        return RegistryClient(open_channel(identity, f"127.0.0.1:{self.port}", "registry", REGISTRY))

    def signed(self, value: object) -> bytes:
        return sign_statement(value, self.ada.required_signer())


def run_command(config: RegistryConfig) -> list[str]:
    return [sys.executable, "-c", _RUN, str(config.identity), str(config.blobs), config.redis_url]


async def started(config: RegistryConfig) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(*run_command(config), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while not (line := await process.stdout.readline()).strip().isdigit():
            assert line, "the registry ended"
    return process, int(line)


async def stopped(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(15):
        return await process.wait()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    now = datetime.now(UTC)
    founded = found(tmp_path / "swarm", now=now)
    identity = founded.registry(tmp_path / "registry" / "identity", now=now)
    ada = founded.member("ada", now=now)
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    store = connect_redis(redis.url, SWARM)
    await store.put_specification(1, sign_statement(specification(), founded.coordinator_signer))
    await store.put_record(NodeId("ada"), ada.record)
    fence = (await store.grant_lease(NodeId("ada"), 60)).fence
    config = RegistryConfig(
        identity=identity.folder, blobs=tmp_path / "registry" / "blobs", redis_url=redis.url, port=0
    )
    process, port = await started(config)
    made = Running(founded, redis, store, config, process, port, ada, fence)
    yield made
    await stopped(made.process)
    await store.close()
    await redis.stop()


async def publish(client: RegistryClient, running: Running, version: int = 1, seed: int = 0) -> bytes:
    made, blobs = expert(version=version, seed=seed)
    for name in await client.missing(made.blobs()):
        await client.publish_blob(name, blobs[name])
    envelope = running.signed(made)
    await client.commit(envelope, running.fence)
    return envelope


async def test_publish_fetch_restart_and_everything_is_still_there(running: Running) -> None:
    client = running.client(running.ada)
    envelope = await publish(client, running)
    made, blobs = expert()
    heads = await client.heads()
    assert await client.missing(made.blobs()) == []
    for name, data in blobs.items():
        assert await client.fetch_blob(name) == data
    with pytest.raises(StaleParentError, match=r"ada\.e1@1: found parent 0"):
        await publish(client, running, seed=3)
    await client.close()

    assert await stopped(running.process) == 0
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    assert await client.heads() == heads
    assert await client.manifest(expert="ada.e1") == envelope
    assert (await client.lineage(expert="ada.e1")).nodes[0].standing == "live"
    health = await client.health()
    assert (health.redis, health.durability, health.blobs) == ("ok", "appendfsync everysec", 4)
    assert health.socket_bytes.received > 0
    assert 6 < health.certificate_days < 8
    await client.close()


async def test_a_registry_killed_amid_a_publish_has_the_old_version_and_no_torn_file(
    running: Running,
) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    data = bytes(40 << 20)
    upload = asyncio.create_task(client.publish_blob(digest_of(data), data))
    async with asyncio.timeout(20):
        while not list((running.config.blobs / "incoming").iterdir()):
            await asyncio.sleep(0.005)
    running.process.kill()
    with pytest.raises(SwarmError):
        await upload
    await running.process.wait()
    await client.close()
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    kept = [path.name for path in (running.config.blobs / "incoming").iterdir()]
    assert kept in ([], [f"{digest_of(data)}.node-ada.part"])
    assert await client.missing([digest_of(data)]) == [digest_of(data)]
    assert [head.version for head in await client.heads()] == [1]
    await client.publish_blob(digest_of(data), data)
    await client.close()


async def test_while_redis_is_down_blobs_are_read_and_publishing_says_what_is_wrong(
    running: Running,
) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    _, blobs = expert()
    (name, *_) = blobs
    assert await client.fetch_blob(name) == blobs[name]
    await running.redis.stop()
    assert await client.fetch_blob(name) == blobs[name]
    with pytest.raises(UnreachableError, match="Redis"):
        await publish(client, running, version=2, seed=1)
    assert "Redis" in (await client.health()).redis
    await running.redis.start()
    await publish(client, running, version=2, seed=1)
    assert [head.version for head in await client.heads()] == [2]
    await client.close()


async def test_a_member_that_opens_streams_without_end_and_reads_nothing_stops_nobody_else(
    running: Running,
) -> None:
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (200, 200))
    bob = running.founded.member("bob", now=datetime.now(UTC))
    await running.store.put_record(NodeId("bob"), bob.record)
    ada, theirs = running.client(running.ada), running.client(bob)
    await publish(ada, running)
    blob = expert()[0].blobs()[0]
    connection = open_channel(running.ada, f"127.0.0.1:{running.port}", "registry", REGISTRY)
    async with AsyncExitStack() as silent:
        for _ in range(300):  # asked for, and the question is never finished
            await silent.enter_async_context(connection.duplex(m.FETCH))
        with pytest.raises(ExhaustedError, match="Registry/Fetch of node/ada: found 64 open"):
            async with asyncio.timeout(30):
                while True:
                    await ada.fetch_blob(blob)
        data = os.urandom(5 << 20)
        await theirs.publish_blob(digest_of(data), data)
        assert await theirs.fetch_blob(blob) == expert()[1][blob]
        assert [head.version for head in await ada.heads()] == [1]
        await publish(ada, running, version=2, seed=1)
    for client in (ada, theirs, connection):
        await client.close()


async def test_a_revoked_node_is_refused_within_a_moment_without_a_restart(running: Running) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    await running.store.put_revocations(
        1, sign_statement(revocations(1, "ada"), running.founded.coordinator_signer)
    )
    with pytest.raises(UnauthenticatedError, match="revoked"):
        async with asyncio.timeout(5):
            while True:
                await client.heads()
                await asyncio.sleep(0.02)
    await client.close()


async def test_a_nodes_certificate_cannot_serve_as_the_registry(running: Running, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="node ada"):
        await serve(
            RegistryConfig(
                identity=running.ada.folder, blobs=tmp_path / "b", redis_url=running.redis.url, port=0
            )
        )
    eve = RegistryClient(
        open_channel(running.ada, f"127.0.0.1:{running.port}", "coordinator", NodeId("coordinator"))
    )
    with pytest.raises((VerificationError, UnreachableError, UnauthenticatedError)):
        await eve.heads()
    await eve.close()


async def test_an_operator_may_read_but_not_commit(running: Running) -> None:
    operator = create_service_identity(
        running.founded.ca,
        running.founded.folder / "operator",
        role="operator",
        coordinator_record=running.founded.coordinator.record,
        now=datetime.now(UTC),
    )
    client = running.client(operator)
    assert await client.heads() == []
    with pytest.raises(NotAuthorisedError):
        await client.commit(running.signed(expert()[0]), running.fence)
    await client.close()


async def test_without_redis_or_with_a_port_in_use_the_registry_says_so_and_ends(
    running: Running, tmp_path: Path
) -> None:
    home = tmp_path / "another home"
    shutil.copytree(running.config.identity, home / "identity")
    config = replace(running.config, identity=home / "identity", blobs=home / "blobs")
    with pytest.raises(UnreachableError, match="Redis at unix://"):
        await serve(replace(config, redis_url=f"unix://{tmp_path}/nothing.sock"))
    with pytest.raises(UsageError, match="port"):
        await serve(replace(config, port=running.port))


async def test_a_second_registry_over_the_same_home_is_refused_and_what_was_acknowledged_stays(
    running: Running,
) -> None:
    client = running.client(running.ada)
    await publish(client, running)
    journal = running.config.identity.with_name("commits.jsonl")
    before = journal.read_bytes()
    second = await asyncio.create_subprocess_exec(
        *run_command(running.config), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        said, why = await second.communicate()
    assert second.returncode != 0 and not said
    assert f"one that runs already (process {running.process.pid} on " in why.decode()
    await publish(client, running, version=2, seed=1)
    assert journal.read_bytes().startswith(before)
    await client.close()


async def test_another_homes_registry_over_the_same_blobs_is_refused(
    running: Running, tmp_path: Path
) -> None:
    home = tmp_path / "another home"
    shutil.copytree(running.config.identity, home / "identity")
    second = await asyncio.create_subprocess_exec(
        *run_command(replace(running.config, identity=home / "identity")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, why = await second.communicate()
    assert second.returncode != 0 and not said
    assert f"one that runs already (process {running.process.pid} on " in why.decode()
    assert "one registry for each folder of blobs" in why.decode()


async def test_a_killed_registry_locks_nobody_out_and_one_that_is_ending_is_waited_for(
    running: Running,
) -> None:
    running.process.kill()
    running.process, running.port = await started(running.config)
    client = running.client(running.ada)
    assert await client.heads() == []
    await client.close()
    running.process.terminate()
    ending = running.process
    running.process, running.port = await started(running.config)
    assert await ending.wait() == 0
    client = running.client(running.ada)
    assert await client.heads() == []
    await client.close()
