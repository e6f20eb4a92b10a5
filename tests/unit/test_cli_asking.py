"""What `swarm predict`, `eval` and `gate show` say, and what their flags refuse."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from swarm.cli import asking, evaluating
from swarm.cli.app import build
from swarm.cli.asking import describe_answer, describe_profile
from swarm.cli.gate import describe_gate
from swarm.cli.gate_difference import describe_difference, gate_difference
from swarm.cli.output import advised, plain
from swarm.cli.scoring import Scorer
from swarm.client.inputs import as_batch
from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, ShapeMismatchError, SwarmError, UsageError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Profile
from swarm.modules.blobs import BlobFiles
from tests.support.answers import SmallSwarm, gate
from tests.support.learning import make_specification

PROFILE = Profile(
    id=digest_of(b"profile"),
    owners=(NodeId("ada"), NodeId("eve")),
    examples=48,
    accuracy=0.958,
    accuracy_all=0.7,
    gate_version=7,
)


async def test_an_answer_says_what_combined_it_and_the_root_among_its_sources() -> None:
    swarm = SmallSwarm(gate("corrected"))
    text = describe_answer(await swarm.ask("a", top_k=1))
    assert "gate version 7, corrected top-1," in text
    root, expert = [line for line in text.splitlines() if line.startswith("     ")]
    assert root.endswith("coordinator.e0@7 of coordinator: ada 1.000")
    assert "ada.e0@1 of ada, modules " in expert


async def test_top_k_is_told_to_mean_nothing_to_the_root() -> None:
    by_root, by_gate = [await SmallSwarm(gate(name)).ask("a") for name in ("root", "gate")]
    hint = "the root answers: --top-k does not apply"
    assert describe_answer(by_root, top_k=2).splitlines()[-1] == hint
    assert hint not in describe_answer(by_root) and hint not in describe_answer(by_gate, top_k=2)


def test_a_profile_is_one_line_that_names_who_agrees() -> None:
    text = describe_profile(PROFILE)
    assert text.startswith(
        "ada, eve agree with your 48 examples: 0.958 of them right, 0.700 by the sums of all"
    )
    assert "\n" not in text
    assert describe_profile(replace(PROFILE, owners=PROFILE.owners[:1])).startswith("ada agrees with")


def test_a_gate_shows_every_combination_with_its_figures_and_which_is_served_and_why() -> None:
    evidence = {"accuracy_root": 0.905, "accuracy_gate_top2": 0.893, "z_gate_top2": -2.5, "judges": 4.0}
    value = replace(gate("root").value, evidence=evidence, reason="serves root: 905 of 1000 right")
    lines = describe_gate(value).splitlines()
    assert lines[0] == "gate version 7 (analytic, ridge 1) serves root: serves root: 905 of 1000 right"
    assert lines[1] == "judged: judges 4"
    by_label = {line[1:18].strip(): line for line in lines}
    assert by_label["root"].startswith("*") and "0.9050" in by_label["root"]
    assert "0.8930" in by_label["gate top-2"] and "-2.50" in by_label["gate top-2"]
    assert " - " in by_label["poe top-2"]
    assert any("eve.l0" in line and " no " in line for line in lines)


def test_a_gate_says_why_nobody_judged_it() -> None:
    back = replace(gate("root").value, reason="rollback to gate 1")
    lines = describe_gate(back).splitlines()
    assert lines[0].endswith("rollback to gate 1")
    assert lines[1] == "not judged: activated without a trial, for the reason above"
    lonely = replace(back, evidence={"judges": 0.0, "asked": 2.0, "heard": 2.0})
    assert describe_gate(lonely).splitlines()[1] == (
        "not judged: nobody had validation data (asked 2, heard 2, judges 0)"
    )


def test_a_gate_without_sums_shows_no_ridge() -> None:
    assert "(prototypes) serves prototypes top-1" in describe_gate(gate("prototypes", sums=False).value)


def test_a_score_says_what_answered_and_what_a_query_cost() -> None:
    scorer = Scorer(("a", "b"))
    for combination, flops in (("root", 100.0), ("root", 300.0)):
        answer = Answer(
            class_names=("a", "b"),
            probabilities=np.array([[0.9, 0.1]], np.float32),
            gate_version=2,
            degraded=(False,),
            flops_per_query=flops,
            combination=combination,
        )
        scorer.add(answer, np.array([0]))
    score = scorer.score()
    assert (score.combination, score.flops_per_query, score.accuracy) == ("root", 200.0, 1.0)


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_an_unknown_combination_is_refused_with_those_there_are(command: str) -> None:
    done = CliRunner().invoke(build(), [command, "x.npy", "--combination", "sum"])
    assert done.exit_code == 2
    assert "'sum' is none of prototypes, root, gate, poe, corrected" in " ".join(
        done.output.replace("│", " ").split()
    )


@pytest.mark.parametrize(
    "beside", [["--top-k", "2"], ["--owner", "ada"], ["--combination", "root"], ["--uniform"]]
)
def test_examples_stand_alone(beside: list[str]) -> None:
    app = typer.Typer()
    asking.register(app)
    evaluating.register(app)
    done = CliRunner().invoke(app, ["predict", "x.npy", "--examples", "mine.npz", *beside])
    assert isinstance(done.exception, UsageError) and beside[0] in done.exception.found


async def test_an_owner_who_is_not_in_the_gate_is_refused_with_where_to_look() -> None:
    asked = SmallSwarm(gate("gate"))
    with pytest.raises(NotFoundError, match="owner nobody") as caught, advised("owner", asking.WHO_ANSWERS):
        await asked.ask("a", owners=(NodeId("nobody"),))
    assert "swarm gate show" in caught.value.remedy


@pytest.mark.parametrize(
    ("dtype", "value", "error", "said"),
    [
        ("uint8", 1e38, ShapeMismatchError, "no uint8"),
        ("uint8", -1.0, ShapeMismatchError, "no uint8"),
        ("float32", 1e300, InvalidInputError, "float32 cannot hold"),
        ("float32", np.inf, InvalidInputError, "NaN or infinite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_without_a_warning(
    tmp_path: Path, dtype: str, value: float, error: type[SwarmError], said: str
) -> None:
    specification = make_specification(
        BlobFiles(tmp_path), shape=(4,), trunk="identity", input_dtype=dtype, scale=1.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=said) as caught:
            as_batch(np.full((1, 4), value), specification)
        assert caught.value.remedy
        assert as_batch(np.full((1, 4), 7.0), specification).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "found", "remedy"),
    [
        ((3, 6), r"shape \[3, 6\]", "crop or scale"),
        ((3, 2, 4), r"shape \[3, 2, 4\]", "inputs.reshape(-1, 2, 2)"),
        ((3, 4), r"shape \[3, 4\]", "inputs.reshape(-1, 2, 2)"),
        ((0, 4), r"shape \[0, 4\]", "crop or scale"),
        ((0, 2, 2), "0 rows", "with inputs in it"),
    ],
)
def test_inputs_of_another_shape_or_none_are_refused_with_what_to_do(
    tmp_path: Path, shape: tuple[int, ...], found: str, remedy: str
) -> None:
    specification = make_specification(BlobFiles(tmp_path), shape=(2, 2), trunk="identity", scale=1.0)
    with pytest.raises(InvalidInputError, match=found) as caught:
        as_batch(np.zeros(shape, np.uint8), specification)
    assert remedy in caught.value.remedy


def test_the_remedy_for_scaled_inputs_brings_the_raw_ones_back(tmp_path: Path) -> None:
    specification = make_specification(
        BlobFiles(tmp_path), shape=(4,), trunk="identity", input_dtype="uint8", scale=0.0625
    )
    raw = np.array([[0, 3, 15, 16]], np.uint8)
    inputs = (raw * specification.scale + specification.offset).astype(np.float32)
    with pytest.raises(ShapeMismatchError) as caught:
        as_batch(inputs, specification)
    _, _, code = caught.value.remedy.partition("scaled so: ")
    assert np.array_equal(eval(code, {"numpy": np, "inputs": inputs}), raw)


def test_a_rollback_says_whose_leaves_go_come_back_and_stay_away() -> None:
    value = gate("root").value
    by_owner = {leaf.owner: leaf for leaf in value.leaves}

    def having(*owners: str) -> GateStatement:
        return replace(value, leaves=tuple(by_owner[NodeId(owner)] for owner in owners))

    found = gate_difference(having("bob", "dan"), having("ada", "bob", "eve"), having("ada", "bob"))
    assert describe_difference(found).splitlines() == [
        "goes: dan.l0 (dan.e0) of dan",
        "comes back: ada.l0 (ada.e0) of ada",
        "left out, for it left or was withdrawn since: eve.l0 (eve.e0) of eve",
    ]
    told = plain(found)
    assert {name: [leaf["expert"] for leaf in leaves] for name, leaves in told.items()} == {
        "goes": ["dan.e0"],
        "comes_back": ["ada.e0"],
        "left_out": ["eve.e0"],
    }
    same = gate_difference(having("ada"), having("ada"), having("ada"))
    assert describe_difference(same) == "the same leaves as before"
