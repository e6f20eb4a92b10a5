"""An analytic gate of many regions by its index: who scores highest, and what the rest of the gate says."""

import numpy as np
import pytest

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import ScoredBranches
from swarm.gating.class_columns import ClassColumns
from swarm.gating.column_index import ColumnIndex
from swarm.gating.indexed_columns import LISTED, IndexedColumns
from swarm.gating.indexed_prototypes import EXACT_TO
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.tree import Tree

SIZE, CLASSES, EACH = 48, 12, 2
FIXED_POINT, TEMPERATURE = 32.0, 0.05


def solved(regions: int, seed: int = 0) -> tuple[AnalyticGate, PrototypeGate, np.ndarray]:
    """A gate solved for regions with EACH classes each, its prototypes, and samples of the regions."""
    rng = np.random.default_rng(seed)
    themes = rng.normal(size=(40, SIZE)) * np.linspace(2, 0.5, SIZE)
    means = themes[rng.integers(40, size=regions)] + 0.7 * rng.normal(size=(regions, SIZE))
    own = means[rng.integers(regions, size=4000)]
    samples = (own + 0.3 * rng.normal(size=own.shape)).astype(np.float32)
    quantised = np.rint(np.concatenate([samples, np.ones((len(samples), 1))], axis=1) * FIXED_POINT)
    gram = quantised.T @ quantised * (regions / len(samples)) + 300 * np.eye(SIZE + 1)
    sums = FIXED_POINT * np.repeat(np.concatenate([means, np.ones((regions, 1))], axis=1), EACH, axis=0).T
    sums *= rng.uniform(0.3, 0.7, size=regions * EACH)
    gate = AnalyticGate(
        weights=np.linalg.solve(gram, sums).astype(np.float32),
        leaf_rows=np.repeat(np.arange(regions), EACH),
        class_rows=rng.integers(CLASSES, size=regions * EACH),
        leaves=regions,
        classes=CLASSES,
        fixed_point=FIXED_POINT,
        has_constant=False,
    )
    prototypes = PrototypeGate(
        prototypes=means.astype(np.float32),
        leaf_rows=np.arange(regions, dtype=np.int32),
        log_prior=np.zeros(regions, np.float32),
        radii=np.ones((regions, 3), np.float32),
        leaves=regions,
        temperature=1.0,
    )
    return gate, prototypes, samples


@pytest.fixture(scope="module")
def many() -> tuple[AnalyticGate, IndexedColumns, np.ndarray]:
    gate, prototypes, samples = solved(EXACT_TO + 500)
    found = IndexedColumns.of(gate, prototypes)
    assert found is not None
    return gate, found, samples[:300]


def test_the_leaf_that_scores_highest_is_the_whole_gates(
    many: tuple[AnalyticGate, IndexedColumns, np.ndarray],
) -> None:
    gate, indexed, samples = many
    listed = indexed.shortlist(samples, TEMPERATURE)
    scores = gate.region_scores(gate.scores(samples))
    found = listed.leaves[np.arange(len(samples)), listed.weights.argmax(axis=1)]
    assert (found == scores.argmax(axis=1)).mean() >= 0.99
    assert listed.leaves.shape[1] == LISTED and listed.total == gate.leaves
    of_listed = np.take_along_axis(scores, listed.leaves, axis=1).astype(np.float64) / TEMPERATURE
    shares = np.exp(of_listed - of_listed.max(axis=1, keepdims=True))
    assert np.allclose(listed.weights, shares / shares.sum(axis=1, keepdims=True), atol=1e-4)


def test_classes_and_whose_they_are_come_out_as_by_the_whole_gate(
    many: tuple[AnalyticGate, IndexedColumns, np.ndarray],
) -> None:
    gate, indexed, samples = many
    scores = gate.scores(samples)
    assert np.allclose(indexed.class_scores(samples), gate.class_scores(scores), atol=1e-3)
    answered = gate.class_scores(scores).argmax(axis=1)
    whole = gate.region_shares(scores, answered)
    for row, (regions, shares) in enumerate(indexed.region_shares(samples, answered)):
        assert np.allclose(shares, whole[row, regions], atol=1e-4)
        assert shares.sum() == pytest.approx(whole[row].sum(), abs=1e-3)


def test_a_row_has_the_same_bits_whatever_stands_beside_it_and_whoever_builds_the_index(
    many: tuple[AnalyticGate, IndexedColumns, np.ndarray],
) -> None:
    gate, prototypes, samples = solved(2000)
    first, second = (IndexedColumns.made(gate, prototypes) for _ in range(2))
    assert first.index.table.tobytes() == second.index.table.tobytes()
    together, alone = first.shortlist(samples[:9], TEMPERATURE), second.shortlist(samples[4:5], TEMPERATURE)
    assert together.leaves[4].tobytes() == alone.leaves[0].tobytes()
    assert together.weights[4].tobytes() == alone.weights[0].tobytes()


def test_what_stands_out_nowhere_is_scored_by_all_columns() -> None:
    gate, prototypes, _ = solved(3000)
    indexed = IndexedColumns.made(gate, prototypes)
    strange = np.random.default_rng(5).normal(size=(50, SIZE)).astype(np.float32)
    listed = indexed.shortlist(strange, TEMPERATURE)
    scores = gate.region_scores(gate.scores(strange))
    found = listed.leaves[np.arange(50), listed.weights.argmax(axis=1)]
    assert (found == scores.argmax(axis=1)).mean() >= 0.98


def test_leaves_of_a_listed_region_share_its_weight_as_in_the_whole_gate() -> None:
    flat, prototypes, samples = solved(300)
    # Region 0 is split: leaves 0 and 300 are its children by their columns.
    rng = np.random.default_rng(3)
    parents = (301, *[-1] * 299, 301, -1)
    tree = Tree(leaves=301, parents=parents, regions=(301, *range(1, 300)), children=((0, 300),))
    children = (flat.weights[:, :2] + 0.01 * rng.normal(size=(SIZE + 1, 2))).astype(np.float32)
    gate = AnalyticGate(
        weights=flat.weights,
        leaf_rows=flat.leaf_rows,
        class_rows=flat.class_rows,
        leaves=301,
        classes=CLASSES,
        fixed_point=FIXED_POINT,
        has_constant=False,
        branches=ScoredBranches(tree=tree, weights=(children,), splits={}, columns=np.arange(SIZE)),
    )
    dense = IndexedColumns.made(gate, prototypes).shortlist(samples[:40], 0.02).dense()
    whole = gate.leaf_weights(gate.scores(samples[:40]), 0.02)
    both = dense[:, [0, 300]].sum(axis=1) > 0
    assert both.any()
    for weights in (dense, whole):
        weights[both, :] /= weights[both][:, [0, 300]].sum(axis=1, keepdims=True)
    assert np.allclose(dense[both][:, [0, 300]], whole[both][:, [0, 300]], atol=1e-6)


def test_an_owners_best_class_is_found_from_the_columns_for_classes() -> None:
    flat, prototypes, samples = solved(300)
    rows = np.arange(CLASSES).repeat(3)
    columns = np.random.default_rng(1).normal(size=(SIZE + 1, len(rows))).astype(np.float32)
    gate = AnalyticGate(
        weights=flat.weights,
        leaf_rows=flat.leaf_rows,
        class_rows=flat.class_rows[:0],
        leaves=300,
        classes=CLASSES,
        fixed_point=FIXED_POINT,
        has_constant=False,
        by_class=ClassColumns(weights=columns, rows=rows, classes=CLASSES),
        class_regions=np.arange(len(rows)) * 7,
    )
    indexed = IndexedColumns.made(gate, prototypes)
    scores = gate.scores(samples[:20])
    answered = gate.class_scores(scores).argmax(axis=1)
    assert np.allclose(indexed.class_scores(samples[:20]), gate.class_scores(scores), rtol=1e-4, atol=1e-3)
    whole = gate.region_shares(scores, answered)
    for row, (regions, shares) in enumerate(indexed.region_shares(samples[:20], answered)):
        assert regions.tolist() == np.flatnonzero(whole[row]).tolist() and shares.tolist() == [1.0]


def test_few_regions_have_no_index_and_bad_input_is_named() -> None:
    gate, prototypes, samples = solved(200)
    assert IndexedColumns.of(gate, prototypes) is None
    indexed = IndexedColumns.made(gate, prototypes)
    with pytest.raises(InvalidInputError, match="temperature"):
        indexed.shortlist(samples[:1], 0.0)
    with pytest.raises(ShapeMismatchError, match="query features"):
        indexed.shortlist(samples[:1, :3], 1.0)
    with pytest.raises(ShapeMismatchError, match="indexed columns"):
        ColumnIndex.of(np.zeros((3, 4), np.float32), np.zeros((3, 5), np.float32))


def test_columns_and_prototypes_that_are_all_alike_are_no_trouble() -> None:
    index = ColumnIndex.of(np.ones((50, 5), np.float32), np.zeros((50, 5), np.float32))
    rows, scores = index.best(np.ones(5, np.float32), 7)
    assert len(rows) == 7 and scores.tolist() == [5.0] * 7
