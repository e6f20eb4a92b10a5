"""What one node's arrays can do to a federated average: refused by its name, or clipped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message

from swarm.domain.errors import InvalidInputError, NotReadyError, ShapeMismatchError
from swarm.experts.samples import Samples
from swarm.experts.shared_net import SharedNet
from swarm.federation import averaging
from swarm.federation.own_samples import OwnSamples
from swarm.federation.rounds import RunLimits, check_enough
from swarm.federation.updates import MOST_MEDIANS, check_like, clipped_updates
from tests.support.federation import change_arrays, dishonest_run, local_run, three_nodes

Arrays = dict[str, np.ndarray]
NET = {"net": "mlp:8x1", "steps": 5}
WEIGHT = "head.weight"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnSamples]:
    return three_nodes(tmp_path_factory.mktemp("updates"))[1]


def averaged(
    nodes: dict[str, OwnSamples], change: Callable[[Arrays], object], **options: Any
) -> tuple[Arrays, dict[str, float]]:
    """Average with rose's arrays changed after every training; its evaluations are left alone."""

    def changed(message: Message) -> None:
        if message.content.array_records:
            change_arrays(message, change)

    return dishonest_run(averaging, nodes, "average", changed, **({"rounds": 1} | NET | options))


def test_arrays_like_the_nets_own_are_taken() -> None:
    own = {"w": np.zeros((2, 3), np.float32), "steps": np.zeros((), np.int64)}
    check_like("weights of node rose", {"w": np.ones((2, 3), np.float32), "steps": np.array(7)}, own)
    check_like("weights", {"w": np.ones((2, 3)), "steps": np.array(6.5)}, own, dtypes=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop(WEIGHT),
        lambda arrays: arrays.update(more=np.zeros(1, np.float32)),
        lambda arrays: arrays.update({WEIGHT: arrays[WEIGHT][:, :1]}),
        lambda arrays: arrays.update({WEIGHT: arrays[WEIGHT][None].repeat(3, axis=0)}),
        lambda arrays: arrays.update({WEIGHT: arrays[WEIGHT].T}),
        lambda arrays: arrays.update({WEIGHT: arrays[WEIGHT].astype(np.float64)}),
    ],
    ids=["missing", "unknown", "broadcasts", "third dimension", "transposed", "float64"],
)
def test_arrays_that_are_not_like_the_nets_end_the_run_by_the_nodes_name(
    nodes: dict[str, OwnSamples], change: Callable[[Arrays], object]
) -> None:
    with pytest.raises(ShapeMismatchError, match="weights of node rose"):
        averaged(nodes, change)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_a_number_that_no_weight_can_be_is_refused_by_the_nodes_name(wrong: float) -> None:
    own = {"w": np.zeros(2)}
    with pytest.raises(InvalidInputError, match="weights of node rose: found w with a value"):
        check_like("weights of node rose", {"w": np.array([0.0, wrong])}, own)


def test_a_reply_without_arrays_is_refused_by_the_nodes_name(nodes: dict[str, OwnSamples]) -> None:
    def emptied(message: Message) -> None:
        message.content["arrays"] = ArrayRecord({})

    with pytest.raises(ShapeMismatchError, match="weights of node rose: found no array"):
        dishonest_run(averaging, nodes, "average", emptied, turns=(1,), rounds=1, **NET)


def _distance(one: Arrays, other: Arrays) -> float:
    names = [name for name in one if name != averaging.ROUND_ACCURACIES]
    return float(np.sqrt(sum(np.square(one[name].astype(float) - other[name]).sum() for name in names)))


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update({name: -100 * array for name, array in arrays.items()}),
        lambda arrays: arrays.update({name: np.full_like(array, 3e38) for name, array in arrays.items()}),
    ],
    ids=["times -100", "3e38"],
)
def test_one_nodes_huge_update_moves_the_average_by_a_few_ordinary_updates(
    nodes: dict[str, OwnSamples], change: Callable[[Arrays], object]
) -> None:
    honest, _, _ = local_run(averaging, nodes, "average", rounds=1, seed=3, **NET)
    specification = nodes["rose"].specification
    net = averaging.SharedNet(factory="mlp:8x1", input_shape=specification.input_shape, classes=6)
    ordinary = _distance(net.initial(3), honest)
    found, figures = averaged(nodes, change, seed=3)
    assert _distance(found, honest) < 2 * MOST_MEDIANS * ordinary
    assert 0 <= figures["validation_accuracy"] <= 1


def test_an_update_is_clipped_to_some_lower_medians_and_others_stay_to_the_bit() -> None:
    sent = {"w": np.zeros(2, np.float32), "b": np.ones(1, np.float32)}
    honest = [{"w": np.array([size, 0], np.float32), "b": sent["b"]} for size in (1.0, 2.0, MOST_MEDIANS)]
    liar = {"w": np.array([0, 3e38], np.float32), "b": np.array([-100], np.float32)}
    clipped, touched = clipped_updates(sent, [*honest, liar])
    assert touched == [False, False, False, True]
    assert all(np.array_equal(one["w"], other["w"]) for one, other in zip(clipped, honest, strict=False))
    assert np.hypot(clipped[3]["w"][1], clipped[3]["b"][0] - 1) == pytest.approx(2 * MOST_MEDIANS)
    assert clipped[3]["w"].dtype == np.float32


def test_of_two_nodes_the_larger_update_sets_no_median() -> None:
    sent = {"w": np.zeros(1)}
    clipped, touched = clipped_updates(sent, [{"w": np.array([1e30])}, {"w": np.array([1.0])}])
    assert touched == [True, False] and clipped[0]["w"][0] == pytest.approx(MOST_MEDIANS)


def test_one_node_alone_is_never_clipped() -> None:
    clipped, touched = clipped_updates({"w": np.zeros(1)}, [{"w": np.array([5.0])}])
    assert touched == [False] and clipped[0]["w"][0] == 5.0


def test_a_table_of_whole_numbers_that_others_leave_alone_stays_as_it_was() -> None:
    sent = {"w": np.zeros(1), "table": np.array([4, 5])}
    honest = {"w": np.ones(1), "table": np.array([4, 5])}
    liar = {"w": np.ones(1), "table": np.array([2**62, -7])}
    clipped, touched = clipped_updates(sent, [honest, liar, honest])
    assert touched == [False, True, False]
    assert clipped[1]["table"].tolist() == [4, 5] and clipped[1]["w"][0] == 1


def test_counters_that_rise_alike_are_not_clipped_whatever_their_size() -> None:
    sent = {"w": np.zeros(1), "batches": np.array(99.5)}
    trained = [{"w": np.array([size]), "batches": np.array(199)} for size in (1.0, 2.0, 3.0)]
    clipped, touched = clipped_updates(sent, trained)
    assert not any(touched) and all(each["batches"].dtype == np.int64 for each in clipped)


def test_honest_nodes_of_different_classes_are_not_clipped(
    nodes: dict[str, OwnSamples], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def watched(sent: Arrays, trained: list[Arrays]) -> tuple[list[Arrays], list[bool]]:
        clipped, touched = clipped_updates(sent, trained)
        seen.extend(touched)
        return clipped, touched

    monkeypatch.setattr(averaging, "clipped_updates", watched)
    local_run(averaging, nodes, "average", rounds=4, net="mlp:32x1", steps=30)
    assert len(seen) == 12 and not any(seen)


def test_a_reason_that_many_nodes_give_is_told_once() -> None:
    missing = {"rose": "rose: no answer in time", "aster": "weights: wrong", "tulip": "weights: wrong"}
    with pytest.raises(NotReadyError) as raised:
        check_enough(0, missing, RunLimits(min_nodes=2, timeout_s=1.0, patience_s=0.0))
    assert raised.value.found == "0 answers (aster, tulip: weights: wrong; rose: no answer in time)"
    assert "mend what they name" in raised.value.remedy


def test_a_net_of_bfloat16_is_averaged_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "halved.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.flatten(1).bfloat16()).float()\n"
        "def factory(input_shape, classes):\n"
        "    return Net(input_shape[0], classes).bfloat16()\n"
    )
    net = SharedNet(factory="halved:factory", input_shape=(4,), classes=2, import_paths=(str(tmp_path),))
    weights = net.initial(0)
    assert {array.dtype.name for array in weights.values()} == {"float32"}
    assert max(float(abs(array).max()) for array in weights.values()) <= 1
    samples = Samples(
        inputs=np.eye(4, dtype=np.float32), labels=np.array([0, 1, 0, 1]), scale=1.0, offset=0.0
    )
    assert 0 <= net.scored(weights, samples)[0] <= 4
