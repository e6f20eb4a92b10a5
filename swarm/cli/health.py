"""`swarm health`: does the service of this home answer? For probes of containers and supervisors."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, printable, run_async

PROBE_SECONDS = 5.0


def register(app: typer.Typer) -> None:
    app.command("health")(health)


def health(
    service: Annotated[str, typer.Argument(help="registry, coordinator or node.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Exit 0 when the service that runs from this home answers on this machine; a node must be connected."""
    from swarm.cli.places import home_folder
    from swarm.domain.errors import UsageError

    probes = {"registry": _registry, "coordinator": _coordinator, "node": _node}
    if service not in probes:
        raise UsageError("service", found=service[:40], expected="registry, coordinator or node")
    said = run_async(probes[service](home_folder(home)))
    emit("health", {"service": service, "says": said}, as_json=json, text=printable(f"{service}: {said}"))


async def _registry(root: Path) -> str:
    from swarm.cli.settings import load_settings
    from swarm.config import SwarmHome
    from swarm.domain.errors import NotReadyError
    from swarm.domain.ids import NodeId
    from swarm.rpc.channel import open_channel
    from swarm.rpc.clients import RegistryClient
    from swarm.trust.identity import Identity

    identity = Identity.load(SwarmHome(root).registry / "identity")
    address = f"127.0.0.1:{load_settings(root).registry_port}"
    async with open_channel(identity, address, "registry", NodeId("registry")) as connection:
        found = await RegistryClient(connection).health(timeout_s=PROBE_SECONDS)
    if found.redis != "ok":
        raise NotReadyError("registry", found=f"Redis: {found.redis}", expected="a Redis that answers")
    if found.blobs_away:
        raise NotReadyError("registry", found=found.blobs_away, expected="blobs that can be read")
    # No reason to be unhealthy: a coordinator that waits for this service puts them back.
    lost = f", {found.lost} acknowledged versions wait for the coordinator" if found.lost else ""
    damaged = f", {found.journal_damaged} damaged lines in the journal" if found.journal_damaged else ""
    missing = f", {found.missing_blobs} missing" if found.missing_blobs else ""
    return f"{found.blobs} blobs{missing}, Redis {found.redis}{lost}{damaged}"


async def _coordinator(root: Path) -> str:
    from coordinator.config import CoordinatorFolder
    from swarm.cli.settings import load_settings
    from swarm.config import SwarmHome
    from swarm.domain.ids import NodeId
    from swarm.rpc.channel import open_channel
    from swarm.rpc.clients import CoordinatorClient
    from swarm.trust.identity import Identity

    identity = Identity.load(CoordinatorFolder(SwarmHome(root).coordinator).identity)
    address = f"127.0.0.1:{load_settings(root).coordinator_port}"
    async with open_channel(identity, address, "coordinator", NodeId("coordinator")) as connection:
        status = await CoordinatorClient(connection).status(PROBE_SECONDS)
    alive = sum(node.alive for node in status.nodes)
    return f"gate {status.gate_version}, {alive} of {len(status.nodes)} nodes connected"


async def _node(root: Path) -> str:
    from swarm.cli.places import agent, node_place
    from swarm.domain.errors import NotReadyError

    async with agent(node_place(root), start=False) as client:
        state = await client.state()
    if not state.connected:
        raise NotReadyError(
            f"node {state.node}", found="not connected", expected="a stream to the coordinator"
        )
    return f"{state.node} is connected, {state.activity}"
