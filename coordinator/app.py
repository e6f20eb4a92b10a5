"""The coordinator's process: builds everything from its parts and serves until SIGTERM or SIGINT."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import structlog

from coordinator import solver_process
from coordinator.addresses import Endpoints, joined_address
from coordinator.building import Coordinator, build
from coordinator.config import CoordinatorConfig, CoordinatorFolder
from coordinator.follower import Follower
from coordinator.http_server import MOST_CONNECTIONS, HttpServer
from coordinator.join_app import join_app
from coordinator.open_inference.callers import HttpCallers, is_loopback
from coordinator.open_inference.rest import rest_app
from coordinator.upkeep import Upkeep
from swarm.domain.errors import UsageError
from swarm.domain.ids import NodeId
from swarm.federation.child import FLOWER_ENVIRONMENT
from swarm.forking.forks import forking
from swarm.open_files import raise_limit
from swarm.registry.redis_store import connect_redis
from swarm.rpc.allowances import Allowances, Limits
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.node_stream import NodeStreamServicer
from swarm.rpc.open_inference.servicer import open_inference_service
from swarm.rpc.server import RpcServer, create_loopback_server, create_server
from swarm.rpc.servicers import (
    federation_service,
    gate_service,
    growth_service,
    inference_service,
    membership_service,
)
from swarm.telemetry import SocketMeter
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity

__all__ = ["CoordinatorConfig", "serve"]

FIRST_SYNCHRONISATION_S = 3.0
"""A start waits this long for Redis; without it, it serves what it has."""

log = structlog.get_logger()


async def serve(config: CoordinatorConfig, on_ready: Callable[[Endpoints], None] = lambda _: None) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; on_ready gets the ports once both are open.

    Redis and the registry may be away: queries go on from what the coordinator keeps itself. Raises
    UsageError for a port in use, and what loading the CA, the identity or the specification raises.
    """
    raise_limit()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, told.set)
    try:
        async with AsyncExitStack() as stack:
            await _serve(config, on_ready, told, stack)
    finally:
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(ending)
    log.info("coordinator.stopped")


async def _serve(
    config: CoordinatorConfig,
    on_ready: Callable[[Endpoints], None],
    told: asyncio.Event,
    stack: AsyncExitStack,
) -> None:
    folder = CoordinatorFolder(config.home.coordinator)
    upkeep = Upkeep(CertificateAuthority.load(config.home.ca), folder.identity, time.time)
    upkeep.renew_certificate()
    identity = Identity.load(folder.identity)
    if identity.role != "coordinator":
        raise UsageError(
            f"identity in {folder.identity}",
            found=f"{identity.role} {identity.id}",
            expected="the coordinator's",
        )
    environment = {**solver_process.threads(), **FLOWER_ENVIRONMENT}
    stack.enter_context(forking(folder.root / "fork_server.log", environment))
    endpoints = Endpoints(
        advertise=config.advertise,
        listen=config.listen,
        join_port=config.join_port,
        port=config.port,
        registry=config.advertise_registry or config.registry or identity.registry,
    )
    store = connect_redis(config.redis_url, identity.swarm)
    stack.push_async_callback(store.close)
    meter = stack.enter_context(SocketMeter(exclude_peer_ports=_redis_ports(config.redis_url)))
    connection = await stack.enter_async_context(
        open_channel(identity, config.registry or identity.registry, "registry", NodeId("registry"))
    )
    parts = await build(
        config=config,
        ca=upkeep.ca,
        identity=identity,
        store=store,
        registry=RegistryClient(connection),
        endpoints=endpoints,
        clock=time.time,
        socket_bytes=meter.totals,
        certificate_days=upkeep.certificate_days,
    )

    server = create_server(
        folder.identity,
        parts.revocations.is_revoked,
        [
            membership_service(parts.membership),
            gate_service(parts.keeper),
            growth_service(parts.growth),
            inference_service(parts.router, parts.door.admit, parts.open_inference.is_ready),
            open_inference_service(parts.open_inference, parts.door.admit),
            federation_service(parts.federation),
            NodeStreamServicer(parts.membership).service(),
        ],
    )
    endpoints.port = server.add_port(joined_address(config.listen, config.port))
    loopback = _loopback_server(config, parts, endpoints)
    join = HttpServer(
        join_app(parts.admission, parts.blobs, time.monotonic),
        folder.identity,
        name="join port",
        flag="--join-port",
    )
    stack.push_async_callback(join.stop)
    endpoints.join_port = await join.start(config.listen, config.join_port)
    http = _http_server(config, parts, folder)
    if http is not None:
        stack.push_async_callback(http.stop)
        endpoints.http_port = await http.start(config.http_listen, config.http_port)

    def renewed() -> None:
        for each in (join, http):
            if each is not None:
                each.reload()

    upkeep.on_renewed = renewed

    follower = Follower(store, parts.synchronise, parts.on_event)
    tasks = [
        asyncio.create_task(follower.run()),
        asyncio.create_task(upkeep.run(parts.publish_late)),
        asyncio.create_task(parts.growth.run()),
        asyncio.create_task(parts.policies.run()),
        asyncio.create_task(parts.trail.run()),
        asyncio.create_task(parts.replicas.run()),
        asyncio.create_task(parts.warm()),
    ]
    stack.push_async_callback(_end, tasks)
    with suppress(TimeoutError):
        await asyncio.wait_for(follower.in_step.wait(), FIRST_SYNCHRONISATION_S)
    await server.start()
    stack.push_async_callback(server.stop)
    if loopback is not None:
        await loopback.start()
        stack.push_async_callback(loopback.stop)
    stack.push_async_callback(parts.close)
    stack.push_async_callback(parts.federation.close)
    _say_ready(parts, endpoints)
    on_ready(endpoints)
    await _until(told, tasks[:-1])
    log.info("coordinator.stopping", answering=parts.door.queue.working + parts.door.queue.waiting)
    for each in (server, loopback):
        if each is not None:
            await each.say_ending()
    if not await parts.door.drain("this coordinator"):
        log.warning("coordinator.not_drained", answering=parts.door.queue.working)


def _loopback_server(config: CoordinatorConfig, parts: Coordinator, endpoints: Endpoints) -> RpcServer | None:
    if config.loopback_port is None:
        return None
    server = create_loopback_server([open_inference_service(parts.open_inference, parts.door.admit)])
    endpoints.loopback_port = server.add_loopback_port(config.loopback_port)
    return server


def _http_server(
    config: CoordinatorConfig, parts: Coordinator, folder: CoordinatorFolder
) -> HttpServer | None:
    """Return the server of inference over HTTP, None where none is wanted."""
    if not config.http_listen:
        return None
    is_plain = is_loopback(config.http_listen)
    callers = HttpCallers(parts.bearer_tokens, is_loopback=is_plain)
    allowances = Allowances(Limits(calls=MOST_CONNECTIONS // 2))
    return HttpServer(
        rest_app(parts.open_inference, callers, allowances, time.monotonic, parts.door.admit),
        None if is_plain else folder.identity,
        name="HTTP port",
        flag="--http-port",
    )


def _say_ready(parts: Coordinator, endpoints: Endpoints) -> None:
    active = parts.keeper.active
    log.info(
        "coordinator.ready",
        swarm=parts.specifications.current.value.swarm,
        port=endpoints.port,
        join_port=endpoints.join_port,
        http_port=endpoints.http_port,
        gate_version=0 if active is None else active.version,
    )


async def _until(told: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Return when told to end; raise what ended a task that never ends by itself."""
    waiting = asyncio.create_task(told.wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _redis_ports(url: str) -> tuple[int, ...]:
    parts = urlsplit(url)
    return () if parts.scheme == "unix" else (parts.port or 6379,)
