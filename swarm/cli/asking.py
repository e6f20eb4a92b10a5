"""`swarm predict`: ask the swarm."""

import secrets
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json, resolved_source
from swarm.cli.output import advised, emit, printable, progress, run_async

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.data.dataset import Dataset
    from swarm.domain.gates import GateStatement
    from swarm.domain.ids import NodeId
    from swarm.domain.inference import Answer, Profile
    from swarm.domain.specification import Specification
    from swarm.rpc.clients import CoordinatorClient


def _known_combination(name: str) -> str:
    from swarm.domain.combination import NAMES

    if name and name not in NAMES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(NAMES)}")
    return name


TopK = Annotated[
    int,
    typer.Option(
        min=0,
        help="How many experts answer where the combination asks experts (gate, poe, corrected, prototypes);"
        " 0 is the gate's own choice.",
    ),
]
CombinationOption = Annotated[
    str,
    typer.Option(
        "--combination",
        help="How to combine: prototypes, root, gate, poe or corrected; without it as the gate serves.",
        callback=_known_combination,
        metavar="NAME",
    ),
]
ExamplesOption = Annotated[
    str,
    typer.Option(
        "--examples",
        help="Your own labelled inputs (x and y): who agrees with them answers. They go to the coordinator.",
        metavar="FILE.npz",
    ),
]
_NAME_KNOWN_CLASSES = "rename or leave out those samples; the owners' classes: swarm gate show"
WHO_ANSWERS = "name one who is in the gate: swarm gate show"
NAMED = 20
"""How many classes are listed by name."""


def register(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A .npy or .npz with raw inputs [B, ...].")],
    top_k: TopK = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Name the experts behind each answer.")] = False,
    owner: Annotated[list[str] | None, typer.Option(help="Ask these owners' experts only.")] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="Average all experts instead of asking the gate.")
    ] = False,
    combination: CombinationOption = "",
    examples: ExamplesOption = "",
    gate_version: Annotated[
        int,
        typer.Option(
            "--gate", min=0, help="Answer by this older gate; 0 is the present one.", metavar="VERSION"
        ),
    ] = 0,
    min_confidence: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Rows answered with less confidence are answered as unknown."),
    ] = 0.0,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the answer with the digests that it came from, for swarm replay.", metavar="FILE"
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Ask the swarm about raw inputs. The inputs go to the owners that the gate chooses.

    While the coordinator does not answer, a node that listens (--advertise) routes: this one, or another that
    this home knows from before.
    """
    from swarm.cli.answer_files import save_answer
    from swarm.cli.asking_nodes import ask_nodes
    from swarm.cli.destinations import check_destination
    from swarm.cli.places import coordinator, find_place
    from swarm.cli.settings import load_settings
    from swarm.client.inputs import as_batch
    from swarm.data.sources import load_inputs
    from swarm.domain.errors import UnreachableError
    from swarm.domain.ids import node_id
    from swarm.domain.inference import Query
    from swarm.domain.specification import Specification

    check_examples_alone(examples, top_k, owner, uniform, combination, gate_version)
    if save is not None:
        check_destination(save, "--save")
    place = find_place(home)
    inputs = load_inputs(source)
    timeout_s = load_settings(place.root).timeout_s

    def query_of(specification: Specification) -> Query:
        return Query(
            inputs=as_batch(inputs, specification),
            top_k=top_k,
            explain=explain or save is not None,
            owners=tuple(node_id(name) for name in owner or []),
            uniform=uniform,
            combination=combination,
            gate_version=gate_version,
            min_confidence=min_confidence,
            replayable=save is not None,
            request_id=secrets.token_hex(16) if save is not None else "",
        )

    async def by_coordinator() -> "tuple[Query, Answer, Profile | None, GateStatement | None]":
        async with coordinator(place) as client:
            keyring = place.identity().keyring()
            specification = keyring.open(await client.specification(timeout_s=timeout_s), Specification).value
            query = query_of(specification)
            if not examples:
                with advised("owner", WHO_ANSWERS):
                    return query, await client.predict(query, timeout_s), None, None
            profile = await make_profile(client, examples, specification)
            asked = replace(query, profile=profile.id)
            answer = await client.predict(asked, timeout_s)
            return asked, answer, profile, await open_gate(client, place)

    async def work() -> None:
        profile: Profile | None = None
        gate: GateStatement | None = None
        try:
            query, answer, profile, gate = await by_coordinator()
        except UnreachableError as unreachable:
            if examples:
                raise
            with advised("owner", WHO_ANSWERS):
                query, answer = await ask_nodes(place, unreachable, query_of, timeout_s)
        if save is not None:
            save_answer(save, answer, query, source)
            answer = replace(answer, signed=b"")
            if not explain:
                answer = replace(answer, sources=(), gate_entropy=())
        facts: dict[str, object] = {"answer": answer, "labels": answer.labels}
        text = describe_answer(answer, top_k)
        if profile and gate:
            facts |= profile_facts(profile, answer, gate)
            text = f"{describe_profiled(profile, answer, gate)}\n{text}"
        emit("prediction", facts, as_json=json, text=text)

    run_async(work())


def check_examples_alone(
    examples: str,
    top_k: int,
    owner: list[str] | None,
    uniform: bool,
    combination: str,
    gate_version: int = 0,
) -> None:
    from swarm.domain.errors import UsageError

    beside = [name for name, given in (("--top-k", top_k), ("--owner", owner)) if given]
    beside += [name for name, given in (("--uniform", uniform), ("--combination", combination)) if given]
    beside += ["--gate"] if gate_version else []
    if examples and beside:
        raise UsageError(
            "command line",
            found=f"--examples together with {', '.join(beside)}",
            expected="--examples alone: the owners who agree with them answer by their own root",
            remedy=f"leave out {', '.join(beside)}, or --examples",
        )


async def make_profile(client: "CoordinatorClient", source: str, specification: "Specification") -> "Profile":
    """Return the profile of a source's labelled samples. Raises by name what makes them no examples."""
    from swarm.client.inputs import as_batch
    from swarm.domain.errors import InvalidInputError
    from swarm.domain.inference import MAX_EXAMPLES, Examples

    data = load_examples(source)
    if len(data) > MAX_EXAMPLES:
        raise InvalidInputError(
            f"examples {source}",
            found=f"{len(data)} of them",
            expected=f"at most {MAX_EXAMPLES}",
            remedy="a few dozen of each class are enough",
        )
    labels = tuple(data.class_names[label] for label in data.labels)
    inputs = as_batch(data.inputs, specification)
    progress(f"asking whose sums agree with {len(data)} examples")
    with advised("labels of the examples", _NAME_KNOWN_CLASSES):
        return await client.make_profile(Examples(inputs=inputs, labels=labels))


def load_examples(source: str) -> "Dataset":
    """Return a source's labelled samples; what is wrong with them is said as of examples."""
    from swarm.data.sources import load_training
    from swarm.domain.errors import InvalidInputError

    data = load_training(resolved_source(source), min_classes=1)
    if len(data.class_names) < 2:
        raise InvalidInputError(
            f"examples {source}",
            found=f"one class only, {data.class_names[0]!r}",
            expected="examples of at least two classes",
            remedy="add some of every class that you will ask about: one class says little about who agrees",
        )
    return data


async def open_gate(client: "CoordinatorClient", place: "Place") -> "GateStatement":
    """Return the current gate's statement, verified."""
    from swarm.domain.gates import GateStatement

    return place.identity().keyring().open(await client.gate(), GateStatement).value


def unknown_classes(answer: "Answer", gate: "GateStatement") -> tuple[str, ...]:
    """Return the classes that owners in the gate know and a profile's answer can not name."""
    known = {name for leaf in gate.leaves if leaf.has_columns for name in leaf.class_names}
    return tuple(name for name in gate.class_names if name in known.difference(answer.class_names))


def profile_facts(profile: "Profile", answer: "Answer", gate: "GateStatement") -> dict[str, object]:
    return {"profile": profile, "unknown_classes": unknown_classes(answer, gate)}


def describe_profiled(profile: "Profile", answer: "Answer", gate: "GateStatement") -> str:
    """Return whose root answers and, in a second line, the gate's classes that it does not know."""
    lines = [describe_profile(profile, {leaf.owner for leaf in gate.leaves if leaf.has_columns})]
    unknown = unknown_classes(answer, gate)
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        listed = ", ".join(unknown[:NAMED])
        lines.append(f"never answered, since these owners do not know them: {listed}{more}")
    return "\n".join(map(printable, lines))


def describe_profile(profile: "Profile", everyone: Collection["NodeId"] = ()) -> str:
    """Return in one line whose sums agree with the examples, and what that brings on them; everyone: the
    owners whose root answers where nobody is left out."""
    count = len(profile.owners)
    if count > 1 and set(profile.owners) == set(everyone):
        return (
            f"no owners agree with your {profile.examples} examples clearly better than all {count} together:"
            f" {profile.accuracy:.3f} of them right (profile {profile.id[:12]})"
        )
    agree = "agree" if count > 1 else "agrees"
    return (
        f"{', '.join(profile.owners)} {agree} with your {profile.examples} examples: {profile.accuracy:.3f}"
        f" of them right, {profile.accuracy_all:.3f} by the sums of all owners (profile {profile.id[:12]})"
    )


def describe_row(answer: "Answer", index: int) -> list[str]:
    """Return one row of an answer for people: its best classes and, where explained, who gave them."""
    if answer.unknown[index]:
        said = f"unknown: nobody is sure enough ({answer.confidence[index]:.3f})"
        return [printable(f"{said}{_far_out(answer, index)}"), *_explained(answer, index)]
    row = answer.probabilities[index]
    best = sorted(range(len(row)), key=lambda column: -float(row[column]))[:3]
    said = ", ".join(f"{answer.class_names[column]} {row[column]:.3f}" for column in best)
    first = f"{said}{_far_out(answer, index)}{'  DEGRADED' if answer.degraded[index] else ''}"
    return [printable(first), *_explained(answer, index)]


def _far_out(answer: "Answer", index: int) -> str:
    """Say how far out a row lies where that is beyond its region's training data."""
    distances = answer.out_of_distribution
    if distances is None or distances[index] <= 1:
        return ""
    return f"  OUT OF DISTRIBUTION ({distances[index]:.2f})"


def _explained(answer: "Answer", index: int) -> list[str]:
    lines = []
    for source in answer.sources[index] if answer.sources else ():
        by = "" if source.served_by == source.owner else f", served by {source.served_by}"
        if source.owners:
            by += f": {', '.join(f'{each.owner} {each.weight:.3f}' for each in source.owners)}"
        lines.append(
            f"     {source.weight:.3f}  {source.expert}@{source.version} of {source.owner}{by}"
            + (f", modules {' '.join(d[:8] for d in source.module_digests)}" if source.module_digests else "")
        )
    return [*map(printable, lines)]


def describe_answer(answer: "Answer", top_k: int = 0) -> str:
    """Return an answer for people, row by row. top_k: the asker's, of which the root takes no notice."""
    lines = []
    for index in range(len(answer.probabilities)):
        first, *others = describe_row(answer, index)
        lines += [f"{index}: {first}", *others]
    missing = f"; did not answer: {', '.join(answer.missing_experts)}" if answer.missing_experts else ""
    by = f"{answer.combination}, " if answer.combination else ""
    cost = f"{answer.flops_per_query:.2e} FLOPs a query"
    lines.append(printable(f"gate version {answer.gate_version}, {by}{cost}{missing}"))
    if not answer.calibration:
        lines.append("probabilities are not calibrated: no validation data spoke of this way to answer")
    return "\n".join(lines) + root_hint(top_k, answer.combination)


def root_hint(top_k: int, combination: str) -> str:
    return "\nthe root answers: --top-k does not apply" if top_k and combination == "root" else ""
