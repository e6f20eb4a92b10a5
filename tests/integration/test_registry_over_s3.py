"""`swarm registry --blobs s3://...` as a process: its blobs outlive it, and its words hold no secret."""

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.domain.errors import UnreachableError
from swarm.domain.ids import NodeId
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.statements import sign_statement
from tests.support.registry import expert
from tests.support.s3 import SECRET_KEY, environment, s3_server
from tests.support.trust import SWARM, found, specification

pytest.importorskip("obstore", reason="no obstore: pip install 'swarm[s3]'")
pytest.importorskip("moto", reason="no moto: pip install -e '.[dev]'")


class Process:
    """One `swarm registry`; `said` is all that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.said, self.port = process, "", 0

    async def until_ready(self) -> None:
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.said += line
            if "registry.ready" in line:
                self.port = json.loads(line)["port"]
                return
        raise AssertionError(self.said)

    async def end(self, *, is_told: bool = True) -> int:
        if is_told and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        output, _ = await self.process.communicate()
        self.said += output.decode()
        return await self.process.wait()


async def started(home: Path, redis: RedisServer, variables: dict[str, str]) -> Process:
    command = ["-m", "swarm.cli", "registry", "--home", str(home), "--port", "0"]
    return Process(
        await asyncio.create_subprocess_exec(
            sys.executable, *command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=os.environ | variables | {"SWARM_REDIS_URL": redis.url},
        )
    )  # fmt: skip


async def test_a_registry_over_s3_goes_on_where_its_predecessor_was_and_says_when_the_store_is_away(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    founded = found(tmp_path / "swarm", now=now)
    home = tmp_path / "home"
    founded.registry(home / "registry" / "identity", now=now)
    ada = founded.member("ada", now=now)
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    store = connect_redis(redis.url, SWARM)
    await store.put_specification(1, sign_statement(specification(), founded.coordinator_signer))
    await store.put_record(NodeId("ada"), ada.record)
    fence = (await store.grant_lease(NodeId("ada"), 60)).fence
    made, blobs = expert()
    processes = []

    def client(process: Process) -> RegistryClient:
        return RegistryClient(open_channel(ada, f"127.0.0.1:{process.port}", "registry", NodeId("registry")))

    with s3_server() as server:
        server.client.create_bucket(Bucket="bucket")
        variables = environment(server.endpoint, SWARM_REGISTRY_BLOBS="s3://bucket/blobs")
        processes.append(await started(home, redis, variables))
        await processes[-1].until_ready()
        first = client(processes[-1])
        for name in await first.missing(made.blobs()):
            await first.publish_blob(name, blobs[name])
        await first.commit(sign_statement(made, ada.required_signer()), fence)
        assert await processes[-1].end() == 0
        processes.append(await started(home, redis, variables))
        await processes[-1].until_ready()
        second = client(processes[-1])
        assert await second.missing(made.blobs()) == []
        for name, data in blobs.items():
            assert await second.fetch_blob(name) == data
        assert not (home / "registry" / "blobs").exists()
    with pytest.raises(UnreachableError, match="blobs at s3://bucket/blobs"):
        await second.fetch_blob(next(iter(blobs)))
    assert "blobs at s3://bucket/blobs" in (await second.health()).blobs_away
    assert await processes[-1].end() == 0
    processes.append(await started(home, redis, variables))
    assert await processes[-1].end(is_told=False) == 3
    assert "AWS_ENDPOINT_URL" in processes[-1].said
    assert all(SECRET_KEY not in process.said for process in processes)
    await store.close()
    await redis.stop()
