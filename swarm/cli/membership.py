"""`swarm join`, `swarm leave`, `swarm down`: come, go, and stop what runs here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, ImportPath, Json, import_paths, resolved_source
from swarm.cli.output import emit, progress, run_async
from swarm.cli.withdrawing import Retrain
from swarm.config import home_flag

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.cli.withdrawing import Descendant
    from swarm.domain.ids import ExpertId
    from swarm.rpc.clients import AgentClient


def register(app: typer.Typer) -> None:
    app.command("join")(join)
    app.command("leave")(leave)
    app.command("down")(down)


def join(
    line: Annotated[str, typer.Argument(metavar="TOKEN@HOST:PORT", help="The line that swarm init printed.")],
    name: Annotated[str | None, typer.Option(help="This node's name (default: the host's).")] = None,
    data: Annotated[
        str, typer.Option(help="Check these data against the swarm's specification before joining.")
    ] = "",
    advertise: Annotated[
        str, typer.Option(help="HOST:PORT of a direct listener; without it no port is opened.")
    ] = "",
    role: Annotated[str, typer.Option(help="What the token is for: node, client or operator.")] = "node",
    import_path: ImportPath = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make this machine a member. Everything is checked before the token's secret leaves it."""
    from node import enrol
    from swarm.cli.places import Place, home_folder
    from swarm.config import NodeHome
    from swarm.domain.errors import UsageError

    root = home_folder(home)
    if role not in ("node", "client", "operator"):
        raise UsageError("--role", found=role, expected="node, client or operator")
    if name is not None and not name.strip():
        raise UsageError(
            "--name",
            found="an empty name",
            expected="lowercase letters, digits and inner hyphens, at most 40",
            remedy="leave --name out to join under the host's name",
        )
    identity = enrol.join(
        line,
        NodeHome(root),
        name=name or "",
        data=resolved_source(data) if data else None,
        advertise=advertise,
        import_paths=import_paths(import_path),
        role=role,  # type: ignore[arg-type]  # checked above
        on_step=progress,
    )
    if identity.role != "node":
        run_async(_keep_members(Place(root, is_node=True)))
    text = f"{identity.role} {identity.id} joined swarm {identity.swarm}; its folder is {root}"
    if role == "node":
        text += f"\nNext: swarm train DATA {home_flag(root)}"
    facts = {"swarm": identity.swarm, "role": identity.role, "id": identity.id, "home": str(root)}
    emit("join", {**facts, "coordinator": identity.coordinator}, as_json=json, text=text)


async def _keep_members(place: "Place") -> None:
    """Let the home know at once who answers while the coordinator does not; a node's agent sees to that."""
    from swarm.cli.places import coordinator

    async with coordinator(place):
        pass


def leave(
    reason: Annotated[str, typer.Option(help="Why, for the swarm's events.")] = "left",
    retrain: Retrain = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Withdraw this node's experts from the gate and revoke its certificate. It cannot be undone."""
    from swarm.cli.places import agent, node_place
    from swarm.cli.standing import note_departure
    from swarm.cli.withdrawing import descendant_facts, describe_descendants

    place = node_place(home)

    async def work() -> None:
        async with agent(place) as client:
            named, found = await _opt_out(place, client, reason) if retrain else ([], [])
            gate_version, left = await client.leave(reason)
            note_departure(place)
        await _agent_ended(place.root)  # it ends by itself
        experts = sorted({*named, *left})
        text = f"left; {', '.join(experts) or 'no expert'} withdrawn, gate version {gate_version}"
        facts: dict[str, object] = {"gate_version": gate_version, "withdrawn": experts}
        if retrain:
            facts |= descendant_facts(found)
            text += f"; {describe_descendants(found)}"
        emit("leave", facts, as_json=json, text=text)

    run_async(work())


async def _opt_out(
    place: "Place", own: "AgentClient", reason: str
) -> "tuple[list[ExpertId], list[Descendant]]":
    """Withdraw this node's experts by name and ask that what came from them is trained anew; return both.

    Before it leaves: who has left may ask nothing any more.
    """
    from swarm.cli.places import coordinator, registry
    from swarm.cli.withdrawing import ask_for_retraining, withdraw_experts

    fence = (await own.state()).fence
    async with registry(place) as blobs, coordinator(place) as client:
        experts = [head.expert for head in await blobs.heads(place.identity().id)]
        found = await withdraw_experts(place, blobs, experts, reason, fence)
        return experts, await ask_for_retraining(client, found, follow=False)


def down(home: Home = None, json: Json = False) -> None:
    """Stop every process that runs from this folder: services, a node's agent, or a whole `swarm up`."""
    from swarm.cli.places import home_folder
    from swarm.cli.processes import stop_recorded

    root = home_folder(home)
    # A whole `swarm up` has homes inside: what was started again by hand in one of them is recorded there.
    homes = [root, *sorted(root.glob("*")), *sorted(root.glob("*/home"))]
    homes = [each for each in homes if (each / "run").is_dir()]
    stopped = [name for each in homes for name in stop_recorded(each / "run")]
    stopped += [name for each in homes for name in run_async(_stop_agent(each))]
    emit("down", {"stopped": stopped}, as_json=json, text=f"stopped: {', '.join(stopped) or 'nothing ran'}")


async def _stop_agent(root: Path) -> list[str]:
    """End an agent that `swarm train` started by itself."""
    from node.control import agent_socket
    from swarm.cli.places import Place, agent
    from swarm.config import NodeHome

    if agent_socket(NodeHome(root)) is None:
        return []
    async with agent(Place(root, is_node=True), start=False) as client:
        await client.stop()
    await _agent_ended(root)
    return ["agent"]


async def _agent_ended(root: Path) -> None:
    """Wait until the agent of a home, which was told to end, has ended with all its children."""
    import asyncio

    from node.control import await_end
    from swarm.config import NodeHome

    if not await asyncio.to_thread(await_end, NodeHome(root)):
        progress(f"the agent of {root} is still ending; its log: {NodeHome(root).run / 'agent.log'}")
