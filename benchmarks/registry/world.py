"""A swarm for the benchmark: a Redis, a registry process, a node's process, and a plain TLS pair."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.registry.registry_process import DIRECT_IO
from benchmarks.registry.talking import MIB, Talker
from swarm.digests import blake3
from swarm.domain.ids import Digest, NodeId
from swarm.modules import BlobFiles
from swarm.registry.redis_server import RedisServer
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement
from tests.support.trust import SWARM, found, specification

_PIECE_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What runs. `cache` is the node's folder of blobs, `blobs` the registry's."""

    folder: Path
    store: RedisStore
    ada: Identity
    fence: int
    registry: Talker
    node: Talker
    tls_receiver: Talker
    tls_sender: Talker

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def blobs(self) -> Path:
        return self.folder / "registry" / "blobs"


@asynccontextmanager
async def running(folder: Path, *, direct_io: bool = False) -> AsyncIterator[World]:
    """Start everything below a folder and end it again. `direct_io`: of the registry."""
    now = datetime.now(UTC)
    founded = found(folder / "swarm", now=now)
    identity = founded.registry(folder / "registry" / "identity", now=now)
    ada = founded.member("ada", now=now)
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder / "redis")
        await redis.start()
        stack.push_async_callback(redis.stop)
        store = connect_redis(redis.url, SWARM)
        stack.push_async_callback(store.close)
        await store.put_specification(1, sign_statement(specification(), founded.coordinator_signer))
        await store.put_record(NodeId("ada"), ada.record)
        lease = await store.grant_lease(NodeId("ada"), 86_400)

        async def started(module: str, *arguments: object) -> Talker:
            made = await asyncio.to_thread(Talker, f"benchmarks.registry.{module}", *map(str, arguments))
            stack.callback(made.close)
            return made

        blobs = folder / "registry" / "blobs"
        writes = [DIRECT_IO] if direct_io else []
        registry = await started("registry_process", identity.folder, blobs, redis.url, *writes)
        address = f"127.0.0.1:{registry.ready['port']}"
        node = await started("client_process", ada.folder, address, folder / "cache")
        receiver = await started("tls_socket", "receive", identity.folder)
        sender = await started("tls_socket", "send", ada.folder, receiver.ready["port"])
        yield World(
            folder=folder,
            store=store,
            ada=ada,
            fence=lease.fence,
            registry=registry,
            node=node,
            tls_receiver=receiver,
            tls_sender=sender,
        )


def random_blob(files: BlobFiles, size_bytes: int, seed: int) -> Digest:
    """Put a blob of random bytes into a folder, a piece at a time."""
    hasher = blake3()
    for piece in _pieces(size_bytes, seed):
        hasher.update(piece)
    name = Digest(hasher.hexdigest())
    with files.writer(name, size_bytes) as writer:
        for piece in _pieces(size_bytes, seed):
            writer.write(piece)
        writer.commit()
    return name


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file as `cp` and `sync` do."""
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _pieces(size_bytes: int, seed: int) -> Iterator[bytes]:
    rng = np.random.Generator(np.random.Philox(seed))
    return (rng.bytes(min(_PIECE_BYTES, size_bytes - at)) for at in range(0, size_bytes, _PIECE_BYTES))
