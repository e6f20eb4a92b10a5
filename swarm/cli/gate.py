"""`swarm gate ...`: the gate's current version, its history, what is on its way, and going back."""

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli import proposals
from swarm.cli.gate_tree import gate_tree, leaves_table
from swarm.cli.options import Home, Json
from swarm.cli.output import emit, note, printable, progress, run_async, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.domain.combination import Combination
    from swarm.domain.gates import GateStatement
    from swarm.rpc.clients import CoordinatorClient
    from swarm.trust.keyring import Keyring

NEWEST = 100
"""So many versions are listed unless all are asked for."""
gate = typer.Typer(help="The signed map from features to experts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    gate.command("show")(show)
    gate.command("fit")(fit)
    gate.command("history")(history)
    gate.command("rollback")(rollback)
    proposals.register(gate)
    app.add_typer(gate, name="gate")


def show(
    version: Annotated[int, typer.Option(min=0, help="A version; 0 is the current one.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show each new version as it comes, until Ctrl-C.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show a gate: its leaves, what it was fitted from, and how it was judged. The signature is checked."""
    from swarm.cli.places import coordinator, find_place
    from swarm.domain.errors import UsageError

    if version and follow:
        raise UsageError(
            "command line", found="--version with --follow", expected="one of them", remedy="leave one out"
        )
    place = find_place(home)

    def tell(statement: "GateStatement") -> None:
        facts = {"gate": statement, "tree": gate_tree(statement)}
        emit("gate", facts, as_json=json, text=describe_gate(statement))

    async def work() -> None:
        async with coordinator(place) as client:
            if follow:
                await _follow(client, place.identity().keyring(), tell)
                return
            envelope = await client.gate(version)
        tell(_opened(place.identity().keyring(), envelope))

    run_async(work())


async def _follow(
    client: "CoordinatorClient", keyring: "Keyring", tell: "Callable[[GateStatement], None]"
) -> None:
    """Tell of the present gate and of each new one, without end; what stops the first stops the command."""
    from swarm.rpc.gate_follower import GateFollower

    follower = GateFollower(
        client,
        keyring,
        on_gate=lambda statement: tell(statement.value),
        on_stale=lambda error: progress(f"gate {follower.version} may be old by now: {error}"),
    )
    await follower.refresh()
    if follower.gate is None:
        progress("there is no gate yet; waiting for the first")
    await follower.run()


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
        emit("gate-fit", {"outcome": outcome}, as_json=json, text=printable(text))

    run_async(work())


def history(
    every: Annotated[
        bool, typer.Option("--all", help=f"Every version, not the newest {NEWEST} only.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """List the gate's versions, oldest first, and why each came to be."""
    from swarm.cli.clock import stamp
    from swarm.cli.places import coordinator, find_place

    place = find_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            found = await client.history(0 if every else NEWEST)
        keyring = place.identity().keyring()
        gates = [_opened(keyring, envelope) for envelope in found.envelopes]
        rows = [
            (
                f"{'*' if item.version == found.current else ' '}{item.version}",
                stamp(item.created_at),
                item.change.kind,
                item.change.proposal or "-",
                item.kind,
                len(item.leaves),
                item.combination().label,
                f"{item.ridge:g}",
                proposals.beyond(item.evidence),
                proposals.training(item.change.cost),
                proposals.per_query(item.change.cost),
                item.reason,
            )
            for item in gates
        ]
        facts = {"current": found.current, "oldest": found.oldest, "gates": gates}
        emit("gate-history", facts, as_json=json, text=table(_HISTORY, rows))
        if found.oldest > 1 and not json:
            note(f"{found.oldest - 1} older ones: swarm gate history --all")

    run_async(work())


_HISTORY = (
    "version", "at", "change", "proposal", "kind", "leaves", "serves", "ridge", "z", "train FLOPs",
    "query FLOPs", "reason",
)  # fmt: skip


def rollback(version: Annotated[int, typer.Argument(min=1)], home: Home = None, json: Json = False) -> None:
    """Activate an earlier gate again, as a new version (operator); say whose leaves go and come back."""
    from swarm.cli.gate_difference import describe_difference, gate_difference
    from swarm.cli.places import coordinator, find_place

    place = find_place(home)

    async def work() -> None:
        async with coordinator(place) as client:
            keyring = place.identity().keyring()
            statement = _opened(keyring, await client.rollback(version))
            wanted = _opened(keyring, await client.gate(version))
            before = _opened(keyring, await client.gate(statement.version - 1))
        difference = gate_difference(before, wanted, statement)
        lines = (
            f"gate version {statement.version} is active: {statement.reason}",
            *describe_difference(difference).splitlines(),
        )
        facts = {"gate": statement, "difference": difference}
        emit("gate", facts, as_json=json, text="\n".join(map(printable, lines)))

    run_async(work())


def _opened(keyring: "Keyring", envelope: bytes) -> "GateStatement":
    from swarm.domain.gates import GateStatement

    return keyring.open(envelope, GateStatement).value


def describe_gate(statement: "GateStatement") -> str:
    """Return a gate for people: what it serves and why, every combination with its figures, its leaves."""
    ridge = f", ridge {statement.ridge:g}" if statement.kind == "analytic" else ""
    about = (
        f"gate version {statement.version} ({statement.kind}{ridge}) serves"
        f" {statement.combination().label}: {statement.reason}",
        _judged(statement),
        *_changed(statement),
    )
    return "\n".join(
        [
            *map(printable, about),
            _combinations_table(statement),
            leaves_table(statement),
        ]
    )


def _changed(statement: "GateStatement") -> list[str]:
    """Return what changed and what that takes: FLOPs to train, and for a query before and after. An ordinary
    contribution says it all in its reason."""
    change = statement.change
    if change.kind == "contribute" and not change.proposal and not change.cost:
        return []
    of = f" of proposal {change.proposal}" if change.proposal else ""
    beyond = statement.evidence.get("tried_z")
    better = f"; {beyond:+.2f} standard errors beyond what it replaces" if beyond is not None else ""
    costs = ", ".join(f"{name} {value:.4g}" for name, value in sorted(change.cost.items()))
    return [f"change: {change.kind}{of}{better}{f'; cost: {costs}' if costs else ''}"]


def _judged(statement: "GateStatement") -> str:
    """Return what a gate's trial covered, or why there was none.

    What is taken back (a leave, a withdrawal, a rollback) and a gate without leaves come without a trial.
    """
    if not statement.evidence:
        return "not judged: activated without a trial, for the reason above"
    figures = {key for each in statement.combinations for key in _figure_keys(each)}
    rest = {name: value for name, value in sorted(statement.evidence.items()) if name not in figures}
    covered = ", ".join(f"{name} {value:.4g}" for name, value in rest.items())
    if statement.evidence.get("judges") == 0:
        return f"not judged: nobody had validation data ({covered})"
    return f"judged: {covered}"


def _combinations_table(statement: "GateStatement") -> str:
    """Each combination's validation accuracy, and z of its paired difference to the root."""
    rows = []
    for place, each in enumerate(statement.combinations):
        accuracy, beyond = (statement.evidence.get(key) for key in _figure_keys(each))
        rows.append(
            (
                f"{'*' if place == statement.served else ' '}{each.label}",
                "-" if accuracy is None else f"{accuracy:.4f}",
                "-" if beyond is None else f"{beyond:+.2f}",
                "-" if each.name == "root" else f"{each.temperature:.3g}",
                f"{each.class_temperature:g}" if each.name in ("root", "poe", "corrected") else "-",
                f"{each.strength:g}" if each.name in ("poe", "corrected") else "-",
                f"{each.calibration:.2f}" if each.calibration else "-",
            )
        )
    header = (
        "combination",
        "accuracy",
        "z to root",
        "temperature",
        "class temperature",
        "strength",
        "calibration",
    )
    return table(header, rows)


def _figure_keys(combination: "Combination") -> tuple[str, str]:
    """Return the names of a combination's figures in a gate's evidence."""
    name = combination.label.replace(" ", "_").replace("-", "")
    return f"accuracy_{name}", f"z_{name}"
