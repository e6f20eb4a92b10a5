"""`swarm gate ...`: the gate's current version, its history, and going back."""

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, run_async, table

if TYPE_CHECKING:
    from swarm.domain.manifests import GateStatement
    from swarm.trust.keyring import Keyring

gate = typer.Typer(help="The signed map from features to experts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    gate.command("show")(show)
    gate.command("fit")(fit)
    gate.command("history")(history)
    gate.command("rollback")(rollback)
    app.add_typer(gate, name="gate")


def show(
    version: Annotated[int, typer.Option(min=0, help="A version; 0 is the current one.")] = 0,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show a gate: its leaves, what it was fitted from, and how it was judged. The signature is checked."""
    from swarm.cli.places import coordinator, find_place

    place = find_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            envelope = await client.gate(version)
        statement = _opened(place.identity().keyring(), envelope)
        emit("gate", {"gate": statement}, as_json=json, text=describe_gate(statement))

    run_async(work())


def fit(home: Home = None, json: Json = False) -> None:
    """Recompute the gate from its contributions; activate it if the incumbents agree (operator)."""
    from swarm.cli.places import coordinator, find_place
    from swarm.domain.errors import HarmfulContributionError

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            outcome = await client.fit()
        if outcome.state == "refused":
            raise HarmfulContributionError(
                "gate", found=outcome.reason, expected="no incumbent worse off", remedy="swarm gate history"
            )
        text = f"{outcome.state}: gate version {outcome.gate_version} ({outcome.reason or 'recomputed'})"
        emit("gate-fit", {"outcome": outcome}, as_json=json, text=text)

    run_async(work())


def history(home: Home = None, json: Json = False) -> None:
    """List the gate's versions and why each came to be."""
    from swarm.cli.clock import stamp
    from swarm.cli.places import coordinator, find_place

    place = find_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            envelopes, current = await client.history()
        keyring = place.identity().keyring()
        gates = [_opened(keyring, envelope) for envelope in envelopes]
        rows = [
            (
                f"{'*' if item.version == current else ' '}{item.version}",
                stamp(item.created_at),
                len(item.leaves),
                f"{item.temperature:.3g}",
                item.reason,
            )
            for item in gates
        ]
        text = table(("version", "at", "leaves", "temperature", "reason"), rows)
        emit("gate-history", {"current": current, "gates": gates}, as_json=json, text=text)

    run_async(work())


def rollback(version: Annotated[int, typer.Argument(min=1)], home: Home = None, json: Json = False) -> None:
    """Activate an earlier gate again, as a new version (operator)."""
    from swarm.cli.places import coordinator, find_place

    place = find_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            envelope = await client.rollback(version)
        statement = _opened(place.identity().keyring(), envelope)
        text = f"gate version {statement.version} is active: {statement.reason}"
        emit("gate", {"gate": statement}, as_json=json, text=text)

    run_async(work())


def _opened(keyring: "Keyring", envelope: bytes) -> "GateStatement":
    from swarm.domain.manifests import GateStatement

    return keyring.open(envelope, GateStatement).value


def describe_gate(statement: "GateStatement") -> str:
    """Return a gate for people."""
    rows = [(leaf.leaf, leaf.owner, leaf.expert, ", ".join(leaf.class_names)) for leaf in statement.leaves]
    evidence = ", ".join(f"{name} {value:.4g}" for name, value in sorted(statement.evidence.items()))
    return "\n".join(
        [
            f"gate version {statement.version} ({statement.kind}), top-{statement.top_k},"
            f" temperature {statement.temperature:.4g}: {statement.reason}",
            f"judged: {evidence or 'nobody to judge yet'}",
            table(("leaf", "owner", "expert", "classes"), rows),
        ]
    )
