"""A node's own numbers: missing, negative, absurd or not finite ones are refused by its name."""

import base64
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from swarm.domain.errors import InvalidInputError
from swarm.federation import averaging, evaluation, kmeans, sums
from swarm.federation.averaging import BoundedFedAvg
from swarm.federation.messages import array_record, decode_message, encode_message, named_arrays
from swarm.federation.own_samples import OwnSamples
from swarm.federation.packing import pack_named
from swarm.federation.rounds import (
    MOST_SAMPLES,
    Answer,
    RunLimits,
    check_counts,
    checked_count,
    checked_number,
    clipped_counts,
)
from swarm.federation.stream_grid import StreamGrid, node_number
from swarm.federation.task_identity import take_task_identity
from tests.support.federation import LocalWire, dishonest_run, three_nodes

Change = Callable[[dict[str, Any]], object]


def answer(**metrics: Any) -> Answer:
    return Answer(node="rose", arrays={}, metrics=metrics, config={})


@pytest.mark.parametrize("wrong", [None, -1, 11, 10**15, 10**400, 2.0, float("nan"), True, [3], "3"])
def test_a_count_that_cannot_be_is_refused_by_the_nodes_name(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"correct of node rose.*from 0 to 10"):
        checked_count(answer(**({} if wrong is None else {"correct": wrong})), "correct", 10)


def test_a_count_within_its_bounds_is_taken() -> None:
    assert checked_count(answer(correct=0), "correct", 10) == 0
    assert checked_count(answer(correct=10), "correct", 10) == 10
    with pytest.raises(InvalidInputError, match="from 1 to 10"):
        checked_count(answer(samples=0), "samples", 10, least=1)


@pytest.mark.parametrize("wrong", [None, -0.1, float("nan"), float("inf"), 1e200, 10**400, True, [1.0]])
def test_a_number_that_cannot_be_is_refused_by_the_nodes_name(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"loss of node rose"):
        checked_number(answer(**({} if wrong is None else {"loss": wrong})), "loss")
    assert checked_number(answer(loss=2), "loss") == 2.0


@pytest.mark.parametrize("wrong", [[-5], [4], [MOST_SAMPLES + 1], [2**62, 2**62], [MOST_SAMPLES, 9]])
def test_counts_that_cannot_be_are_refused_by_the_nodes_name(wrong: Sequence[int]) -> None:
    with pytest.raises(InvalidInputError, match="counts of node rose"):
        check_counts(answer(), "counts", np.array(wrong, dtype=np.int64), 5, or_none=True)
    check_counts(answer(), "counts", np.array([0, 5], dtype=np.int64), 5, or_none=True)
    with pytest.raises(InvalidInputError, match="counts of node rose"):
        check_counts(answer(), "counts", np.array([0, 5], dtype=np.int64), 5)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnSamples]:
    return three_nodes(tmp_path_factory.mktemp("counts"))[1]


def run(
    nodes: dict[str, OwnSamples], apps: ModuleType, app: str, change: Change, *, turn: int, **options: Any
) -> dict[str, float]:
    """Run an app where rose's turn-th answer has other numbers; return the result's figures."""

    def changed(message: Message) -> None:
        metrics: dict[str, Any] = dict(message.content.metric_records["metrics"])
        change(metrics)
        message.content["metrics"] = MetricRecord(metrics)

    return dishonest_run(apps, nodes, app, changed, turns=(turn,), **options)[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda said: said.pop("samples"), "samples"),
        (lambda said: said.update({"samples": 0}), "samples"),
        (lambda said: said.update({"samples": 10**15}), "samples"),
        (lambda said: said.pop("root.2"), "root.2"),
        (lambda said: said.update({"root.2": -1}), "root.2"),
        (lambda said: said.update({"root.2": said["samples"] + 1}), "root.2"),
    ],
)
def test_sums_believe_no_judgement_that_cannot_be(
    nodes: dict[str, OwnSamples], change: Change, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{named} of node rose"):
        run(nodes, sums, "sums", change, turn=2)


@pytest.mark.parametrize("change", [lambda said: said.pop("inertia"), lambda said: said.update(inertia=-1.0)])
def test_regions_believe_no_inertia_that_cannot_be(nodes: dict[str, OwnSamples], change: Change) -> None:
    with pytest.raises(InvalidInputError, match="inertia of node rose"):
        run(nodes, kmeans, "kmeans", change, turn=2, k=2, rounds=2)


EVALUATED: list[tuple[Change, str]] = [
    (lambda said: said.pop("correct"), "correct"),
    (lambda said: said.update({"correct": said["samples"] + 1}), "correct"),
    (lambda said: said.update({"samples": -3}), "samples"),
    (lambda said: said.update({"samples": 10**15}), "samples"),
    (lambda said: said.pop("correct.root"), "correct.root"),
]


@pytest.mark.parametrize(("change", "named"), EVALUATED)
def test_evaluation_believes_no_count_that_cannot_be(
    nodes: dict[str, OwnSamples], change: Change, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{named} of node rose"):
        run(nodes, evaluation, "evaluate", change, turn=1, net="ridge-root", arrays=_root(nodes))


def test_evaluation_sums_what_it_asked_for_and_nothing_else(nodes: dict[str, OwnSamples]) -> None:
    def more(said: dict[str, Any]) -> None:
        said["nodes"] = said["anything"] = 10**6

    figures = run(nodes, evaluation, "evaluate", more, turn=1, net="ridge-root", arrays=_root(nodes))
    assert set(figures) == {"samples", "correct", "correct.root", "nodes", "validation_accuracy"}
    assert figures["nodes"] == 3 and figures["samples"] == sum(
        len(each.validation) for each in nodes.values()
    )


@pytest.mark.parametrize(
    ("turn", "change", "named"),
    [
        (1, lambda said: said.pop("num-examples"), "num-examples"),
        (1, lambda said: said.update({"num-examples": -5}), "num-examples"),
        (1, lambda said: said.update({"num-examples": 10**15}), "num-examples"),
        (1, lambda said: said.update({"loss": -1.0}), "loss"),
        (1, lambda said: said.pop("train-flops"), "train-flops"),
        (2, lambda said: said.pop("accuracy"), "accuracy"),
        (2, lambda said: said.update({"accuracy": 1.5}), "accuracy"),
        (2, lambda said: said.update({"num-examples": 0}), "num-examples"),
    ],
)
def test_averaging_believes_no_number_that_cannot_be(
    nodes: dict[str, OwnSamples], turn: int, change: Change, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{named} of node rose"):
        run(nodes, averaging, "average", change, turn=turn, rounds=1, steps=1, net="mlp:8x1")


def test_a_node_weighs_at_most_four_lower_medians() -> None:
    assert clipped_counts([100, 10**9, 120]) == [100, 480, 120]
    assert clipped_counts([10**9, 50]) == [200, 50]
    assert clipped_counts([30, 40, 100]) == [30, 40, 100] and clipped_counts([]) == []


def _strategy() -> tuple[BoundedFedAvg, Callable[..., Message]]:
    take_task_identity(1)
    names = ("aster", "rose", "tulip")
    grid = StreamGrid(LocalWire(averaging.client_app, dict.fromkeys(names)), "run", 1.0)  # type: ignore[arg-type]
    grid.get_node_ids()
    # From 3.0 all three move by as much, so that weights alone make the average.
    sent = {"w": np.array([3.0])}
    strategy = BoundedFedAvg(grid, RunLimits(min_nodes=1, timeout_s=1.0, patience_s=0.0), 1, sent)

    def reply(node: str, weight: float, **metrics: Any) -> Message:
        request = grid.create_message(RecordDict(), "train", node_number(node), "")
        content = RecordDict({"metrics": MetricRecord(metrics)})
        content["arrays"] = array_record({"w": np.array([weight], dtype=np.float64)})
        return Message(content, reply_to=decode_message(encode_message(request, "m1"), "request"))

    return strategy, reply


def test_a_node_that_claims_very_many_examples_does_not_drown_the_others() -> None:
    strategy, reply = _strategy()
    numbers = {"loss": 1.0, "train-flops": 1.0}
    replies = [
        reply("aster", 0.0, **{"num-examples": 100}, **numbers),
        reply("rose", 6.0, **{"num-examples": MOST_SAMPLES}, **numbers),
        reply("tulip", 0.0, **{"num-examples": 100}, **numbers),
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None and named_arrays(arrays)["w"][0] == pytest.approx(6.0 * 400 / 600)
    judged = [
        reply(node, 0.0, **{"num-examples": count, "accuracy": right, "loss": 1.0})
        for node, count, right in (("aster", 100, 0.5), ("rose", MOST_SAMPLES, 1.0), ("tulip", 100, 0.5))
    ]
    found = strategy.aggregate_evaluate(1, judged)
    assert found is not None and found["accuracy"] == pytest.approx((400 + 50 + 50) / 600)


def test_a_claim_of_10_to_the_15_examples_and_a_loss_that_is_nan_are_refused() -> None:
    strategy, reply = _strategy()
    for wrong in ({"num-examples": 10**15}, {"loss": float("nan")}):
        said = {"num-examples": 100, "loss": 1.0, "train-flops": 1.0} | wrong
        with pytest.raises(InvalidInputError, match=f"{next(iter(wrong))} of node rose"):
            strategy.aggregate_train(1, [reply("rose", 6.0, **said)])


def _root(nodes: dict[str, OwnSamples]) -> str:
    specification = nodes["rose"].specification
    shape = (specification.trunk.sum_size, len(specification.class_names))
    return base64.b64encode(pack_named({"root": np.zeros(shape)}, "root")).decode()
