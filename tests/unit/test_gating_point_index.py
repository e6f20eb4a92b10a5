"""The index over very many points, and the shortlists of leaves that it gives."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.branches import Cluster
from swarm.gating.distances import squared_distances
from swarm.gating.indexed_prototypes import EXACT_TO, IndexedPrototypes
from swarm.gating.point_index import RECALL, PointIndex
from swarm.gating.prototype_gate import WEIGHT_FLOOR, PrototypeGate
from swarm.gating.shortlist import Shortlist
from swarm.gating.tree import Tree
from swarm.gating.whole_numbers import WholeFrame, as_queries

SIZE, LEAVES, EACH, SPREAD = 12, 3000, 4, 0.3


def points_of(count: int, seed: int) -> NDArray[np.float32]:
    """Samples of overlapping leaves: the same leaves whatever the seed of the samples."""
    fixed = np.random.default_rng(0)
    groups = fixed.normal(size=(60, SIZE))
    centres = groups[fixed.integers(60, size=LEAVES)] + 0.5 * fixed.normal(size=(LEAVES, SIZE))
    rng = np.random.default_rng(seed)
    found = centres[rng.integers(LEAVES, size=count)] + SPREAD * rng.normal(size=(count, SIZE))
    return found.astype(np.float32)


def gate_of(leaves: int = LEAVES, temperature: float = 0.05) -> PrototypeGate:
    """A gate over samples of the leaves, with the radii that others of their samples have."""
    rng = np.random.default_rng(3)
    prototypes, samples = points_of(leaves * EACH, 1), points_of(2000, 2)
    near = np.sqrt(squared_distances(samples, prototypes.astype(np.float64)).min(axis=1))
    return PrototypeGate(
        prototypes=prototypes,
        leaf_rows=np.repeat(np.arange(leaves, dtype=np.int32), EACH),
        log_prior=rng.uniform(1, 3, leaves * EACH).astype(np.float32),
        radii=np.tile(np.quantile(near, (0.5, 0.9, 0.99)), (leaves * EACH, 1)).astype(np.float32),
        leaves=leaves,
        temperature=temperature,
    )


@pytest.fixture(scope="module")
def indexed() -> IndexedPrototypes:
    found = IndexedPrototypes.of(gate_of())
    assert found is not None
    return found


def test_a_gate_with_few_prototypes_has_no_index() -> None:
    assert IndexedPrototypes.of(gate_of(EXACT_TO // EACH)) is None


def test_searches_find_the_nearest_point_as_often_as_promised(indexed: IndexedPrototypes) -> None:
    asked = points_of(1000, 9)
    exact = squared_distances(asked, indexed.gate.prototypes.astype(np.float64))
    found, costs = indexed.nearest(asked)
    assert (found == exact.argmin(axis=1)).mean() >= RECALL
    np.testing.assert_allclose(costs, exact[np.arange(len(asked)), found], rtol=1e-6)
    assert indexed.index.probes < len(indexed.index.cells)


def test_every_point_is_in_one_cell_and_no_cell_is_empty(indexed: IndexedPrototypes) -> None:
    index = indexed.index
    assert sorted(index.rows.tolist()) == list(range(len(indexed.gate.prototypes)))
    assert (np.diff(index.starts) > 0).all()


def test_the_same_points_give_the_same_index_on_any_number_of_threads(indexed: IndexedPrototypes) -> None:
    gate = indexed.gate
    with threadpool_limits(limits=1):
        again = PointIndex.of(gate.prototypes, gate.radii)
    for name in ("rows", "centres", "starts", "probes", "reach", "least"):
        assert np.array_equal(getattr(indexed.index, name), getattr(again, name)), name


def test_a_row_has_the_same_bits_whatever_else_is_asked(indexed: IndexedPrototypes) -> None:
    asked = points_of(40, 11)
    together = indexed.shortlist(asked, 0.05)
    for row, (leaves, weights, rest) in enumerate(together.rows()):
        [alone] = indexed.shortlist(asked[row : row + 1], 0.05).rows()
        assert np.array_equal(alone[0], leaves) and alone[1].tobytes() == weights.tobytes()
        assert alone[2] == rest


def test_the_shortlist_has_the_weights_of_the_whole_gate_but_for_what_is_far(
    indexed: IndexedPrototypes,
) -> None:
    asked = points_of(200, 13)
    exact = indexed.gate.leaf_weights(asked)
    dense = indexed.shortlist(asked, indexed.gate.temperature).dense()
    np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-5)
    agree = np.abs(dense - exact).max(axis=1) < 1e-3
    assert agree.mean() >= RECALL
    assert (dense.min(axis=1) >= WEIGHT_FLOOR / 2).all()


def test_a_search_finds_the_second_nearest_point_almost_as_often(indexed: IndexedPrototypes) -> None:
    asked = points_of(1000, 10)
    exact = squared_distances(asked, indexed.gate.prototypes.astype(np.float64))
    second = exact.argpartition(1, axis=1)[:, 1]
    found = [indexed.index.near(each, 32) for each in asked]
    assert all(rows is not None for rows in found)
    assert (
        np.mean([want in rows for want, rows in zip(second, found, strict=True) if rows is not None]) >= 0.97
    )


def test_what_a_search_finds_is_in_order_the_nearest_first(indexed: IndexedPrototypes) -> None:
    frame = indexed.index.frame
    for each in points_of(50, 12):
        rows = indexed.index.near(each, 32)
        assert rows is not None and len(set(rows.tolist())) == len(rows) == 32
        own, others = frame.codes(each[None])[:, :-1], frame.codes(indexed.gate.prototypes[rows])[:, :-1]
        assert (np.diff(np.square(others - own).sum(axis=1)) >= 0).all()


def test_a_search_goes_on_until_no_other_cell_is_worth_it(indexed: IndexedPrototypes) -> None:
    asked = points_of(1000, 9)
    nearest = squared_distances(asked, indexed.gate.prototypes.astype(np.float64)).argmin(axis=1)
    in_first_cells = replace(indexed, index=replace(indexed.index, reach=0.0))
    everywhere = replace(indexed, index=replace(indexed.index, probes=len(indexed.index.cells), reach=np.inf))
    shares = [(each.nearest(asked)[0] == nearest).mean() for each in (in_first_cells, indexed, everywhere)]
    assert shares[0] < shares[1] <= shares[2] == 1


def test_a_point_far_outside_is_looked_up_exactly(indexed: IndexedPrototypes) -> None:
    far = np.full((1, SIZE), 1e4, np.float32)
    assert indexed.index.near(far[0], 16) is None
    exact = indexed.gate.leaf_weights(far)
    np.testing.assert_allclose(indexed.shortlist(far, indexed.gate.temperature).dense(), exact, atol=1e-6)


def test_one_prototype_far_out_spoils_nobodys_search() -> None:
    points = np.concatenate([points_of(4000, 1), np.full((3, SIZE), 1e6, np.float32)])
    index = PointIndex.of(points, np.full((len(points), 3), 1.0))
    asked = points_of(300, 5)
    exact = squared_distances(asked, points.astype(np.float64)).argmin(axis=1)
    found = []
    for each in asked:
        rows = index.near(each, 32)
        assert rows is not None
        found.append(rows)
    assert np.mean([want in rows for want, rows in zip(exact, found, strict=True)]) >= RECALL


@pytest.mark.parametrize("alike", [1, 2, 5000])
def test_points_that_are_alike_are_found(alike: int) -> None:
    points = np.repeat(points_of(max(1, 5000 // alike), 2), alike, axis=0)
    index = PointIndex.of(points, np.zeros((len(points), 3)))
    rows = index.near(points[7], 16)
    assert rows is not None and (points[rows] == points[7]).all(axis=1).any()


def test_distances_in_whole_coordinates_are_exact() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 200)).astype(np.float32)
    codes = WholeFrame.around(points).codes(points)
    wide = codes[:, :-1].astype(np.float64)
    exact = (wide**2).sum(axis=1)[None] - 2 * wide @ wide.T
    assert np.array_equal(as_queries(codes) @ codes.T, exact)


def test_shortlists_refuse_what_the_gate_refuses(indexed: IndexedPrototypes) -> None:
    with pytest.raises(InvalidInputError, match="temperature"):
        indexed.shortlist(points_of(1, 1), 0.0)
    with pytest.raises(ShapeMismatchError, match="query features"):
        indexed.shortlist(np.zeros((1, SIZE + 1), np.float32), 1.0)
    with pytest.raises(ShapeMismatchError, match="shortlist"):
        replace(indexed.shortlist(points_of(1, 1), 1.0), rest=np.zeros(2))


def test_shortlists_are_joined_row_by_row(indexed: IndexedPrototypes) -> None:
    asked = points_of(5, 21)
    whole = indexed.shortlist(asked, 0.05)
    parts = [indexed.shortlist(asked[:2], 0.05), indexed.shortlist(asked[2:], 0.05)]
    assert np.array_equal(Shortlist.joined(parts).dense(), whole.dense())


def test_leaves_below_a_branch_share_its_weight_as_in_the_whole_gate() -> None:
    leaves = 300
    tree = Tree(
        leaves=leaves,
        parents=(leaves, leaves + 1, leaves + 1, *([-1] * (leaves - 3)), -1, leaves),
        regions=(leaves, *range(3, leaves)),
        children=((0, leaves + 1), (1, 2)),
    )
    places = points_of(leaves + 2, 31)
    places[[1, 2, leaves, leaves + 1]] = places[0] + 0.1 * points_of(4, 32)
    nodes = [
        Cluster(
            prototypes=place[None], log_prior=np.zeros(1, np.float32), radii=np.full((1, 3), 0.3, np.float32)
        )
        for place in places
    ]
    gate = PrototypeGate.of_nodes(nodes, tree, {}, 0.2)
    indexed = IndexedPrototypes(gate=gate, index=PointIndex.of(gate.prototypes, gate.radii))
    asked = places[:5]
    found = indexed.shortlist(asked, 0.2)
    np.testing.assert_allclose(found.dense(), gate.leaf_weights(asked, 0.2), atol=1e-3)
    np.testing.assert_allclose(found.dense().sum(axis=1), 1, atol=1e-6)
    whole = gate.leaf_weights(asked, 0.2)[:3, :3].sum(axis=1)
    np.testing.assert_allclose(found.dense()[:3, :3].sum(axis=1), whole, atol=1e-3)
    assert (found.leaves[0][:3] == [0, 1, 2]).all() and (found.weights[0][:3] > 0).all()
