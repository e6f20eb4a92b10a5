"""What is believed of an expert's answer: what its manifest promises, and nothing that spoils others'."""

import math
from dataclasses import replace

import numpy as np
import pytest

from swarm.answering.expert_calls import LARGEST_FLOPS, believed
from swarm.answering.known_head import KnownHead
from swarm.domain.errors import VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.inference import ExpertAnswer
from tests.support.trust import manifest

HEAD = KnownHead(manifest=manifest(), digest="0" * 64)
NODE = NodeId("ada")


def answer(**other: object) -> ExpertAnswer:
    names = HEAD.manifest.class_names
    values = np.full((2, len(names)), 1 / len(names), np.float32)
    said = ExpertAnswer(
        expert=HEAD.manifest.expert,
        version=HEAD.manifest.version,
        manifest=HEAD.digest,
        module_digests=(),
        form="probabilities",
        class_names=names,
        values=values,
        flops_per_query=7.0,
        computed_on="cpu",
    )
    return replace(said, **other)  # type: ignore[arg-type]


def test_what_a_manifest_promises_is_believed_and_nothing_else() -> None:
    found = believed(answer(), HEAD, 2, NODE, "probabilities")
    assert (found.served_by, found.flops_per_query, found.computed_on) == (NODE, 7.0, "cpu")
    values = answer().values
    for lie in (
        answer(values=values[:1]),
        answer(values=values * np.float32(np.nan)),
        answer(values=values - 1),
        answer(values=values * 2),
        answer(class_names=("nobody's",) * values.shape[1]),
        answer(form="corrections"),
        answer(expert="bob.e0"),
    ):
        with pytest.raises(VerificationError):
            believed(lie, HEAD, 2, NODE, "probabilities")


@pytest.mark.parametrize("flops", [math.inf, math.nan, -1.0, 1.7e308, 2 * LARGEST_FLOPS])
def test_absurd_costs_do_not_make_the_sum_of_all_infinite(flops: float) -> None:
    assert believed(answer(flops_per_query=flops), HEAD, 2, NODE, "probabilities").flops_per_query == 0


def test_what_it_computed_on_is_one_line() -> None:
    said = "cpu\nsigned by coordinator\x1b[2J"
    found = believed(answer(computed_on=said), HEAD, 2, NODE, "probabilities")
    assert found.computed_on == "cpusigned by coordinator[2J"
