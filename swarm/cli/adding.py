"""`swarm expert add`: a leaf for what a node's stream found new; of several nodes, by common regions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.federate import run_told
from swarm.cli.growth import Against, NoWait, Steps, followed, report
from swarm.cli.options import Home, Json
from swarm.cli.output import emit, progress, run_async
from swarm.cli.proposals import describe_proposal, describe_state

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.growth import Proposal
    from swarm.domain.ids import NodeId
    from swarm.rpc.clients import CoordinatorClient

_FOR_EXAMPLE = "for example swarm expert add --node ada"


def add(
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE", help="Whose (operator); of several, all by the regions that they have in common."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Prototypes of the new leaf; without it as many as the swarm allows."
        ),
    ] = None,
    steps: Steps = None,
    net: Annotated[
        str,
        typer.Option(
            help="Of its expert: mlp:128x2, cnn, linear; without it as the node's newest leaf.", metavar="NET"
        ),
    ] = "",
    against: Against = 0,
    no_wait: NoWait = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Add a leaf of a node's novel samples, which its stream kept; nodes judge it against the gate of now."""
    from swarm.cli.places import coordinator, growth_place
    from swarm.domain.growth import checked_options

    place = growth_place(home)
    nodes = _nodes(place, node or [])
    own = {name: str(value) for name, value in (("steps", steps), ("net", net)) if value}
    alone = {**own, "k": str(k)} if k is not None else own
    checked_options("add", alone)

    async def work() -> None:
        async with coordinator(place) as client:
            if len(nodes) == 1:
                made = await client.propose("add", [], alone, against, owner=nodes[0])
                report(made if no_wait else await followed(client, made), as_json=json)
                return
            await _check_gate(client, place, against)
            regions = await _common_regions(client, nodes, k or 0)
            found = await _each(client, nodes, own, regions, no_wait=no_wait)
        _report(found, as_json=json)

    run_async(work())


def _nodes(place: "Place", named: Sequence[str]) -> "list[NodeId]":
    """Return whose adds are wanted, each once; UsageError for nobody, and for several without an operator."""
    from swarm.domain.errors import UsageError
    from swarm.domain.ids import node_id

    identity = place.identity()
    found = list(dict.fromkeys(node_id(name) for name in named))
    if not found and identity.role == "node":
        found = [node_id(identity.id)]
    if not found:
        raise UsageError("--node", found="none", expected="whose leaf it shall be", remedy=_FOR_EXAMPLE)
    if len(found) > 1 and identity.role == "node":
        raise UsageError(
            "--node",
            found=" and ".join(found),
            expected=f"{identity.id} alone: an operator asks several",
            remedy="name the founder's folder: --home DIR",
        )
    return found


async def _check_gate(client: "CoordinatorClient", place: "Place", against: int) -> None:
    """Raise ConflictError before anything is asked of the nodes if the gate is another one by now."""
    from swarm.domain.errors import ConflictError
    from swarm.domain.gates import GateStatement

    if not against:
        return
    version = place.identity().keyring().open(await client.gate(), GateStatement).value.version
    if version != against:
        raise ConflictError(
            f"proposal against gate {against}",
            found=f"gate {version}",
            remedy="look at the gate again and propose anew: swarm gate show",
        )


async def _common_regions(client: "CoordinatorClient", nodes: "Sequence[NodeId]", k: int) -> bytes:
    from swarm.federation.options import novel_regions
    from swarm.gating.common_regions import found_regions, packed_regions

    found = found_regions((await run_told(client, "kmeans", novel_regions(nodes, k=k))).arrays)
    progress(f"{len(found)} regions in common: {', '.join(nodes)}")
    return packed_regions(found)


async def _each(
    client: "CoordinatorClient",
    nodes: "Sequence[NodeId]",
    options: Mapping[str, str],
    regions: bytes,
    *,
    no_wait: bool,
) -> "list[Proposal]":
    """Propose to one node after the other and return what became of it; each is judged on its own, so one
    that is refused ends nothing but its own. Raises in the end what the first was refused with."""
    from swarm.domain.errors import SwarmError

    found, first = list["Proposal"](), None
    for node in nodes:
        try:
            made = await client.propose("add", [], options, owner=node, regions=regions)
            found.append(made if no_wait else await followed(client, made))
        except SwarmError as error:
            progress(f"{node} is not asked: {error}")
            first = first or error
    if first is not None:
        raise first
    return found


def _report(found: "Sequence[Proposal]", *, as_json: bool) -> None:
    """Print what became of all; ConflictError, with each one's end, unless each was accepted or goes on."""
    from swarm.domain.errors import ConflictError

    if any(each.has_ended and each.state != "accepted" for each in found):
        raise ConflictError(
            f"adds of {' and '.join(each.owner for each in found)}",
            found="; ".join(map(describe_state, found)),
            expected="proposals that are accepted",
            remedy="the gate is without those that are not; their figures: swarm gate proposals --all",
        )
    text = "\n".join(map(describe_proposal, found))
    emit("proposals", {"proposals": found}, as_json=as_json, text=text)
