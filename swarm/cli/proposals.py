"""`swarm gate proposals | cancel | growth`: what is on its way to change the gate, and who may propose it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, printable, run_async, table

if TYPE_CHECKING:
    from swarm.domain.growth import Proposal

ProposalName = Annotated[str, typer.Argument(metavar="ID", help="A proposal's id, as p3.")]


def register(gate: typer.Typer) -> None:
    gate.command("proposals")(proposals)
    gate.command("cancel")(cancel)
    gate.command("growth")(growth)


def proposals(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="One of them, with all its figures.")] = "",
    all: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """List the proposals to change the gate that are on their way, or one with its evidence and cost."""
    from swarm.cli.places import coordinator, find_place

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            found = await client.proposals(id)
        if id:
            emit("proposal", {"proposal": found[0]}, as_json=json, text=describe_proposal(found[0]))
            return
        shown = [each for each in found if all or not each.has_ended]
        hidden = len(found) - len(shown)
        dropped = not_kept(found)
        text = describe_proposals(shown) if shown else "no proposal is on its way"
        if hidden:
            text += f"\n{hidden} that ended: swarm gate proposals --all"
        if all and dropped:
            text += f"\n{describe_dropped(dropped)}"
        facts = {"proposals": shown, "ended_not_shown": hidden, "dropped": dropped}
        emit("proposals", facts, as_json=json, text=text)

    run_async(work())


def cancel(id: ProposalName, home: Home = None, json: Json = False) -> None:
    """End a proposal (operator, or its owner). What it changed is rolled back, as a new gate version."""
    from swarm.cli.places import coordinator, growth_place

    place = growth_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            ended = await client.cancel(id)
        emit("proposal", {"proposal": ended}, as_json=json, text=describe_proposal(ended))

    run_async(work())


def growth(
    policy: Annotated[
        str,
        typer.Argument(metavar="[POLICY]", help="manual, conservative or eager; without it: which it is."),
    ] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Show or set who proposes growth: people only (manual), or the coordinator as well (operator)."""
    from swarm.cli.places import coordinator, operator_place
    from swarm.domain.errors import UsageError
    from swarm.domain.growth import POLICIES

    if policy and policy not in POLICIES:
        raise UsageError("POLICY", found=repr(policy[:40]), expected=", ".join(POLICIES))
    place = operator_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            present = await client.growth_policy(policy)
        emit("growth", {"policy": present}, as_json=json, text=f"growth: {present}, {_POLICY_WORDS[present]}")

    run_async(work())


_POLICY_WORDS = {
    "manual": "people propose: swarm expert add | split | merge | remove",
    "conservative": "the coordinator proposes what much evidence is for, one thing at a time",
    "eager": "the coordinator proposes what some evidence is for, one thing at a time",
}


def not_kept(found: "Sequence[Proposal]") -> int:
    """Return how many proposals there were besides all those that a coordinator has: ids are counted up."""
    return max((int(each.id[1:]) for each in found), default=0) - len(found)


def describe_dropped(dropped: int) -> str:
    """Return in words that so many proposals are gone, which are kept, and where the others' changes are."""
    from coordinator.growth_book import KEPT_ENDED, KEPT_S

    return (
        f"{dropped} older ones that ended are not kept any more: the coordinator keeps the newest"
        f" {KEPT_ENDED} and those of the last {KEPT_S / 3600:g} hours; what they changed is in swarm gate"
        " history"
    )


def describe_state(proposal: "Proposal") -> str:
    """Return where a proposal is, as one line of progress."""
    reason = f": {proposal.reason}" if proposal.reason else ""
    return f"{proposal.subject} is {proposal.state}{reason}"


def describe_proposals(found: "Sequence[Proposal]") -> str:
    """Return proposals as a table, newest first."""
    rows = [
        (
            each.id,
            each.kind,
            " ".join(each.experts) or each.owner,
            each.state,
            each.by,
            each.gate_version,
            beyond(each.evidence),
            training(each.cost),
            per_query(each.cost),
            each.reason,
        )
        for each in found
    ]
    header = (
        "id",
        "kind",
        "experts",
        "state",
        "by",
        "against gate",
        "z",
        "train FLOPs",
        "query FLOPs",
        "reason",
    )
    return table(header, rows)


def describe_proposal(proposal: "Proposal") -> str:
    """Return one proposal with everything that is known of it."""
    from swarm.cli.clock import stamp

    options = ", ".join(f"{name} {value}" for name, value in sorted(proposal.options.items()))
    led_to = ", ".join(map(str, proposal.gate_versions)) or "none"
    lines = [
        describe_state(proposal),
        f"made by {proposal.by} at {stamp(proposal.created_at)} against gate {proposal.gate_version}"
        f"{f' ({proposal.why})' if proposal.why else ''},"
        f" owner {proposal.owner}{f', {options}' if options else ''}; gate versions it led to: {led_to}",
    ]
    for name, figures in (("evidence", proposal.evidence), ("cost", proposal.cost)):
        if figures:
            told = ", ".join(f"{key} {value:.4g}" for key, value in sorted(figures.items()))
            lines.append(f"{name}: {told}")
    return "\n".join(map(printable, lines))


def beyond(evidence: Mapping[str, float]) -> str:
    """Return by how many standard errors a change did better than what it replaces."""
    found = evidence.get("tried_z")
    return "-" if found is None else f"{found:+.2f}"


def training(cost: Mapping[str, float]) -> str:
    """Return what a change took to train, in FLOPs."""
    found = cost.get("train_flops")
    return "-" if found is None else f"{found:.3g}"


def per_query(cost: Mapping[str, float]) -> str:
    """Return what gate and experts cost a query before a change and after it, FLOPs: `1.2e+05 > 1.3e+05`."""
    sums = [
        [value for part in ("gate", "expert") if (value := cost.get(f"{part}_flops_{when}")) is not None]
        for when in ("before", "after")
    ]
    return " > ".join(f"{sum(each):.3g}" for each in sums) if all(sums) else "-"
