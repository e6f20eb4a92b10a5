"""`swarm eval`: how well the swarm answers on test samples, and whether it is as sure as it is right."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.asking import (
    WHO_ANSWERS,
    CombinationOption,
    ExamplesOption,
    TopK,
    check_examples_alone,
    describe_profiled,
    make_profile,
    open_gate,
    profile_facts,
    root_hint,
)
from swarm.cli.options import Home, ImportPath, Json, import_paths, resolved_source
from swarm.cli.output import advised, emit, progress, run_async, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from swarm.cli.scoring import Score
    from swarm.data.dataset import Dataset
    from swarm.domain.gates import GateStatement
    from swarm.domain.ids import NodeId
    from swarm.domain.inference import Answer
    from swarm.rpc.clients import CoordinatorClient

BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How all queries of an evaluation are to be answered; as it is made: as the gate serves."""

    top_k: int = 0
    owners: "tuple[NodeId, ...]" = ()
    uniform: bool = False
    combination: str = ""
    profile: str = ""


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    data: Annotated[str, typer.Argument(help="A data source with test samples; their labels stay here.")],
    top_k: TopK = 0,
    owner: Annotated[list[str] | None, typer.Option(help="Ask these owners' experts only.")] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="Average all experts instead of asking the gate.")
    ] = False,
    combination: CombinationOption = "",
    examples: ExamplesOption = "",
    import_path: ImportPath = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Score the swarm's answers on a source's test samples, over all and for each class."""
    from swarm.cli.places import coordinator, find_place
    from swarm.cli.settings import load_settings
    from swarm.client.inputs import as_batch
    from swarm.data.sources import load_test
    from swarm.domain.ids import node_id
    from swarm.domain.specification import Specification

    check_examples_alone(examples, top_k, owner, uniform, combination)
    place = find_place(home)
    test = load_test(resolved_source(data), import_paths(import_path))
    timeout_s = load_settings(place.root).timeout_s
    how = How(
        top_k=top_k,
        owners=tuple(node_id(name) for name in owner or []),
        uniform=uniform,
        combination=combination,
    )

    async def work() -> None:
        async with coordinator(place) as client:
            envelope = await client.specification()
            specification = place.identity().keyring().open(envelope, Specification).value
            inputs = as_batch(test.inputs, specification)
            profile = await make_profile(client, examples, specification) if examples else None
            asked = replace(how, profile=profile.id) if profile else how
            score, answer = await scored(client, inputs, test, asked, timeout_s)
            gate = await open_gate(client, place)
            root = None
            if how == How() and not profile and score.combination != "root" and has_root(gate):
                root, _ = await scored(client, inputs, test, How(combination="root"), timeout_s)
        rows = [(name, count, f"{accuracy:.3f}") for name, count, accuracy in score.by_class]
        text = (
            f"test accuracy {score.accuracy:.4f} ± {score.standard_error:.4f} on {score.queries} queries,"
            f" gate version {score.gate_version}, {score.combination}, {score.degraded} degraded\n"
            f"{describe_calibration(score, root)}\n"
            + table(("class", "queries", "accuracy"), rows)
            + root_hint(top_k, score.combination)
        )
        loss = score.nll if math.isfinite(score.nll) else None
        by_class = [{"name": n, "queries": c, "accuracy": a} for n, c, a in score.by_class]
        facts = {"data": data, "split": "test", "accuracy": score.accuracy, "queries": score.queries}
        facts |= {"standard_error": score.standard_error, "nll": loss, "classes": by_class}
        facts |= {"gate_version": score.gate_version, "degraded": score.degraded}
        facts |= {"combination": score.combination, "flops_per_query": score.flops_per_query}
        facts |= {"calibration_error": score.calibration_error, "calibration": score.calibration}
        if root is not None:
            facts["root"] = {
                "accuracy": root.accuracy,
                "calibration_error": root.calibration_error,
                "calibration": root.calibration,
            }
        if profile:
            facts |= profile_facts(profile, answer, gate)
            text = f"{describe_profiled(profile, answer, gate)}\n{text}"
        emit("evaluation", facts, as_json=json, text=text)

    run_async(work())


async def scored(
    client: "CoordinatorClient", inputs: "NDArray[np.generic]", test: "Dataset", how: How, timeout_s: float
) -> "tuple[Score, Answer]":
    """Return how the swarm does on all test samples, asked in batches, and the last batch's answer."""
    from swarm.cli.scoring import Scorer
    from swarm.domain.inference import Query

    scorer = Scorer(test.class_names)
    for start in range(0, len(test), BATCH):
        query = Query(
            inputs=inputs[start : start + BATCH],
            top_k=how.top_k,
            owners=how.owners,
            uniform=how.uniform,
            combination=how.combination,
            profile=how.profile,
        )
        with advised("owner", WHO_ANSWERS):
            answer = await client.predict(query, timeout_s)
        scorer.add(answer, test.labels[start : start + BATCH])
        progress(f"{min(start + BATCH, len(test))} of {len(test)} answered")
    return scorer.score(), answer


def has_root(gate: "GateStatement") -> bool:
    return any(each.name == "root" for each in gate.combinations)


def describe_calibration(score: "Score", root: "Score | None") -> str:
    """Return in one line by how much confidence and accuracy differ, of the swarm and, apart, of its root."""
    by = f"temperature {score.calibration:.2f}" if score.calibration else "not calibrated"
    line = f"expected calibration error {score.calibration_error:.4f} (15 bins of equal mass; {by})"
    return line if root is None else f"{line}, root {root.calibration_error:.4f}"
