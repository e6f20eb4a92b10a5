"""`swarm expert remove`, and what an owner's withdrawal means for what came from it (`--retrain`)."""

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.growth import ExpertName, NoWait, expert_named, followed, report
from swarm.cli.options import Home, Json
from swarm.cli.output import emit, printable, progress, run_async, table

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.ids import Digest, ExpertId, NodeId
    from swarm.rpc.clients import CoordinatorClient, RegistryClient

_REASON = "withdrawn by its owner"
Retrain = Annotated[
    bool,
    typer.Option("--retrain", help="Ask the owners of what came from it to train that anew, without it."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descendant:
    """A version that came from what was withdrawn.

    `is_head`: it is what its expert answers with now. `proposal` is the one to train it anew, where one was
    made; `outcome` says in words what comes next.
    """

    manifest: "Digest"
    expert: "ExpertId"
    version: int
    owner: "NodeId"
    standing: str
    is_head: bool
    proposal: str = ""
    outcome: str = ""


def remove(
    expert: ExpertName,
    reason: Annotated[
        str | None, typer.Option(help=f"Why; it is part of the signed tombstone (default: {_REASON}).")
    ] = None,
    retrain: Retrain = False,
    no_wait: NoWait = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Take an expert out of the gate.

    On its owner's node it is withdrawn for good: the owner contributes without its leaf, and a signed
    tombstone keeps it from coming back (--no-wait: the tombstone at once). An operator proposes to retire
    it: its versions stay, and nodes judge the gate without it.
    """
    from swarm.cli.places import growth_place

    place = growth_place(home)
    named = expert_named(place, expert)
    if place.identity().role == "node":
        _check_owner(place, named)
        run_async(_withdraw(place, named, reason or _REASON, retrain=retrain, wait=not no_wait, json=json))
    else:
        _check_operators_flags(reason, retrain=retrain)
        run_async(_retire(place, named, wait=not no_wait, json=json))


def _check_owner(place: "Place", expert: "ExpertId") -> None:
    from swarm.domain.errors import NotAuthorisedError
    from swarm.domain.ids import owner_of

    own = place.identity().id
    if owner_of(expert) != own:
        raise NotAuthorisedError(
            expert,
            found=f"node {own}",
            expected=f"its owner {owner_of(expert)}",
            remedy="run it on the owner's machine, or with --home DIR of that node",
        )


def _check_operators_flags(reason: str | None, *, retrain: bool) -> None:
    from swarm.domain.errors import UsageError

    given = [
        name for name, is_given in (("--reason", reason is not None), ("--retrain", retrain)) if is_given
    ]
    if given:
        raise UsageError(
            "command line",
            found=f"{' and '.join(given)} in the founder's folder",
            expected="the owner's node: an operator retires an expert, its owner alone withdraws it",
            remedy=f"leave {' and '.join(given)} out, or run it on the owner's machine",
        )


async def _retire(place: "Place", expert: "ExpertId", *, wait: bool, json: bool) -> None:
    from swarm.cli.places import coordinator

    async with coordinator(place) as client:
        proposal = await client.propose("remove", [expert])
        if wait:
            proposal = await followed(client, proposal)
    report(proposal, as_json=json)


async def _withdraw(
    place: "Place", expert: "ExpertId", reason: str, *, retrain: bool, wait: bool, json: bool
) -> None:
    from swarm.cli.places import agent, coordinator, registry

    async with registry(place) as blobs:
        await blobs.manifest(expert=expert)  # names an expert that was never published
        async with agent(place) as own:
            proposal = await _out_of_the_gate(place, expert) if wait else ""
            fence = (await own.state()).fence
        found = await withdraw_experts(place, blobs, [expert], reason, fence)
        progress("its tombstone is signed: no gate will have its leaf")
        if retrain:
            async with coordinator(place) as client:
                found = await ask_for_retraining(client, found, follow=wait)
    text = f"{expert} is withdrawn; {describe_descendants(found)}"
    facts = {"expert": expert, "proposal": proposal, **descendant_facts(found)}
    emit("expert-remove", facts, as_json=json, text=text)


async def _out_of_the_gate(place: "Place", expert: "ExpertId") -> str:
    """Let the owner contribute without the expert's leaf; return the proposal's id, empty without one.

    What stops this stops no withdrawal: the tombstone alone takes the leaf out, too.
    """
    from swarm.cli.places import coordinator
    from swarm.domain.errors import SwarmError
    from swarm.domain.gates import GateStatement

    try:
        async with coordinator(place) as client:
            gate = place.identity().keyring().open(await client.gate(), GateStatement).value
            if all(leaf.expert != expert for leaf in gate.leaves):
                return ""
            proposal = await followed(client, await client.propose("remove", [expert]))
    except SwarmError as error:
        progress(f"its owner's contribution stays as it is: {error}")
        return ""
    if proposal.state != "accepted":
        progress("its owner's contribution stays as it is; the tombstone alone takes its leaf out")
    return proposal.id


async def withdraw_experts(
    place: "Place", client: "RegistryClient", experts: Iterable["ExpertId"], reason: str, fence: int
) -> list[Descendant]:
    """Sign own experts' tombstones and hand them to the registry; return what came from them, newest first.

    The withdrawn experts' own versions are not among it, nor are versions of other withdrawn experts.
    """
    from swarm.domain.members import Tombstone
    from swarm.trust.statements import sign_statement

    identity = place.identity()
    marked: dict[Digest, None] = {}
    for expert in experts:
        tombstone = Tombstone(
            swarm=identity.swarm, kind="expert", id=expert, reason=reason, created_at=time.time()
        )
        marked |= dict.fromkeys(
            await client.withdraw(sign_statement(tombstone, identity.required_signer()), fence)
        )
    return await _described(client, list(marked))


async def _described(client: "RegistryClient", manifests: "Sequence[Digest]") -> list[Descendant]:
    from swarm.domain.lineage import LineageNode

    heads = {head.manifest for head in await client.heads()} if manifests else set()
    known: dict[Digest, LineageNode] = {}
    for manifest in manifests:
        if manifest not in known:
            known |= {node.manifest: node for node in (await client.lineage(manifest=manifest)).nodes}
    nodes = sorted((known[each] for each in manifests), key=lambda node: (-node.created_at, node.expert))
    return [
        Descendant(
            manifest=node.manifest,
            expert=node.expert,
            version=node.version,
            owner=node.owner,
            standing=node.standing,
            is_head=node.manifest in heads,
        )
        for node in nodes
        if node.standing != "withdrawn"
    ]


async def ask_for_retraining(
    client: "CoordinatorClient", found: Sequence[Descendant], *, follow: bool
) -> list[Descendant]:
    """Propose that each expert whose head came from what was withdrawn is trained anew; say what came of it.

    One proposal asks an owner for all of its experts that the gate has. What it has not is asked for one by
    one after it, for it may be no leaf of its owner's any more. follow: wait for each; else make the first.
    """
    alive = {view.id for view in (await client.status()).nodes if view.alive}
    in_gate = await _in_the_gate(client)
    by_owner: dict[NodeId, list[Descendant]] = {}
    for each in found:
        if each.is_head:
            by_owner.setdefault(each.owner, []).append(each)
    asked = await asyncio.gather(
        *(
            _ask_owner(client, _batches(theirs, in_gate), is_alive=owner in alive, follow=follow)
            for owner, theirs in by_owner.items()
        )
    )
    answers = {each.manifest: each for theirs in asked for each in theirs}
    return [answers.get(each.manifest, each) for each in found]


async def _in_the_gate(client: "CoordinatorClient") -> "set[ExpertId]":
    """Return the experts of the present gate's leaves; none before the first gate."""
    from swarm.domain.errors import NotReadyError
    from swarm.domain.gates import GateStatement
    from swarm.trust.statements import read_statement

    try:
        return {leaf.expert for leaf in read_statement(await client.gate(), GateStatement).value.leaves}
    except NotReadyError:
        return set()


def _batches(theirs: Sequence[Descendant], in_gate: "Collection[ExpertId]") -> list[list[Descendant]]:
    """Return what to ask one owner for, proposal by proposal."""
    from swarm.domain.growth import MAX_EXPERTS

    together = [each for each in theirs if each.expert in in_gate]
    batches = [together[start : start + MAX_EXPERTS] for start in range(0, len(together), MAX_EXPERTS)]
    return [*batches, *([each] for each in theirs if each.expert not in in_gate)]


async def _ask_owner(
    client: "CoordinatorClient", batches: Sequence[Sequence[Descendant]], *, is_alive: bool, follow: bool
) -> list[Descendant]:
    told: list[Descendant] = []
    for number, batch in enumerate(batches):
        if not is_alive:
            told += [_later(each, f"{each.owner} is not connected; later, ") for each in batch]
        elif number and not follow:
            told += [_later(each, f"after {batches[0][0].expert}, ") for each in batch]
        else:
            told += await _ask(client, batch, follow=follow)
    return told


async def _ask(client: "CoordinatorClient", batch: Sequence[Descendant], *, follow: bool) -> list[Descendant]:
    """Make one proposal, and say of each of its experts what came of it.

    An expert whose leaf its owner has not any more (a split that was rolled back leaves such children in the
    registry) has nothing to train, now or later.
    """
    from swarm.domain.errors import NotFoundError, SwarmError
    from swarm.domain.growth import NO_LEAF_HERE

    try:
        proposal = await client.propose("retrain", [each.expert for each in batch])
        proposal = await followed(client, proposal) if follow else proposal
    except (
        NotFoundError
    ) as error:  # there is nothing to train: it was split, or is in no gate and no registry
        return [replace(each, outcome=f"not asked ({error})") for each in batch]
    except SwarmError as error:
        return [_later(each, f"not asked ({error}); ") for each in batch]
    outcome = f"{proposal.state}: {proposal.reason}" if proposal.reason else proposal.state
    told = [replace(each, proposal=proposal.id, outcome=outcome) for each in batch]
    if not proposal.has_ended or proposal.state == "accepted":
        return told
    return [
        replace(each, outcome="no leaf any more: nothing to train")
        if f"expert {each.expert}: found {NO_LEAF_HERE}" in proposal.reason
        else _later(each, f"{outcome}; ")
        for each in told
    ]


def _later(each: Descendant, why: str) -> Descendant:
    """Return it with the command by which its owner trains it anew."""
    return replace(each, outcome=f"{why}on {each.owner}'s machine: swarm expert retrain {each.expert}")


def descendant_facts(found: Sequence[Descendant]) -> dict[str, object]:
    """Return what came from a withdrawn expert as JSON shows it: manifests, and each with all about it."""
    return {"descendants": [each.manifest for each in found], "marked": found}


def describe_descendants(found: Sequence[Descendant]) -> str:
    """Return what came from a withdrawn expert for people: every version by name, and what comes next."""
    if not found:
        return "nothing came from it"
    asks = any(each.outcome for each in found)
    rows = [
        (
            f"{each.expert}@{each.version}",
            each.manifest[:12],
            each.owner,
            each.standing,
            *((f"{each.proposal} {each.outcome}".strip() or "an older version",) if asks else ()),
        )
        for each in found
    ]
    header = ("version", "manifest", "owner", "standing", *(("trained anew",) if asks else ()))
    owners = len({each.owner for each in found})
    count = f"{len(found)} descendants of {owners} owner{'s' if owners > 1 else ''} are marked"
    return "\n".join([printable(count), table(header, rows)])
