"""A saved answer is computed again from its digests: the same to the bit, or what differs is said."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from swarm.cli.app import build
from swarm.cli.replaying import NOT_THE_SAME
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError, NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.domain.replay import GivenAnswer
from swarm.trust.codec import canonical_json
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement, sign_statement
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.trained_pair import train_pair
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, whole_swarm

IMAGES, LABELS = digits_like(40, 4, seed=77)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    """rose knows 0 and 1, tulip 2 and 3; both are trained, and inputs lie in x.npy."""
    folder = tmp_path_factory.mktemp("again")
    np.save(folder / "x.npy", IMAGES[:21])
    with whole_swarm(folder) as running:
        asyncio.run(train_pair(running, folder))
        yield running


def command(swarm: WholeSwarm, *words: str) -> tuple[int, dict[str, Any], Exception | None]:
    done = CliRunner().invoke(build(), [*words, "--json", "--home", str(swarm.home.root)])
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    error = done.exception if isinstance(done.exception, SwarmError) else None
    return done.exit_code, json.loads(lines[-1]) if lines else {}, error


def saved(swarm: WholeSwarm, tmp_path: Path, *words: str) -> Path:
    file = tmp_path / "answer.json"
    code, _, error = command(swarm, "predict", str(swarm.folder / "x.npy"), *words, "--save", str(file))
    assert code == 0, error
    return file


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--combination", "gate", "--top-k", "2"),
        ("--combination", "poe"),
        ("--combination", "prototypes", "--top-k", "1", "--min-confidence", "0.9"),
        ("--owner", "tulip"),
        ("--uniform",),
    ],
    ids=" ".join,
)
def test_a_saved_answer_is_the_same_to_the_bit_when_it_is_computed_again(
    swarm: WholeSwarm, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = saved(swarm, tmp_path, *words)
    document = json.loads(file.read_text())
    gate = document["record"]["gate"]
    assert len(gate) == 64 and document["inputs"]["path"] == str((swarm.folder / "x.npy").resolve())
    code, found, error = command(swarm, "replay", str(file))
    assert (code, found["verdict"], found["differences"]) == (0, "same", []), (found, error)
    assert (found["signed_by"], found["not_as_signed"]) == ("coordinator", [])
    # The command called its request by a name of its own, and that was signed.
    assert found["signed_for"] == document["query"]["request_id"] and len(found["signed_for"]) == 32


OWN_NET = """
import torch

def factory(input_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
"""


async def test_what_else_is_asked_beside_a_query_changes_no_bit_of_a_replayable_answer(
    swarm: WholeSwarm,
) -> None:
    async with swarm.coordinator() as client:

        async def answer(rows: slice, replayable: bool = True) -> Answer:
            query = Query(inputs=IMAGES[rows], combination="gate", top_k=2, replayable=replayable)
            return await client.predict(query)

        whole = await answer(slice(0, 40))
        parts = [slice(0, 1), slice(1, 4), slice(4, 23), slice(23, 40)]
        beside = [slice(start, start + 7) for start in range(0, 28, 7)]
        found = await asyncio.gather(
            *(answer(part) for part in parts), *(answer(part, replayable=False) for part in beside)
        )
    again = np.concatenate([each.probabilities for each in found[: len(parts)]])
    assert np.array_equal(again.view(np.int32), whole.probabilities.view(np.int32))
    for part, plain in zip(beside, found[len(parts) :], strict=True):
        assert plain.record is None
        assert np.allclose(plain.probabilities, whole.probabilities[part], atol=1e-4)


def test_a_figure_that_was_changed_is_found_and_named(swarm: WholeSwarm, tmp_path: Path) -> None:
    file = saved(swarm, tmp_path, "--combination", "gate")
    document = json.loads(file.read_text())
    row = document["answer"]["probabilities"][3]
    row[0] = float(np.nextafter(np.float32(row[0]), np.float32(1)))
    file.write_text(json.dumps(document))
    code, found, _ = command(swarm, "replay", str(file))
    assert (code, found["verdict"]) == (NOT_THE_SAME, "different")
    assert len(found["differences"]) == 1
    assert found["differences"][0].startswith("probabilities: 1 of 21 rows differ, by at most ")
    assert found["differences"][0].endswith("(row 3)")
    assert found["not_as_signed"] == ["figures"]


@pytest.mark.parametrize("words", [(), ("--combination", "gate", "--top-k", "2"), ("--combination", "poe")])
def test_who_a_file_says_has_answered_is_who_answered(
    swarm: WholeSwarm, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = saved(swarm, tmp_path, *words, "--explain")
    whole = file.read_text()
    for path, value, said in (
        (("sources", 2, -1, "owner"), "eve", "sources: others in rows 2"),
        (("sources", 2, -1, "expert"), "eve.e0", "sources: others in rows 2"),
        (("sources", 2, -1, "served_by"), "eve", "sources: others in rows 2"),
        (("sources", 2, -1, "weight"), 0.123, "sources: others in rows 2"),
        (("sources", 2), [], "sources: others in rows 2"),
        (("gate_version",), 7, "gate_version: other than the gate's"),
        (("combination",), "corrected top-9", "combination: other than the gate's"),
        (("calibration",), 0.5, "calibration: other than the gate's"),
    ):
        document = json.loads(whole)
        place = document["answer"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        file.write_text(json.dumps(document))
        code, found, error = command(swarm, "replay", str(file))
        assert (code, found["verdict"], found["differences"]) == (NOT_THE_SAME, "different", [said]), error


def test_a_file_that_lacks_something_is_refused_by_the_field(swarm: WholeSwarm, tmp_path: Path) -> None:
    file = saved(swarm, tmp_path, "--combination", "gate")
    whole = file.read_text()
    paths: list[tuple[str | int, ...]] = [("inputs",), ("query",), ("record",), ("answer",)]
    paths += [("answer", name) for name in json.loads(whole)["answer"]]
    paths += [("query", "owners"), ("query", "min_confidence"), ("record", "gate_version")]
    paths += [("answer", "probabilities", 0), ("answer", "confidence", 0), ("answer", "degraded", 0)]
    for path in paths:
        for value in ("x", ...):
            document: Any = json.loads(whole)
            place = document
            for key in path[:-1]:
                place = place[key]
            if value is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            file.write_text(json.dumps(document))
            done = CliRunner().invoke(build(), ["replay", str(file), "--home", str(swarm.home.root)])
            named = isinstance(done.exception, SystemExit | SwarmError)
            assert done.exit_code == 0 or named, (path, value, done.exception)


def test_a_saved_answer_says_who_gave_it_and_what_of_it_is_not_as_they_signed(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    file = saved(swarm, tmp_path, "--owner", "tulip")
    whole = file.read_text()
    for name, change in (
        ("inputs", lambda it: it["inputs"].update(path="elsewhere")),
        ("query", lambda it: it["query"].update(min_confidence=1e-9)),
        ("record", lambda it: it["record"].update(computed_on="cpu of somebody")),
        ("figures", lambda it: it["answer"]["degraded"].__setitem__(0, True)),
        ("route", lambda it: it["answer"]["sources"][0][0].update(expert="rose.e9", served_by="rose")),
        ("route", lambda it: it["answer"].update(gate_version=99)),
        ("route", lambda it: it["answer"].update(calibration=0.125)),
        ("route", lambda it: it["answer"].update(missing_experts=["rose.e9"])),
    ):
        document = json.loads(whole)
        change(document)
        file.write_text(json.dumps(document))
        code, found, error = command(swarm, "replay", str(file), "--input", str(swarm.folder / "x.npy"))
        # Where the inputs lie is nobody's to sign.
        assert found["not_as_signed"] == ([name] if name != "inputs" else []), error
        assert code == (NOT_THE_SAME if name != "inputs" else 0)
    document = json.loads(whole)
    del document["signed"]
    file.write_text(json.dumps(document))
    code, found, _ = command(swarm, "replay", str(file))
    assert (code, found["verdict"], found["signed_by"]) == (0, "same", "")
    document = json.loads(whole)
    document["signed"]["signatures"][0]["sig"] = "A" * 86 + "=="
    file.write_text(json.dumps(document))
    error = command(swarm, "replay", str(file))[2]
    assert isinstance(error, VerificationError) and "answer of coordinator" in str(error)


def test_bits_that_another_type_of_device_changed_are_close_and_not_the_same(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    file = saved(swarm, tmp_path, "--combination", "gate")
    document = json.loads(file.read_text())
    document["record"]["computed_on"] = "cuda Imagined | torch 2.13.0"
    document["answer"]["probabilities"][3][0] += 1e-6
    file.write_text(json.dumps(document))
    code, found, _ = command(swarm, "replay", str(file))
    assert (code, found["verdict"], found["tolerance"]) == (NOT_THE_SAME, "close", 1e-4)
    assert "cuda Imagined | torch 2.13.0" in found["answered_on"]
    document["answer"]["probabilities"][3][0] += 1e-2
    file.write_text(json.dumps(document))
    assert command(swarm, "replay", str(file))[1]["verdict"] == "different"


def test_other_inputs_versions_that_are_gone_and_other_files_are_refused_by_name(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    file = saved(swarm, tmp_path, "--combination", "gate")
    np.save(tmp_path / "other.npy", IMAGES[1:22])
    code, _, error = command(swarm, "replay", str(file), "--input", str(tmp_path / "other.npy"))
    assert code != 0 and isinstance(error, VerificationError) and "--input FILE" in error.remedy
    document = json.loads(file.read_text())
    whole = json.dumps(document)
    document["record"]["gate_version"] = 77
    file.write_text(json.dumps(document))
    assert isinstance(command(swarm, "replay", str(file))[2], NotFoundError)
    document = json.loads(whole)
    document["record"]["gate"] = "0" * 64
    file.write_text(json.dumps(document))
    error = command(swarm, "replay", str(file))[2]
    assert isinstance(error, VerificationError) and "which answered" in error.expected
    document = json.loads(whole)
    document["record"]["heads"][0] = "0" * 64
    file.write_text(json.dumps(document))
    assert isinstance(command(swarm, "replay", str(file))[2], NotFoundError)
    for rows in ([], [-1], [10**9], [10**30]):
        document = json.loads(whole)
        document["record"]["said"][0]["rows"] = rows
        file.write_text(json.dumps(document))
        assert isinstance(command(swarm, "replay", str(file))[2], VerificationError), rows
    document = json.loads(whole)
    document["record"]["heads"] *= 2
    file.write_text(json.dumps(document))
    error = command(swarm, "replay", str(file))[2]
    assert isinstance(error, VerificationError) and "heads" in error.subject
    file.write_text("{}")
    assert isinstance(command(swarm, "replay", str(file))[2], InvalidInputError)
    for part, name, value in (
        ("record", "gate_version", 10**30),
        ("answer", "labels", None),
        ("answer", "labels", ["1"]),
        ("answer", "probabilities", "x"),
        ("answer", "probabilities", [[1.0], [0.5, 0.5]]),
        ("answer", "sources", [1]),
        ("query", "owners", 3),
        ("inputs", "path", None),
    ):
        document = json.loads(whole)
        document[part][name] = value
        file.write_text(json.dumps(document))
        error = command(swarm, "replay", str(file))[2]
        assert isinstance(error, InvalidInputError), (part, name, error)
    assert isinstance(command(swarm, "replay", str(tmp_path / "none.json"))[2], NotFoundError)


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (lambda record: record["combination"].update(calibration=60.0), "combination gate top-1"),
        (lambda record: record["combination"].update(temperature=1e6), "combination gate top-1"),
        (lambda record: record.update(falls_back=not record["falls_back"]), "combination gate top-1"),
        (lambda record: record.update(evenly=True), "combination uniform"),
        (lambda record: record["heads"].reverse(), "leaf "),
        (lambda record: [each.update(leaf=1 - each["leaf"]) for each in record["said"]], "leaf "),
        (lambda record: [each.update(speaker=9) for each in record["said"]], "rows for leaf "),
    ],
    ids=["calibration", "temperature", "falls back", "evenly", "heads", "speaker", "no speaker"],
)
def test_what_its_gate_would_not_answer_is_refused_however_it_was_computed(
    swarm: WholeSwarm, tmp_path: Path, lie: Callable[[dict[str, Any]], object], named: str
) -> None:
    """Whoever forges a record can compute the figures that go with it, and a member can sign them."""
    file = saved(swarm, tmp_path, "--combination", "gate", "--top-k", "1")
    document = json.loads(file.read_text())
    assert len(document["record"]["heads"]) == 2, "a leaf of each owner"
    lie(document["record"])
    file.write_text(json.dumps(document))
    code, _, error = command(swarm, "replay", str(file))
    assert code and isinstance(error, VerificationError)
    assert error.subject.startswith(named)


def test_an_answer_of_somebodys_own_net_is_computed_again_where_its_code_is(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    """Near the last: there is one more in the gate then."""
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "own_meadow.py").write_text(OWN_NET)

    async def train() -> None:
        home = swarm.joined("daisy")
        swarm.agent(home)
        data = write_digits(tmp_path / "daisy.npz", count=300, seed=5, only=(1, 2))
        order = TrainOrder(
            data=str(data), net="own_meadow:factory", steps=50, borrow=False, import_paths=(str(lab),)
        )
        async with agent_of(home) as client:
            await carried_out(client, order)

    asyncio.run(train())
    file = saved(swarm, tmp_path, "--owner", "daisy")
    assert json.loads(file.read_text())["record"]["said"], "the expert answered"
    code, found, error = command(swarm, "replay", str(file))
    assert isinstance(error, NotFoundError), (code, found)
    assert "own_meadow" in str(error) and "--import-path" in error.remedy
    code, found, error = command(swarm, "replay", str(file), "--import-path", str(lab))
    assert (code, found["verdict"]) == (0, "same"), error


def test_an_answer_signed_by_a_revoked_member_is_vouched_for_by_nobody_and_others_stay_the_same(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    """After the last: somebody is gone then."""
    file = saved(swarm, tmp_path, "--combination", "root")
    before = file.read_text()

    async def revoke() -> None:
        async with swarm.coordinator() as client:
            await client.revoke_node(NodeId("daisy"), "a test")

    document = json.loads(before)
    given = read_statement(canonical_json(document["signed"]), GivenAnswer).value
    daisy = Identity.load(NodeHome(swarm.folder / "daisy").identity)
    forged = sign_statement(replace(given, given_by=NodeId("daisy")), daisy.signer)
    document["signed"] = json.loads(forged)
    file.write_text(json.dumps(document))
    assert command(swarm, "replay", str(file))[1]["signed_by"] == "daisy"
    asyncio.run(revoke())
    error = command(swarm, "replay", str(file))[2]
    assert isinstance(error, VerificationError) and "revoked" in error.found
    file.write_text(before)
    code, found, error = command(swarm, "replay", str(file))
    assert (code, found["signed_by"]) == (0, "coordinator"), error
