"""The registry's process: builds the service from its parts and serves it over mutual TLS until SIGTERM."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from swarm.config import REGISTRY_PORT
from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import UsageError
from swarm.domain.ids import NodeId
from swarm.heap import suit_transfers
from swarm.modules import BlobFiles
from swarm.open_files import raise_limit
from swarm.registry.blob_copies import BlobCopies
from swarm.registry.blob_store import BlobStore
from swarm.registry.claims import Claims
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.redis_store import connect_redis
from swarm.registry.seat import RegistrySeat
from swarm.registry.service import RegistryService
from swarm.registry.upkeep import (
    ask_for_revocations,
    certificate_days,
    follow_revocations,
    keep_certificate,
    keep_looking,
    keep_swept,
    take_revocations,
)
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.server import create_server
from swarm.rpc.servicers import registry_service
from swarm.telemetry import SocketMeter
from swarm.trust.identity import Identity

_COORDINATOR: Final = NodeId("coordinator")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """One registry: its identity's folder, its blobs' folder, its Redis, and where it listens.

    With `blob_url`, `s3://BUCKET/PREFIX`, blobs lie there, and copies of some in a folder beside `blobs`.
    Port 0 takes a free one. `retention`: whose weights stay; `node_quota_bytes`: what each node may fill, 0:
    no limit; both are kept beside the identity. `coordinator` is where certificates are renewed, `host:port`
    (empty: as founded). `direct_io`: large uploads go past the page cache.
    """

    identity: Path
    blobs: Path
    redis_url: str
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    node_quota_bytes: int = 0
    listen: str = "127.0.0.1"
    port: int = REGISTRY_PORT
    coordinator: str = ""
    blob_url: str = ""
    direct_io: bool = False


async def serve(config: RegistryConfig, on_ready: Callable[[int], None] = lambda port: None) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; on_ready gets the port once it answers.

    Raises UnreachableError if Redis does not answer, UsageError for a port in use or another member's
    identity, ConflictError where a registry of this home, or over these blobs, runs already, and what
    `Identity.load` raises.
    """
    suit_transfers()
    identity = Identity.load(config.identity)
    if identity.role != "registry":
        raise UsageError(
            f"identity in {config.identity}",
            found=f"{identity.role} {identity.id}",
            expected="the registry's",
        )
    keyring = identity.keyring()
    raise_limit()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(RegistrySeat(config.identity.with_name("registry.lock")))
        store = connect_redis(config.redis_url, identity.swarm)
        stack.push_async_callback(store.close)
        await store.ping()
        await take_revocations(store, keyring)
        meter = stack.enter_context(SocketMeter(exclude_peer_ports=_redis_ports(config.redis_url)))
        service = RegistryService(
            store=store,
            blobs=await _blobs(config, stack),
            keyring=keyring,
            certificate_days=lambda: certificate_days(config.identity, _now()),
            socket_bytes=meter.totals,
            claims=Claims(config.identity.with_name("claims.jsonl")),
            retention=config.retention,
            collection_journal=config.identity.with_name("collection.json"),
            node_quota_bytes=config.node_quota_bytes,
            journal=await asyncio.to_thread(CommitJournal, config.identity.with_name("commits.jsonl")),
        )
        await service.reconciler.reconcile()
        server = create_server(config.identity, keyring.is_revoked, [registry_service(service)])
        port = server.add_port(_address(config.listen, config.port))
        address = config.coordinator or identity.coordinator
        coordinator = await stack.enter_async_context(
            open_channel(identity, address, "coordinator", _COORDINATOR)
        )
        await server.start()
        stack.push_async_callback(server.stop)
        _log.info("registry.ready", swarm=identity.swarm, port=port, durability=await store.durability())
        upkeep = [
            asyncio.create_task(follow_revocations(store, keyring)),
            asyncio.create_task(ask_for_revocations(CoordinatorClient(coordinator).revocations, keyring)),
            asyncio.create_task(keep_swept(service.sweep)),
            asyncio.create_task(service.reconciler.keep()),
            asyncio.create_task(keep_looking(service.missing_blobs)),
            asyncio.create_task(
                keep_certificate(config.identity, CoordinatorClient(coordinator).renew_certificate, _now)
            ),
        ]
        stack.push_async_callback(_end, upkeep)
        on_ready(port)
        await _until_told(upkeep)
        _log.info("registry.stopping")


async def _blobs(config: RegistryConfig, stack: AsyncExitStack) -> BlobStore:
    """Open what holds the blobs; the stack closes it."""
    if not config.blob_url:
        files = await asyncio.to_thread(BlobFiles, config.blobs, direct_io=config.direct_io)
        await stack.enter_async_context(RegistrySeat(config.blobs / "registry.lock", of="folder of blobs"))
        return files
    try:
        from swarm.registry.s3_blobs import connect_s3
    except ModuleNotFoundError as error:
        raise UsageError(
            f"blobs at {urlsplit(config.blob_url).scheme}://",
            found=f"no package {error.name}",
            expected="the extra s3",
            remedy="pip install 'swarm[s3]'",
        ) from None
    copies = await asyncio.to_thread(BlobCopies, config.blobs.with_name("blob-copies"))
    blobs = await asyncio.to_thread(connect_s3, config.blob_url, copies)
    stack.push_async_callback(asyncio.to_thread, blobs.close)
    return blobs


async def _until_told(upkeep: list[asyncio.Task[None]]) -> None:
    """Return at SIGTERM or SIGINT; raise what ended an upkeep task, which never ends by itself."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, told.set)
    waiting = asyncio.create_task(told.wait())
    try:
        done, _ = await asyncio.wait([waiting, *upkeep], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(ending)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _address(listen: str, port: int) -> str:
    return f"[{listen}]:{port}" if ":" in listen else f"{listen}:{port}"


def _redis_ports(url: str) -> tuple[int, ...]:
    parts = urlsplit(url)
    return () if parts.scheme == "unix" else (parts.port or 6379,)


def _now() -> datetime:
    return datetime.now(UTC)
