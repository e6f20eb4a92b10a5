"""The analytic gate: one score for each leaf and class, summed both ways."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.ridge import OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns

CLASS_NAMES = ("bag", "coat", "shirt")


@dataclass(frozen=True)
class Leaf:
    class_names: tuple[str, ...]
    has_columns: bool = True


LEAVES = (Leaf(("bag", "coat")), Leaf(("shirt",), False), Leaf(("coat", "shirt")))


def gate(size: int = 5, seed: int = 0) -> AnalyticGate:
    weights = np.random.default_rng(seed).normal(size=(size, 4)).astype(np.float32)
    return AnalyticGate.from_statement_arrays({"weights": weights}, LEAVES, CLASS_NAMES, 32.0, False)


def test_targets_follow_leaves_and_their_classes() -> None:
    found = gate()
    assert found.leaf_rows.tolist() == [0, 0, 2, 2] and found.class_rows.tolist() == [0, 1, 1, 2]
    assert found.has_columns.tolist() == [True, False, True]
    assert (found.leaves, found.classes, found.feature_size) == (3, 3, 4)


def test_scores_are_linear_in_the_features_in_fixed_point() -> None:
    found = gate()
    features = np.array([[0.5, -1.0, 0.25, 2.0]], np.float32)
    expected = np.array([[16, -32, 8, 64, 32]]) @ found.weights
    assert np.allclose(found.scores(features), expected, rtol=1e-5)


def test_class_and_leaf_scores_are_sums_of_the_same_scores() -> None:
    found = gate()
    scores = np.array([[1, 2, 4, 8]], np.float32)
    assert found.class_scores(scores).tolist() == [[1, 6, 8]]
    assert found.region_scores(scores).tolist() == [[3, -np.inf, 12]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.floats(1e-30, 1e30))
def test_leaf_weights_are_a_distribution_over_the_leaves_with_columns(seed: int, temperature: float) -> None:
    found = gate(seed=seed)
    features = np.random.default_rng(seed).normal(size=(7, 4)).astype(np.float32)
    weights = found.leaf_weights(found.scores(features), temperature)
    assert weights.dtype == np.float32 and np.isfinite(weights).all() and (weights >= 0).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5) and (weights[:, 1] == 0).all()


def test_the_gate_knows_which_leaf_and_class_a_sample_is_of() -> None:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 8))
    owners, points, leaf_of, class_of = [], [], [], []
    for row, classes in enumerate(((0, 1), (1, 2))):
        labels = np.repeat([0, 1], 50)
        features = (centres[2 * row + labels] + rng.normal(size=(100, 8))).astype(np.float32)
        q = quantised(features, 32.0, False)
        owners.append(
            OwnerSums(
                owner=f"node-{row}",
                samples=100,
                columns=target_columns(q, labels, 2),
                exact=pack_triangle(exact_gram(q)),
            )
        )
        points.append(features)
        leaf_of += [row] * 100
        class_of += [classes[label] for label in labels]
    weights = solve(owners, (1.0,), 32.0)[0].astype(np.float32)
    found = AnalyticGate.from_statement_arrays(
        {"weights": weights}, (Leaf(("bag", "coat")), Leaf(("coat", "shirt"))), CLASS_NAMES, 32.0, False
    )
    scores = found.scores(np.concatenate(points))
    assert (found.class_scores(scores).argmax(axis=1) == class_of).mean() > 0.97
    assert (found.leaf_weights(scores, 0.2).argmax(axis=1) == leaf_of).mean() > 0.97


def test_wrong_arrays_and_features_are_refused_by_name() -> None:
    with pytest.raises(ShapeMismatchError, match="no weights"):
        AnalyticGate.from_statement_arrays({}, LEAVES, CLASS_NAMES, 32.0, False)
    with pytest.raises(ShapeMismatchError, match=r"expected \[M, 4\]"):
        AnalyticGate.from_statement_arrays({"weights": np.ones((5, 3))}, LEAVES, CLASS_NAMES, 32.0, False)
    with pytest.raises(InvalidInputError, match="unknown class 'shirt'"):
        AnalyticGate.from_statement_arrays({"weights": np.ones((5, 4))}, LEAVES, CLASS_NAMES[:2], 32.0, False)
    with pytest.raises(InvalidInputError, match="not finite"):
        AnalyticGate.from_statement_arrays(
            {"weights": np.full((5, 4), np.nan)}, LEAVES, CLASS_NAMES, 32.0, False
        )
    with pytest.raises(ShapeMismatchError, match=r"query features.*\[B, 4\]"):
        gate().scores(np.zeros((1, 5), np.float32))
    with pytest.raises(InvalidInputError, match="not finite in row 0"):
        gate().scores(np.full((1, 4), np.inf, np.float32))
    with pytest.raises(InvalidInputError, match="temperature"):
        gate().leaf_weights(np.zeros((1, 4), np.float32), 0.0)
    with pytest.raises(ShapeMismatchError, match="gate weights"):
        AnalyticGate.from_statement_arrays(
            {"weights": np.ones((5, 0))}, (Leaf(("bag",), False),), CLASS_NAMES, 32.0, False
        )


class TestClassWeights:
    """Columns that score classes where the sum over the leaves does not."""

    TARGETS = np.array([0, 1, 1, 2, 2])

    def arrays(self, plain: AnalyticGate) -> dict[str, np.ndarray]:
        columns = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
        return {"weights": plain.weights, "class_weights": columns, "class_targets": self.TARGETS}

    def test_the_best_of_them_scores_a_class_and_they_change_no_leafs_weight(self) -> None:
        plain = gate()
        arrays = self.arrays(plain)
        found = AnalyticGate.from_statement_arrays(arrays, LEAVES, CLASS_NAMES, 32.0, False)
        features = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
        scores, before = found.scores(features), plain.scores(features)
        points = quantised(features, 32.0, False).astype(np.float32)
        assert scores.shape == (7, 4 + 5) and np.array_equal(scores[:, :4], before)
        of_columns = points @ arrays["class_weights"]
        expected = np.stack(
            [of_columns[:, 0], of_columns[:, 1:3].max(axis=1), of_columns[:, 3:].max(axis=1)], axis=1
        )
        assert np.array_equal(found.class_scores(scores), expected)
        assert np.array_equal(found.class_columns.scores(points), expected)
        assert np.array_equal(found.leaf_weights(scores, 0.1), plain.leaf_weights(before, 0.1))
        answered = np.zeros(7, dtype=np.int64)
        assert np.array_equal(found.region_shares(scores, answered), plain.region_shares(before, answered))
        assert found.flops_per_query == plain.flops_per_query + 2 * 5 * 5 + 5

    def test_without_targets_there_is_one_for_each_class(self) -> None:
        plain = gate()
        columns = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
        arrays = {"weights": plain.weights, "class_weights": columns}
        found = AnalyticGate.from_statement_arrays(arrays, LEAVES, CLASS_NAMES, 32.0, False)
        features = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
        points = quantised(features, 32.0, False).astype(np.float32)
        assert np.array_equal(found.class_scores(found.scores(features)), points @ columns)
        assert np.array_equal(found.class_columns.weights, columns)

    def test_class_columns_are_what_classes_are_scored_by(self) -> None:
        plain = gate()
        features = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
        points = quantised(features, 32.0, False).astype(np.float32)
        expected = plain.class_scores(plain.scores(features))
        assert np.allclose(plain.class_columns.scores(points), expected, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize(
        ("columns", "targets"),
        [
            (np.ones((5, 2)), None),
            (np.ones(3), None),
            (np.ones((5, 3)), np.array([0, 1])),
            (np.ones((5, 3)), np.array([0.0, 1, 2])),
            (np.ones((4, 3)), np.array([0, 1, 2])),
            (np.ones((5, 0)), np.empty(0, dtype=np.int64)),
        ],
    )
    def test_other_shapes_are_refused_by_name(self, columns: np.ndarray, targets: np.ndarray | None) -> None:
        arrays = {"weights": np.ones((5, 4)), "class_weights": columns}
        if targets is not None:
            arrays["class_targets"] = targets
        with pytest.raises(ShapeMismatchError, match=r"class.(weights|targets)"):
            AnalyticGate.from_statement_arrays(arrays, LEAVES, CLASS_NAMES, 32.0, False)

    def test_what_is_not_finite_or_of_no_class_is_refused(self) -> None:
        arrays = {"weights": np.ones((5, 4)), "class_weights": np.full((5, 3), np.nan)}
        with pytest.raises(InvalidInputError, match="class_weights"):
            AnalyticGate.from_statement_arrays(arrays, LEAVES, CLASS_NAMES, 32.0, False)
        arrays = self.arrays(gate()) | {"class_targets": np.array([0, 1, 1, 2, 3])}
        with pytest.raises(InvalidInputError, match=r"class rows.*0\.\.2"):
            AnalyticGate.from_statement_arrays(arrays, LEAVES, CLASS_NAMES, 32.0, False)
