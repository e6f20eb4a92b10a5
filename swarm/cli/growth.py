"""`swarm expert split | merge | retrain`: growth by hand, which its owner carries out and the nodes judge.

A proposal is followed on stderr until it ends: accepted is exit code 0, everything else a conflict (6) with
its reason. Leaving off does not end it.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, progress, run_async
from swarm.cli.proposals import describe_proposal, describe_state

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.growth import Proposal, ProposalKind
    from swarm.domain.ids import ExpertId
    from swarm.rpc.clients import CoordinatorClient

POLL_S = 0.5
_SHORT = re.compile(r"e[0-9]{1,6}")
ExpertName = Annotated[
    str, typer.Argument(metavar="EXPERT", help="An expert's id, as ada.e1; on its owner's node e1 will do.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Propose, and do not wait for what becomes of it.")]
Against = Annotated[
    int,
    typer.Option(
        min=0,
        help="Only if the gate is at this version, the one that you looked at; 0: whichever.",
        metavar="VERSION",
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, max=10**9, help="Optimiser steps; without it the owner's own choice.")
]


def register(expert: typer.Typer) -> None:
    expert.command("split")(split)
    expert.command("merge")(merge)
    expert.command("retrain")(retrain)


def split(
    expert: ExpertName,
    gate: Annotated[
        str,
        typer.Option(
            help="How its children share the region: means, or learned (a binary gate).", metavar="HOW"
        ),
    ] = "means",
    steps: Steps = None,
    against: Against = 0,
    no_wait: NoWait = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Split an expert in two: its owner lays exact copies, trains them apart, and nodes judge them."""
    options = {"gate": gate} | ({"steps": str(steps)} if steps is not None else {})
    _carry("split", [expert], options, against, no_wait=no_wait, home=home, json=json)


def merge(
    first: ExpertName,
    second: ExpertName,
    method: Annotated[
        str, typer.Option(help="magmax, ties or mean, from the common ancestor.", metavar="HOW")
    ] = "mean",
    steps: Steps = None,
    against: Against = 0,
    no_wait: NoWait = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Merge two experts that came from one ancestor; nodes judge the merged one against both."""
    options = {"method": method} | ({"steps": str(steps)} if steps is not None else {})
    _carry("merge", [first, second], options, against, no_wait=no_wait, home=home, json=json)


def retrain(
    experts: Annotated[
        list[str],
        typer.Argument(metavar="EXPERT...", help="One or more of one owner; on its node e1 e2 will do."),
    ],
    steps: Steps = None,
    no_wait: NoWait = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Train experts anew, without what they came from: their owner draws them afresh on its own data."""
    options = {"steps": str(steps)} if steps is not None else {}
    _carry("retrain", experts, options, 0, no_wait=no_wait, home=home, json=json)


def _carry(
    kind: "ProposalKind",
    experts: Sequence[str],
    options: Mapping[str, str],
    against: int,
    *,
    no_wait: bool,
    home: Home,
    json: bool,
) -> None:
    """Propose, follow to the end unless told otherwise, and say what became of it."""
    from swarm.cli.places import coordinator, growth_place
    from swarm.domain.growth import checked_options

    place = growth_place(home)
    named = [expert_named(place, each) for each in experts]
    checked_options(kind, options)

    async def work() -> None:
        async with coordinator(place) as client:
            proposal = await client.propose(kind, named, options, against)
            if not no_wait:
                proposal = await followed(client, proposal)
        report(proposal, as_json=json)

    run_async(work())


def expert_named(place: "Place", text: str) -> "ExpertId":
    """Return the expert that text names, `e1` a node's own; InvalidInputError where it is no expert's id."""
    from swarm.domain.errors import InvalidInputError
    from swarm.domain.ids import ExpertId, owner_of

    if _SHORT.fullmatch(text) and place.identity().role == "node":
        return ExpertId(f"{place.identity().id}.{text}")
    if _SHORT.fullmatch(text.rpartition(".")[2]) and "." in text:
        owner_of(ExpertId(text))
        return ExpertId(text)
    raise InvalidInputError(
        "EXPERT",
        found=repr(text[:60]),
        expected="an expert's id, as ada.e1",
        remedy="list them: swarm experts",
    )


async def followed(client: "CoordinatorClient", proposal: "Proposal") -> "Proposal":
    """Return a proposal once it has ended, telling each of its states on stderr.

    A coordinator that is away is waited for. Whoever is interrupted is told how to end the proposal.
    """
    from swarm.domain.errors import UnreachableError

    said, away = "", False
    try:
        while True:
            now = describe_state(proposal)
            if now != said:
                progress(now)
                said = now
            if proposal.has_ended:
                return proposal
            await asyncio.sleep(POLL_S)
            try:
                (proposal,) = await client.proposals(proposal.id)
                away = False
            except UnreachableError as error:
                if not away:
                    progress(f"waiting for the coordinator: {error}")
                away = True
    except asyncio.CancelledError:
        progress(f"{proposal.id} goes on without this command; end it: swarm gate cancel {proposal.id}")
        raise


def report(proposal: "Proposal", *, as_json: bool) -> None:
    """Print what became of a proposal; ConflictError where it ended without being accepted."""
    check_accepted(proposal)
    text = describe_proposal(proposal)
    if not proposal.has_ended:
        text += f"\nit goes on; see it: swarm gate proposals {proposal.id}"
    emit("proposal", {"proposal": proposal}, as_json=as_json, text=text)


def check_accepted(proposal: "Proposal") -> None:
    """Raise ConflictError, with the reason, where a proposal ended without being accepted."""
    from swarm.domain.errors import ConflictError

    if proposal.has_ended and proposal.state != "accepted":
        raise ConflictError(
            proposal.subject,
            found=f"{proposal.state}: {proposal.reason or 'no reason given'}",
            expected="a proposal that is accepted",
            remedy=f"the gate is as it was before; its figures: swarm gate proposals {proposal.id}",
        )
