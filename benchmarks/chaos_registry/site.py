"""One registry over one Redis in a folder, with an owner that remembers what was acknowledged to it."""

import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import ConflictError, NotFoundError, SwarmError
from swarm.domain.ids import Digest, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.forking.forks import Forked, Forks
from swarm.modules import pack_module
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement, sign_statement, statement_digest
from tests.support.trust import SWARM, found, manifest, specification

OWNER = NodeId("ada")
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]
SERVING = "benchmarks.chaos_registry.serving"
KEPT = RetentionPolicy()


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
    missed: list[str] = field(default_factory=list)
    """Faults that were to happen and did not, refusals that did not come."""

    def add(self, other: "Tally") -> None:
        """Count what another site's run found, too."""
        for name in ("trials", "acked", "acked_lost", "half_visible", "orphans", "stale_accepted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.recoveries += other.recoveries
        self.missed += other.missed
        for name, count in other.notes.items():
            self.note(name, count)

    def note(self, name: str, by: int = 1) -> None:
        self.notes[name] = self.notes.get(name, 0) + by

    @property
    def is_clean(self) -> bool:
        return not (
            self.acked_lost or self.half_visible or self.orphans or self.stale_accepted or self.missed
        )


class Site:
    """`acked` are the versions whose commit was acknowledged, `withdrawn` the experts likewise."""

    def __init__(self, folder: Path, blobs: Path | None = None) -> None:
        self.folder, self.blobs = folder, blobs or folder / "registry" / "blobs"
        self.redis = RedisServer(folder / "redis")
        self.store: RedisStore
        self.process: asyncio.subprocess.Process | Forked | None = None
        self._forks = Forks(folder / "fork_server.log", {"PYTHONPATH": str(ROOT)})
        self.port = self.fence = 0
        self.acked: dict[tuple[int, int], Digest] = {}
        self.withdrawn: set[int] = set()
        self.tried_to_withdraw: set[int] = set()
        self._seed = 0

    async def start(self) -> None:
        now = datetime.now(UTC)
        founded = found(self.folder / "swarm", now=now)
        self._identity = founded.registry(self.folder / "registry" / "identity", now=now)
        await self.redis.start()
        self.store = connect_redis(self.redis.url, SWARM)
        self.ada = founded.member(OWNER, now=now)
        self.operator = founded.member("operator", "operator", now=now)
        self._specification = sign_statement(specification(), founded.coordinator_signer)
        await self.put_back_members()
        await self.start_registry()

    async def put_back_members(self) -> None:
        """Do as the coordinator does: members, a lease beyond every fence where it is lost, the specification
        last."""
        await self.store.put_record(OWNER, self.ada.record)
        await self.store.put_record(NodeId("operator"), self.operator.record)
        if self.fence not in [lease.fence for lease in await self.store.leases()]:
            self.fence = (await self.store.grant_lease(OWNER, 86_400, self.fence)).fence
        with suppress(ConflictError):
            await self.store.put_specification(1, self._specification)

    async def stop(self) -> None:
        await self.end_registry(signal.SIGTERM)
        self._forks.close()
        await self.store.close()
        await self.redis.stop()

    async def start_registry(self, fault: str = "", how: str = "", *, anew: bool = False) -> float:
        """Start the registry and return after how many seconds it answered. It is forked from what has its
        imports; `anew`: a process of its own, which imports."""
        began = time.monotonic()
        words = [str(self._identity.folder), str(self.blobs), self.redis.url, fault, how]
        self.process = await self.forked(SERVING, words, needs=("swarm.registry.app",), anew=anew)
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

    async def forked(
        self, module: str, words: Sequence[str], *, needs: Sequence[str], anew: bool = False
    ) -> asyncio.subprocess.Process | Forked:
        """Start `python -m module words...` from what has its imports; anew where nothing can be forked."""
        forked = None
        with (self.folder / "processes.log").open("ab") as log:
            if not anew:
                forked = await self._forks.fork(module, words, needs=needs, errors=log.fileno())
            return forked or await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *words, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT
            )

    async def end_registry(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        with suppress(ProcessLookupError):
            if self.process.returncode is None:
                os.kill(self.process.pid, how)
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
        made = made or self.version(number, version)
        await self.upload(client, made)
        head = await client.commit(made[0], self.fence)
        self.acked[number, version] = head.manifest

    async def upload(self, client: RegistryClient, made: Any) -> None:
        """Send the blobs of a version that the registry does not have."""
        for blob in await client.missing(list(made[1])):
            await client.publish_blob(blob, made[1][blob])

    async def announce(self, client: RegistryClient, number: int, version: int) -> None:
        """Announce one version as a node does whose registry lost it."""
        made = self.version(number, version)
        await self.upload(client, made)
        _, refused = await client.announce([made[0]], self.fence)
        if refused:
            raise AssertionError(f"announcement: {refused}")
        self.acked[number, version] = statement_digest(made[0])

    async def bring_back(self, client: RegistryClient, number: int, version: int) -> None:
        """Offer one version as a node does while a registry is rebuilt."""
        made = self.version(number, version)
        await self.upload(client, made)
        done = await client.bring_back([made[0]], self.fence)
        if done.refused or done.missing_blobs:
            raise AssertionError(f"brought back: {done}")
        self.acked[number, version] = statement_digest(made[0])

    async def withdraw(self, client: RegistryClient, number: int) -> None:
        name = expert_of(leaf_of(OWNER, number))
        self.tried_to_withdraw.add(number)
        stone = Tombstone(swarm=SWARM, kind="expert", id=name, reason="", created_at=1.0)
        await client.withdraw(self.signed(stone), self.fence)
        self.withdrawn.add(number)

    async def check(self, tally: Tally, *numbers: int) -> None:
        """Count what was acknowledged and is lost or altered, of these experts or of all, and what is visible
        in part."""
        async with self.client() as client:
            heads = {head.expert: head for head in await until_answered(client.heads())}
            newest: dict[int, int] = {}
            for (number, version), digest in self.acked.items():
                if numbers and number not in numbers:
                    continue
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
            for _ in range(2):
                await client.collect(dry_run=False)
        wanted = await self._wanted_blobs()
        here = {Digest(path.name) for path in self.blobs.glob("??/*")}
        tally.orphans += len(here - wanted) + len(list((self.blobs / "incoming").iterdir()))
        if lost := len(wanted - here):
            tally.acked_lost += lost
            tally.note("wanted blobs that were collected", lost)
        await self.end_registry(signal.SIGTERM)
        tally.recoveries.append(await self.start_registry(anew=True))

    async def _wanted_blobs(self) -> set[Digest]:
        """Return the blobs that have to stay, by the rule that docs/registry.md states and not by the
        collector's code: of each expert that was not withdrawn the newest versions."""
        gone, by_expert = await self.store.tombstones(), defaultdict[ExpertId, list[Manifest]](list)
        for digest in await self.store.manifests():
            made = read_statement(await self.store.manifest(digest) or b"", Manifest).value
            if made.expert not in gone and made.owner not in gone:
                by_expert[made.expert].append(made)
        for versions in by_expert.values():
            versions.sort(key=lambda made: -made.version)
        stay = [made for versions in by_expert.values() for made in versions[: KEPT.keep_versions]]
        return {blob for made in stay for blob in made.blobs()}

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
