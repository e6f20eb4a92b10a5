"""One registry over one Redis in a folder, with an owner that remembers what was acknowledged to it."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from swarm.domain.errors import ConflictError, NotFoundError, SwarmError
from swarm.domain.ids import Digest, NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.fault_points import VARIABLE
from swarm.modules import pack_module
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.statements import read_statement, sign_statement, statement_digest
from tests.support.trust import SWARM, found, manifest, specification

OWNER = NodeId("ada")
PATIENCE_S = 600.0


@dataclass
class Tally:
    """What a run found; recoveries are seconds from a start until the registry answers."""

    trials: int = 0
    acked: int = 0
    acked_lost: int = 0
    half_visible: int = 0
    orphans: int = 0
    stale_accepted: int = 0
    recoveries: list[float] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, by: int = 1) -> None:
        self.notes[name] = self.notes.get(name, 0) + by

    @property
    def is_clean(self) -> bool:
        return not (self.acked_lost or self.half_visible or self.orphans or self.stale_accepted)


class Site:
    """`acked` are the versions whose commit was acknowledged, `withdrawn` the experts likewise."""

    def __init__(self, folder: Path, blobs: Path | None = None) -> None:
        self.folder, self.blobs = folder, blobs or folder / "registry" / "blobs"
        self.redis = RedisServer(folder / "redis")
        self.store: RedisStore
        self.process: asyncio.subprocess.Process | None = None
        self.port = self.fence = 0
        self.acked: dict[tuple[int, int], Digest] = {}
        self.withdrawn: set[int] = set()
        self.tried_to_withdraw: set[int] = set()
        self._seed = 0

    async def start(self) -> None:
        now = datetime.now(UTC)
        founded = found(self.folder / "swarm", now=now)
        self._identity = create_service_identity(
            founded.ca,
            self.folder / "registry" / "identity",
            role="registry",
            coordinator="127.0.0.1:9",
            coordinator_record=founded.coordinator.record,
            now=now,
        )
        await self.redis.start()
        self.store = connect_redis(self.redis.url, SWARM)
        self.ada = founded.member(OWNER, now=now)
        self.operator = founded.member("operator", "operator", now=now)
        self._specification = sign_statement(specification(), founded.coordinator_signer)
        await self.put_back_members()
        await self.start_registry()

    async def put_back_members(self) -> None:
        """Do as the coordinator does: members, a lease beyond every fence, the specification last."""
        await self.store.put_record(OWNER, self.ada.record)
        await self.store.put_record(NodeId("operator"), self.operator.record)
        self.fence = (await self.store.grant_lease(OWNER, 86_400, self.fence)).fence
        with suppress(ConflictError):
            await self.store.put_specification(1, self._specification)

    async def stop(self) -> None:
        await self.end_registry(signal.SIGTERM)
        await self.store.close()
        await self.redis.stop()

    async def start_registry(self, fault: str = "", how: str = "") -> float:
        """Start the registry and return after how many seconds it answered."""
        began = time.monotonic()
        environment = {**os.environ, VARIABLE: fault}
        command = (sys.executable, "-m", "benchmarks.chaos_registry.serving", str(self._identity.folder))
        self.process = await asyncio.create_subprocess_exec(
            *command,
            str(self.blobs),
            self.redis.url,
            *([how] if how else []),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while not (line := await self.process.stdout.readline()).strip().isdigit():
                if not line:
                    return time.monotonic() - began  # killed while it started
        self._reading = asyncio.create_task(self.process.stdout.read())
        self.port = int(line)
        if not fault:
            async with self.client() as client:
                await until_answered(client.heads())
        return time.monotonic() - began

    async def end_registry(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(how)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    async def kill_redis(self) -> None:
        os.kill(self.redis.pid, signal.SIGKILL)
        await self.redis.stop()

    def client(self, who: Identity | None = None) -> Any:
        channel = open_channel(who or self.ada, f"127.0.0.1:{self.port}", "registry", NodeId("registry"))
        return _Closing(RegistryClient(channel))

    def signed(self, value: object) -> bytes:
        return sign_statement(value, self.ada.required_signer())

    def version(self, number: int, version: int) -> tuple[bytes, dict[Digest, bytes]]:
        """Return the signed manifest of a new version over weights of its own, and its blobs."""
        self._seed += 1
        weights = np.random.default_rng(self._seed).normal(size=2000).astype(np.float32)
        module, blobs = pack_module("head", {"weight": weights})
        made = replace(manifest(OWNER, number, version), modules=(module,), parents=(), share="public")
        return self.signed(made), blobs

    async def publish(self, client: RegistryClient, number: int, version: int, made: Any = None) -> None:
        """Publish one version as an owner does, and remember that it was acknowledged."""
        envelope, blobs = made or self.version(number, version)
        for blob in await client.missing(list(blobs)):
            await client.publish_blob(blob, blobs[blob])
        head = await client.commit(envelope, self.fence)
        self.acked[number, version] = head.manifest

    async def withdraw(self, client: RegistryClient, number: int) -> None:
        name = expert_of(leaf_of(OWNER, number))
        self.tried_to_withdraw.add(number)
        stone = Tombstone(swarm=SWARM, kind="expert", id=name, reason="", created_at=1.0)
        await client.withdraw(self.signed(stone), self.fence)
        self.withdrawn.add(number)

    async def check(self, tally: Tally) -> None:
        """Count what was acknowledged and is lost or altered, and what is visible in part."""
        async with self.client() as client:
            heads = {head.expert: head for head in await until_answered(client.heads())}
            newest: dict[int, int] = {}
            for (number, version), digest in self.acked.items():
                newest[number] = max(version, newest.get(number, 0))
                name = expert_of(leaf_of(OWNER, number))
                try:
                    envelope = await client.manifest(expert=name, version=version)
                except NotFoundError:
                    tally.acked_lost += 1
                    continue
                tally.acked_lost += statement_digest(envelope) != digest
            for number, version in newest.items():
                head = heads.get(expert_of(leaf_of(OWNER, number)))
                if number in self.withdrawn:
                    tally.acked_lost += head is not None
                elif number not in self.tried_to_withdraw:
                    tally.acked_lost += head is None or head.version < version
            for head in heads.values():
                tally.half_visible += not await self._is_whole(client, head.manifest)
        tally.acked = max(tally.acked, len(self.acked))

    async def count_orphans(self, tally: Tally) -> None:
        """Collect without waiting, and count the blobs that no manifest names and what lies unfinished."""
        await self.end_registry(signal.SIGTERM)
        await self.start_registry(how="at-once")
        async with self.client(self.operator) as client:
            await client.collect(dry_run=False)
            await client.collect(dry_run=False)
        named: set[str] = set()
        for digest in await self.store.manifests():
            named |= set(read_statement(await self.store.manifest(digest) or b"", Manifest).value.blobs())
        here = {path.name for path in self.blobs.glob("??/*")}
        tally.orphans += len(here - named) + len(list((self.blobs / "incoming").iterdir()))
        await self.end_registry(signal.SIGTERM)
        await self.start_registry()

    async def _is_whole(self, client: RegistryClient, digest: Digest) -> bool:
        try:
            made = read_statement(await client.manifest(digest), Manifest).value
            for blob in made.blobs():
                await client.fetch_blob(blob)
        except SwarmError:
            return False
        return True


class _Closing:
    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def __aenter__(self) -> RegistryClient:
        return self._client

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()


async def until_answered(call: Awaitable[Any]) -> Any:
    """Await a call; it is made right after a start, so no second try is needed."""
    async with asyncio.timeout(PATIENCE_S):
        return await call
