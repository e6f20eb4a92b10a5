"""What one node's answers can do to common regions, sums and judgements: refused by name, or bounded."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord

from swarm.domain.errors import InvalidInputError, NotReadyError, ShapeMismatchError
from swarm.federation import evaluation, kmeans, sums
from swarm.federation.evaluation import check_weights
from swarm.federation.kmeans import largest_feature, pooled_candidates, pooled_sums
from swarm.federation.own_samples import OwnSamples
from swarm.federation.packing import pack_named
from swarm.federation.rounds import MOST_SAMPLES, Answer, checked_array, most_samples, node_weights
from swarm.gating.regions import region_columns
from tests.support.federation import (
    LocalWire,
    StreamGrid,
    change_arrays,
    dishonest_run,
    local_run,
    run_app,
    three_nodes,
)

Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], object]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnSamples]:
    return three_nodes(tmp_path_factory.mktemp("regions"))[1]


def answer(node: str, metrics: Mapping[str, float] | None = None, **arrays: np.ndarray) -> Answer:
    return Answer(node=node, arrays=arrays, metrics=metrics or {}, config={})


def candidates(node: str, value: float, count: int, size: int, *, of: int = 1) -> Answer:
    return answer(
        node, centroids=np.full((of, size), value, np.float32), counts=np.full(of, count, dtype=np.int64)
    )


def cluster_sums(node: str, value: float, count: int, size: int) -> Answer:
    counts = np.array([count, count], dtype=np.int64)
    return answer(node, {"inertia": 1.0}, sums=np.full((2, size), value) * counts[:, None], counts=counts)


@pytest.fixture
def size(nodes: dict[str, OwnSamples]) -> int:
    return len(region_columns(nodes["rose"].specification.trunk.feature_size))


def test_a_node_that_claims_very_many_samples_counts_as_four_ordinary_ones(
    nodes: dict[str, OwnSamples], size: int
) -> None:
    specification = nodes["rose"].specification
    honest = [cluster_sums(name, 1.0, 100, size) for name in ("aster", "tulip")]
    answers = [*honest, cluster_sums("rose", 7.0, 10**8, size)]
    most = most_samples([200, 200, 2 * 10**8])
    found, counts, inertia, told = pooled_sums(answers, 2, most, specification)
    np.testing.assert_allclose(found / counts[:, None], (2 * 1.0 + 4 * 7.0) / 6)
    assert counts.tolist() == [600.0, 600.0] and inertia == pytest.approx(2.0, abs=1e-4)
    assert told == "3 nodes; clipped: rose"


def test_common_regions_for_what_is_new_are_of_novel_samples_alone_and_without_nodes_that_have_too_few(
    nodes: dict[str, OwnSamples],
) -> None:
    rose, tulip, aster = nodes["rose"], nodes["tulip"], nodes["aster"]
    some = np.arange(30)
    given = {
        "rose": replace(rose, novel=lambda: rose.training.subset(some)),
        "tulip": replace(tulip, novel=lambda: tulip.training.subset(some)),
        "aster": replace(aster, novel=lambda: aster.training.subset(some[:4])),
    }
    found, figures, _ = local_run(kmeans, given, "kmeans", k=2, rounds=5, select="novel")
    assert figures["nodes"] == 2 and figures["samples"] <= 60
    everything, whole, _ = local_run(kmeans, nodes, "kmeans", k=2, rounds=5)
    assert whole["nodes"] == 3 and whole["samples"] > 60
    assert not np.allclose(found["centres"], everything["centres"])
    with pytest.raises(NotReadyError, match="aster: novel samples of node aster"):
        local_run(kmeans, {**given, "rose": rose}, "kmeans", k=2, rounds=1, select="novel")


def test_candidates_of_a_node_stand_for_four_lower_medians_at_most(
    nodes: dict[str, OwnSamples], size: int
) -> None:
    answers = [candidates(name, 1.0, 100, size) for name in ("aster", "tulip")]
    answers.append(candidates("rose", 7.0, 10**8, size, of=2))
    _, stands_for, most = pooled_candidates(answers, 2, nodes["rose"].specification)
    assert most == 400 and stands_for.tolist() == [100.0, 100.0, 200.0, 200.0]


def test_more_regions_than_the_nodes_samples_can_fill_are_refused_before_centres_are_sent(
    nodes: dict[str, OwnSamples], size: int
) -> None:
    specification = nodes["rose"].specification
    answers = [candidates(name, 1.0, 100, size) for name in ("aster", "tulip")]
    assert specification.min_leaf_count == 5
    assert pooled_candidates(answers, 40, specification)[2] == 400
    with pytest.raises(InvalidInputError, match=r"found 41 asked for, and 200 samples .* --k 40"):
        pooled_candidates(answers, 41, specification)
    wire = LocalWire(kmeans.client_app, nodes)
    with pytest.raises(InvalidInputError, match=r"regions: found 4096 asked for") as caught:
        run_app(kmeans.server_app, StreamGrid(wire, "run", 60.0), specification, "kmeans", k=4096, rounds=3)
    assert {kind for _, kind in wire.asked} == {"query.candidates"}
    most = int(caught.value.remedy.rpartition(" ")[2])
    assert local_run(kmeans, nodes, "kmeans", k=most, rounds=1)[0]["centres"].shape == (most, size)


def test_a_run_with_a_node_that_claims_very_many_samples_keeps_the_others_regions(
    nodes: dict[str, OwnSamples],
) -> None:
    def claims(message: Message) -> None:
        def much(arrays: Arrays) -> None:
            if "sums" in arrays:
                arrays["sums"] = np.full_like(arrays["sums"], 7.0) * 10**8
            else:
                arrays["centroids"] = np.full_like(arrays["centroids"], 7.0)
            arrays["counts"] = np.full_like(arrays["counts"], 10**8)

        change_arrays(message, much)

    found, figures = dishonest_run(kmeans, nodes, "kmeans", claims, k=4, rounds=3)
    others = sum(len(nodes[name].training) for name in ("aster", "tulip"))
    assert found["centres"].min() < 6.9
    assert figures["samples"] <= others + 4 * max(len(each.training) for each in nodes.values()) + 4


WRONG_SUMS: list[tuple[str, Change]] = [
    ("sums", lambda arrays: arrays["sums"].fill(1e300)),
    ("sums", lambda arrays: arrays.update(sums=arrays["sums"] * 1e6)),
    ("sums", lambda arrays: arrays["counts"].fill(0)),
    ("sums", lambda arrays: arrays.update(sums=arrays["sums"].astype(np.float32))),
    ("counts", lambda arrays: arrays["counts"].fill(MOST_SAMPLES)),
    ("counts", lambda arrays: arrays["counts"].fill(1)),
    ("counts", lambda arrays: arrays.pop("counts")),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("named", "change"), WRONG_SUMS)
def test_regions_believe_no_sums_that_cannot_be(
    nodes: dict[str, OwnSamples], named: str, change: Change
) -> None:
    with pytest.raises(InvalidInputError, match=f"{named} of node rose"):
        dishonest_run(kmeans, nodes, "kmeans", lambda m: change_arrays(m, change), turns=(2,), k=3, rounds=2)


WRONG_CANDIDATES: list[tuple[str, Change]] = [
    ("centroids", lambda arrays: arrays["centroids"].fill(3e38)),
    ("centroids", lambda arrays: arrays.update(centroids=arrays["centroids"][:, :-1])),
    (
        "centroids",
        lambda arrays: arrays.update(centroids=arrays["centroids"][:0], counts=arrays["counts"][:0]),
    ),
    ("centroids", lambda arrays: arrays.update(centroids=np.repeat(arrays["centroids"], 50, axis=0))),
    ("counts", lambda arrays: arrays.update(counts=arrays["counts"][:-1])),
    ("counts", lambda arrays: arrays["counts"].fill(-3)),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("named", "change"), WRONG_CANDIDATES)
def test_regions_believe_no_candidates_that_cannot_be(
    nodes: dict[str, OwnSamples], named: str, change: Change
) -> None:
    with pytest.raises(InvalidInputError, match=f"{named} of node rose"):
        dishonest_run(kmeans, nodes, "kmeans", lambda m: change_arrays(m, change), turns=(1,), k=3, rounds=1)


@pytest.mark.parametrize("wrong", [1e99, float(10**14)])
def test_regions_believe_no_inertia_beyond_what_features_can_be_apart(
    nodes: dict[str, OwnSamples], wrong: float
) -> None:
    def far(message: Message) -> None:
        message.content["metrics"] = MetricRecord({"inertia": wrong, "samples": 1})

    with pytest.raises(InvalidInputError, match="inertia of node rose"):
        dishonest_run(kmeans, nodes, "kmeans", far, turns=(2,), k=3, rounds=1)


def test_features_beyond_the_fixed_points_range_count_as_its_end(nodes: dict[str, OwnSamples]) -> None:
    rose = nodes["rose"]
    largest = largest_feature(rose.specification.trunk)
    far = replace(rose, features=lambda inputs: rose.features(inputs) * np.float32(1e4 * largest))
    found, figures, _ = local_run(kmeans, {**nodes, "rose": far}, "kmeans", k=3, rounds=2)
    assert figures["nodes"] == 3
    assert np.abs(found["centres"]).max() <= largest * 1.001


def test_an_array_with_a_number_that_is_not_finite_is_refused_by_the_nodes_name() -> None:
    with pytest.raises(InvalidInputError, match="sums of node rose: found nan; expected finite numbers"):
        checked_array(answer("rose", sums=np.array([1.0, np.nan])), "sums", "float64", (2,))


def test_nodes_within_the_bound_weigh_alike() -> None:
    assert most_samples([30, 40, 100]) == 160
    assert node_weights([30, 0, 160, 320], 160) == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    "classes",
    [[], "0", ["0", "0"], ["nowhere", "1"], [0, 1]],
    ids=["none", "text", "twice", "unknown", "int"],
)
def test_sums_of_classes_that_cannot_be_are_refused_by_the_nodes_name(
    nodes: dict[str, OwnSamples], classes: Any
) -> None:
    def changed(message: Message) -> None:
        said: dict[str, Any] = dict(message.content["config"])
        message.content["config"] = ConfigRecord({**said, "classes": classes})

    with pytest.raises(InvalidInputError, match="classes of node rose"):
        dishonest_run(sums, nodes, "sums", changed, turns=(1,))


def test_compact_sums_of_more_factors_than_were_asked_for_are_refused(nodes: dict[str, OwnSamples]) -> None:
    def wider(arrays: Arrays) -> None:
        for name in ("minor_factors", "factor_scales"):
            arrays[name] = np.concatenate([arrays[name]] * 3, axis=-1)
        more = arrays["minor_factors"].shape[1] + arrays["factors"].shape[1]
        arrays["factor_scales"] = np.resize(arrays["factor_scales"], more)

    with pytest.raises(InvalidInputError, match=r"factors of node rose.*at most 20"):
        dishonest_run(
            sums, nodes, "sums", lambda m: change_arrays(m, wider), turns=(1,), form="compact", rank=20
        )


def _judges_all(message: Message) -> None:
    said: dict[str, Any] = dict(message.content["metrics"])
    most = MOST_SAMPLES if "correct" in said else 8_000_000
    message.content["metrics"] = MetricRecord({name: most for name in said if name != "nll_sum"})


def test_a_judge_that_claims_very_many_samples_does_not_drown_the_others(
    nodes: dict[str, OwnSamples],
) -> None:
    specification = nodes["rose"].specification
    zeros = np.zeros((specification.trunk.sum_size, len(specification.class_names)))
    packed = base64.b64encode(pack_named({"root": zeros}, "root")).decode()
    options = {"net": "ridge-root", "arrays": packed}
    _, figures = dishonest_run(evaluation, nodes, "evaluate", _judges_all, **options)
    own = [len(nodes[name].validation) for name in ("aster", "tulip")]
    assert figures["samples"] <= sum(own) + 4 * max(own)
    _, summed = dishonest_run(sums, nodes, "sums", _judges_all, turns=(2,))
    assert summed["validation_samples"] <= sum(own) + 4 * max(own)


def test_weights_of_another_net_are_refused_before_any_node_is_asked(nodes: dict[str, OwnSamples]) -> None:
    specification = nodes["rose"].specification
    net = evaluation.SharedNet(factory="mlp:16x1", input_shape=specification.input_shape, classes=6)
    arrays = net.initial(0)
    check_weights(arrays, "mlp:16x1", specification)
    with pytest.raises(ShapeMismatchError, match=r"weights for net mlp:8x1: found hidden1.*--net NAME"):
        check_weights(arrays, "mlp:8x1", specification)
    with pytest.raises(ShapeMismatchError, match=r"swarm federate sums --out FILE"):
        check_weights(arrays, "ridge-root", specification)
    packed = base64.b64encode(pack_named(arrays, "net")).decode()
    with pytest.raises(ShapeMismatchError) as raised:
        local_run(evaluation, nodes, "evaluate", net="linear", arrays=packed)
    assert str(raised.value).count("hidden1.weight") == 1


def test_a_net_that_only_the_nodes_have_is_left_to_them(nodes: dict[str, OwnSamples]) -> None:
    check_weights({"w": np.zeros(1)}, "no.such.module:net", nodes["rose"].specification)
