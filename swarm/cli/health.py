"""`swarm health`: does the service of this home answer? For probes of containers and supervisors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, printable, run_async

if TYPE_CHECKING:
    from swarm.rpc.channel import Connection

PROBE_SECONDS = 5.0


def register(app: typer.Typer) -> None:
    app.command("health")(health)


def health(
    service: Annotated[str, typer.Argument(help="registry, coordinator, inference or node.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Exit 0 when the service that runs from this home answers on this machine.

    A node must be connected; for inference the coordinator must have a gate to answer by.
    """
    from swarm.cli.places import founder_home, home_folder
    from swarm.domain.errors import UsageError

    probes = {
        "registry": _registry,
        "coordinator": _coordinator,
        "inference": _inference,
        "node": _node,
    }
    if service not in probes:
        raise UsageError("service", found=service[:40], expected="registry, coordinator, inference or node")
    root = home_folder(home) if service == "node" else founder_home(home).root
    said = run_async(probes[service](root))
    emit("health", {"service": service, "says": said}, as_json=json, text=printable(f"{service}: {said}"))


async def _registry(root: Path) -> str:
    from swarm.cli.processes import noted_ports
    from swarm.cli.settings import load_settings
    from swarm.config import SwarmHome
    from swarm.domain.errors import NotReadyError
    from swarm.domain.ids import NodeId
    from swarm.rpc.channel import open_channel
    from swarm.rpc.clients import RegistryClient
    from swarm.trust.identity import Identity

    identity = Identity.load(SwarmHome(root).registry / "identity")
    port = noted_ports(SwarmHome(root).run, "registry").get("--port") or load_settings(root).registry_port
    address = f"127.0.0.1:{port}"
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
    from swarm.rpc.clients import CoordinatorClient

    async with _to_coordinator(root) as connection:
        status = await CoordinatorClient(connection).status(PROBE_SECONDS)
    alive = sum(node.alive for node in status.nodes)
    return f"gate {status.gate_version}, {alive} of {len(status.nodes)} nodes connected"


async def _inference(root: Path) -> str:
    from swarm.domain.errors import NotReadyError
    from swarm.rpc.open_inference.client import server_ready

    async with _to_coordinator(root) as connection:
        if not await server_ready(connection, PROBE_SECONDS):
            raise NotReadyError(
                "swarm",
                found="no gate with leaves yet",
                expected="a contribution of at least one node",
                remedy="on a node: swarm train DATA",
            )
    return "ready"


def _to_coordinator(root: Path) -> "Connection":
    """Return a connection to the coordinator of this home, by its own identity."""
    from coordinator.config import CoordinatorFolder
    from swarm.cli.processes import noted_ports
    from swarm.cli.settings import load_settings
    from swarm.config import SwarmHome
    from swarm.domain.ids import NodeId
    from swarm.rpc.channel import open_channel
    from swarm.trust.identity import Identity

    identity = Identity.load(CoordinatorFolder(SwarmHome(root).coordinator).identity)
    noted = noted_ports(SwarmHome(root).run, "coordinator")
    port = noted.get("--port") or load_settings(root).coordinator_port
    address = f"127.0.0.1:{port}"
    return open_channel(identity, address, "coordinator", NodeId("coordinator"))


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
