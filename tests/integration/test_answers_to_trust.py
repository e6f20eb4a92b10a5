"""How sure an answer is, how far out its input lies, and when nobody knows: over a real swarm."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from tests.support.coordinator import SIZE, SmallNode, back_end, refusal, samples

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SmallNode]:
    """ada of a and b, beside bob of c and d, in a gate with sums that both judged."""
    async with back_end(tmp_path_factory.mktemp("trust")) as running:
        nodes = [
            await running.node(name, classes, sums="exact", corrects=True)
            for name, classes in (("ada", "ab"), ("bob", "cd"))
        ]
        for node in nodes:
            await node.train()
        yield nodes[0]


async def asked(node: SmallNode, inputs: np.ndarray, **how: object) -> Answer:
    return await node.coordinator.predict(Query(inputs=inputs, **how))  # type: ignore[arg-type]


async def test_a_judged_gate_answers_with_the_temperature_that_its_judges_validation_data_chose(
    ada: SmallNode,
) -> None:
    gate = (await ada.verified.gate()).value
    assert all(each.calibration > 0 for each in gate.combinations)
    answer = await asked(ada, samples("a", 3, 1))
    assert answer.calibration == gate.combination().calibration
    assert np.array_equal(answer.confidence, answer.probabilities.max(axis=1))
    other = await asked(ada, samples("a", 3, 1), combination="gate", top_k=2)
    assert other.calibration == gate.combination("gate", 2).calibration
    root = await asked(ada, samples("a", 3, 1), combination="root")
    of_no_expert = await asked(ada, samples("a", 3, 1), combination="root", top_k=3)
    assert of_no_expert.calibration == root.calibration > 0, "no expert answers, so their number says nothing"
    assert np.array_equal(of_no_expert.probabilities, root.probabilities)


async def test_what_no_validation_data_spoke_of_is_not_called_calibrated(ada: SmallNode) -> None:
    for how in ({"uniform": True}, {"owners": (NodeId("bob"),)}, {"combination": "gate", "top_k": 3}):
        assert (await asked(ada, samples("a", 1, 1), **how)).calibration == 0


async def test_training_data_lie_within_reach_and_what_nobody_has_seen_far_beyond(ada: SmallNode) -> None:
    known = np.concatenate([samples(name, 40, 3) for name in "abcd"])
    inside = await asked(ada, known)
    assert inside.out_of_distribution is not None
    assert (inside.out_of_distribution <= 1).mean() > 0.9
    strange = await asked(ada, np.full((2, SIZE), 60, np.float32))
    assert strange.out_of_distribution is not None and (strange.out_of_distribution > 5).all()
    uniform = await asked(ada, known[:2], uniform=True)
    assert uniform.out_of_distribution is None


async def test_rows_below_the_confidence_asked_for_are_unknown_and_the_others_as_before(
    ada: SmallNode,
) -> None:
    midway = (samples("a", 1, 5) + samples("c", 1, 5)) / 2
    inputs = np.concatenate([samples("a", 4, 4), midway])
    plain = await asked(ada, inputs)
    assert plain.unknown == (False,) * 5 and "" not in plain.labels
    least = float((plain.confidence[4] + plain.confidence[:4].min()) / 2)
    assert plain.confidence[4] < least
    answer = await asked(ada, inputs, min_confidence=least, explain=True)
    assert answer.unknown == (False,) * 4 + (True,)
    assert answer.labels == (*plain.labels[:4], "")
    assert np.array_equal(answer.probabilities[:4], plain.probabilities[:4])
    assert not answer.probabilities[4].any()
    assert np.array_equal(answer.confidence, plain.confidence)
    assert answer.sources[4], "who was asked is said of unknown rows, too"


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
async def test_a_confidence_that_cannot_be_is_refused_by_name(ada: SmallNode, least: float) -> None:
    error = await refusal(asked(ada, samples("a", 1, 1), min_confidence=least))
    assert isinstance(error, InvalidInputError) and "min_confidence" in str(error)
