"""A real registry process over a real Redis, behind a relay, with owners that publish; and how to hurt it."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swarm.domain.errors import UnreachableError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.tensors import ModuleEntry
from swarm.modules import pack_module
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement
from tests.linearizability.relay import Relay
from tests.support.trust import SWARM, found, specification

Fault = Literal["cut clients", "cut redis", "kill registry", "kill redis"]
FAULTS: tuple[Fault, ...] = ("cut clients", "cut redis", "kill registry", "kill redis")
OWNERS = ("ada", "bob")


class Cluster:
    """One swarm in a folder: `store` reaches its Redis directly, `client` its registry over mutual TLS."""

    def __init__(self, folder: Path, bug: str = "") -> None:
        self.folder, self.bug = folder, bug
        self.relay = Relay()
        self.redis = RedisServer(folder / "redis")
        self.serving = asyncio.Event()
        self.store: RedisStore
        self.owners: dict[str, Identity] = {}
        self.module: ModuleEntry
        self.faults = 0
        self._experts = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        now = datetime.now(UTC)
        founded = found(self.folder / "swarm", now=now)
        self._identity = founded.registry(self.folder / "registry" / "identity", now=now)
        await self.redis.start()
        self.store = connect_redis(self.redis.url, SWARM)
        await self.store.put_specification(1, sign_statement(specification(), founded.coordinator_signer))
        for name in OWNERS:
            self.owners[name] = founded.member(name, now=now)
            await self.store.put_record(NodeId(name), self.owners[name].record)
        self.owners["operator"] = founded.member("operator", "operator", now=now)
        await self.relay.start()
        await self._start_registry()
        self.module, blobs = pack_module("head", {"weight": np.ones(4, np.float32)})
        for owner in OWNERS:  # each names the blobs in its versions
            for digest, data in blobs.items():
                await self._publish(owner, Digest(digest), data)

    async def stop(self) -> None:
        await self._end_registry(signal.SIGTERM)
        await self.relay.close()
        await self.store.close()
        await self.redis.stop()

    def client(self, owner: str) -> RegistryClient:
        address = f"127.0.0.1:{self.relay.port}"
        return RegistryClient(open_channel(self.owners[owner], address, "registry", NodeId("registry")))

    def next_expert(self) -> int:
        self._experts += 1
        return self._experts

    async def hurt(self, fault: Fault) -> None:
        """Let one fault happen; what was killed runs again when this returns."""
        self.faults += 1
        match fault:
            case "cut clients":
                self.relay.cut()
            case "cut redis":
                client: Any = self.store._redis
                await client.client_kill_filter(_type="normal", skipme=True)
            case "kill registry":
                self.serving.clear()
                await self._end_registry(signal.SIGKILL)
                self.relay.cut()
                await self._start_registry()
            case "kill redis":
                self.serving.clear()
                os.kill(self.redis.pid, signal.SIGKILL)
                await self.redis.stop()
                await self.redis.start()
                self.serving.set()

    async def _publish(self, owner: str, blob: Digest, data: bytes) -> None:
        while True:  # on a busy machine a first handshake may take too long
            client = self.client(owner)
            try:
                await client.publish_blob(blob, data)
            except UnreachableError:
                continue
            else:
                return
            finally:
                await client.close()

    async def _start_registry(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.linearizability.registry_process", str(self._identity.folder),
            str(self.folder / "elsewhere" / "blobs"), self.redis.url, "0", *([self.bug] if self.bug else []),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(600):
            while not (line := await self._process.stdout.readline()).strip().isdigit():
                assert line, "the registry ended"
        # What it logs goes to standard output too, and nobody else reads that.
        self._reading = asyncio.create_task(self._process.stdout.read())
        self.relay.upstream = int(line)
        self.serving.set()

    async def _end_registry(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        async with asyncio.timeout(120):
            await self._process.wait()
