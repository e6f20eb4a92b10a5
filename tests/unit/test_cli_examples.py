"""What `--examples` says of an asker's profile, and of examples that are none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swarm.answering.query_checks import check_examples
from swarm.cli.asking import describe_profile, describe_profiled, load_examples, make_profile, profile_facts
from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Examples, Profile
from swarm.modules.blobs import BlobFiles
from tests.support.answers import SmallSwarm, gate
from tests.support.learning import make_specification

PROFILE = Profile(
    id=digest_of(b"profile"),
    owners=(NodeId("ada"), NodeId("dan")),
    examples=48,
    accuracy=0.958,
    accuracy_all=0.7,
    gate_version=7,
)


def test_a_profile_of_all_owners_says_that_nobody_is_left_out() -> None:
    text = describe_profile(PROFILE, {*PROFILE.owners})
    assert text.startswith("no owners agree with your 48 examples clearly better than all 2 together: 0.958")
    assert describe_profile(PROFILE, {*PROFILE.owners, NodeId("bob")}).startswith("ada, dan agree with")


async def test_classes_that_a_profile_does_not_know_are_named() -> None:
    small = SmallSwarm(gate("root"))
    value, answer = small.active.value, await small.ask("a")
    assert "\n" not in describe_profiled(PROFILE, answer, value)
    fewer = replace(answer, class_names=("a", "c"), probabilities=answer.probabilities[:, [0, 2]])
    lines = describe_profiled(PROFILE, fewer, value).splitlines()
    assert lines[1:] == ["never answered, since these owners do not know them: b, d"]
    assert profile_facts(PROFILE, fewer, value)["unknown_classes"] == ("b", "d")


def test_examples_of_one_class_are_refused_with_what_examples_are_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32), y=np.array(["oak"] * 3))
    with pytest.raises(InvalidInputError, match=r"examples .*'oak'.*class that you will ask about") as caught:
        load_examples(str(path))
    assert "an expert" not in str(caught.value)


def test_other_faults_of_examples_keep_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32), y=np.array(["oak", "elm"]))
    with pytest.raises(InvalidInputError, match="3 inputs but 2 labels"):
        load_examples(str(path))


async def test_labels_that_the_swarm_does_not_know_are_refused_with_where_its_classes_are(
    tmp_path: Path,
) -> None:
    specification = make_specification(BlobFiles(tmp_path), shape=(4,), trunk="identity", scale=1.0)

    class Coordinator:
        async def make_profile(self, examples: Examples) -> None:
            check_examples(examples, specification, gate("root").value)

    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((3, 4), specification.input_dtype), y=np.array(["oak", "elm", "oak"]))
    with pytest.raises(InvalidInputError, match=r"labels of the examples: found unknown class") as caught:
        await make_profile(Coordinator(), str(path), specification)  # type: ignore[arg-type]
    assert "swarm gate show" in caught.value.remedy
