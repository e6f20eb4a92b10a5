"""What the federated apps come to, over nodes of this process and real messages in bytes."""

import base64
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.specification import Specification
from swarm.federation import averaging, evaluation, kmeans, sums
from swarm.federation.own_samples import OwnSamples
from swarm.federation.packing import pack_named
from swarm.gating.regions import region_columns
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from tests.support.federation import LocalWire, StreamGrid, local_run, pooled, run_app, three_nodes

Nodes = dict[str, OwnSamples]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Specification, Nodes]:
    return three_nodes(tmp_path_factory.mktemp("federation"))


def test_federated_sums_give_the_pooled_ridge_classifier(swarm: tuple[Specification, Nodes]) -> None:
    specification, nodes = swarm
    found, figures, _ = local_run(sums, nodes, "sums", form="exact")
    features, names = pooled(nodes.values())
    trunk = specification.trunk
    q = quantised(features, trunk.fixed_point, trunk.has_constant)
    labels = np.array([specification.class_names.index(name) for name in names])
    whole = OwnerSums(
        owner="all",
        samples=len(q),
        columns=target_columns(q, labels, len(specification.class_names)),
        exact=pack_triangle(exact_gram(q)),
    )
    expected = solve([whole], RIDGES, trunk.fixed_point)
    best = RIDGES.index(figures["ridge"])
    np.testing.assert_allclose(found["root"], expected[best], rtol=0, atol=1e-9 * np.abs(expected).max())
    assert figures["nodes"] == 3 and figures["samples"] == len(q)
    assert figures["validation_accuracy"] > 0.9
    assert bytes(found["owners"]).decode().split() == ["aster", "rose", "tulip"]


def test_federated_sums_are_the_same_to_the_bit_whatever_order_the_answers_come_in(
    swarm: tuple[Specification, Nodes],
) -> None:
    _, nodes = swarm
    one, _, _ = local_run(sums, nodes, "sums")
    other, _, _ = local_run(sums, dict(reversed(nodes.items())), "sums")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_compact_sums_come_close_with_fewer_bytes(tmp_path: Path) -> None:
    _, nodes = three_nodes(tmp_path, trunk="randconv-sqrt:32")
    _, exact, heavy = local_run(sums, nodes, "sums")
    _, compact, light = local_run(sums, nodes, "sums", form="compact", rank=40)
    assert light.traffic.received < heavy.traffic.received
    assert compact["validation_accuracy"] > exact["validation_accuracy"] - 0.05


def test_sums_of_another_trunk_are_refused_by_the_nodes_name(
    swarm: tuple[Specification, Nodes], tmp_path: Path
) -> None:
    _, nodes = swarm
    _, others = three_nodes(tmp_path, trunk="randconv-sqrt:16")
    with pytest.raises(InvalidInputError, match=r"node tulip.*trunk"):
        local_run(sums, {**nodes, "tulip": others["tulip"]}, "sums")


def test_federated_k_means_is_as_good_as_pooled_k_means(swarm: tuple[Specification, Nodes]) -> None:
    _, nodes = swarm
    found, figures, _ = local_run(kmeans, nodes, "kmeans", k=6, rounds=20)
    features, _ = pooled(nodes.values())
    features = features[:, region_columns(features.shape[1])]
    reference = KMeans(6, n_init=10, random_state=0).fit(features).inertia_
    assert found["counts"].sum() == figures["samples"] == len(features)
    assert figures["inertia"] < 1.02 * reference


def test_more_clusters_than_there_are_groups_leave_no_empty_cluster_behind_unseen(
    swarm: tuple[Specification, Nodes],
) -> None:
    _, nodes = swarm
    found, figures, _ = local_run(kmeans, nodes, "kmeans", k=24, rounds=8)
    assert found["centres"].shape[0] == 24
    assert figures["empty_clusters"] == (found["counts"] == 0).sum()
    kept = found["counts"][found["counts"] > 0]
    assert kept.min() >= 5, "clusters below the minimum count are not sent"


def test_an_empty_cluster_moves_to_the_candidate_farthest_from_all_centres() -> None:
    centres = np.array([[0, 0], [10, 0], [500, 500]], dtype=np.float32)
    total = np.array([[4.0, 0.0], [40.0, 0.0], [0.0, 0.0]])
    counts = np.array([4, 4, 0])
    candidates = np.array([[1, 0], [0, 30], [10, 1]], dtype=np.float32)
    moved = kmeans.next_centres(centres, total, counts, candidates)
    assert moved.tolist() == [[1, 0], [10, 0], [0, 30]]


def test_two_empty_clusters_move_to_different_candidates() -> None:
    centres = np.zeros((3, 1), dtype=np.float32)
    candidates = np.array([[0], [50], [-40]], dtype=np.float32)
    moved = kmeans.next_centres(centres, np.zeros((3, 1)), np.array([5, 0, 0]), candidates)
    assert sorted(moved[:, 0].tolist()) == [-40, 0, 50]


def test_a_cluster_below_the_minimum_count_is_not_sent() -> None:
    features = np.array([[0.0], [0.1], [0.2], [9.0]], dtype=np.float32)
    distances = np.square(features - np.array([[0.0, 9.0]], dtype=np.float32))
    total, counts, inertia = kmeans.cluster_sums(features, distances, 2)
    assert counts.tolist() == [3, 0] and total[1, 0] == 0 and inertia == pytest.approx(0.05)


def test_federated_averaging_of_three_nodes_learns_all_classes(swarm: tuple[Specification, Nodes]) -> None:
    _, nodes = swarm
    found, figures, grid = local_run(averaging, nodes, "average", rounds=8, steps=60, net="mlp:32x1")
    assert figures["validation_accuracy_round_8"] == figures["validation_accuracy"] > 0.6
    assert figures["nodes"] == 3
    assert grid.traffic.sent > 0 and grid.traffic.received > 0
    accuracies = found.pop(averaging.ROUND_ACCURACIES)
    assert len(accuracies) == 8 and accuracies[-1] == figures["validation_accuracy"]
    packed = base64.b64encode(pack_named(found, "net")).decode()
    _, judged, _ = local_run(evaluation, nodes, "evaluate", net="mlp:32x1", arrays=packed)
    assert judged["validation_accuracy"] == pytest.approx(figures["validation_accuracy"])
    assert judged["samples"] == sum(len(each.validation) for each in nodes.values())


def test_averaging_is_repeatable(swarm: tuple[Specification, Nodes]) -> None:
    _, nodes = swarm
    one, _, _ = local_run(averaging, nodes, "average", rounds=2, steps=5, net="mlp:8x1", seed=4)
    other, _, _ = local_run(averaging, nodes, "average", rounds=2, steps=5, net="mlp:8x1", seed=4)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_root_can_be_judged_again_by_the_nodes(swarm: tuple[Specification, Nodes]) -> None:
    _, nodes = swarm
    found, figures, _ = local_run(sums, nodes, "sums")
    packed = base64.b64encode(pack_named({"root": found["root"]}, "root")).decode()
    _, judged, _ = local_run(evaluation, nodes, "evaluate", net="ridge-root", arrays=packed)
    assert judged["validation_accuracy"] == pytest.approx(figures["validation_accuracy"])


def test_a_node_without_samples_is_left_out_and_the_run_goes_on(swarm: tuple[Specification, Nodes]) -> None:
    specification, nodes = swarm
    wire = LocalWire(sums.client_app, {**nodes, "rose": _bare(nodes["rose"])})
    grid = StreamGrid(wire, "run", 60.0)
    _, figures = run_app(sums.server_app, grid, specification, "sums")
    assert figures["nodes"] == 2
    assert "rose" in grid.traffic.lost


def test_too_few_nodes_end_the_run_within_its_patience(swarm: tuple[Specification, Nodes]) -> None:
    _, nodes = swarm
    with pytest.raises(NotReadyError, match="at least 4"):
        local_run(averaging, nodes, "average", min_nodes=4, patience_s=0)


def _bare(samples: OwnSamples) -> OwnSamples:
    """Return a node that has too few samples of every class."""
    from dataclasses import replace

    return replace(samples, specification=replace(samples.specification, min_leaf_count=10_000))
