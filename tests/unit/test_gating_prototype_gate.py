"""The prototype gate: a pure function of contributions whose weights are always a distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.prototype_gate import PrototypeGate, build_prototype_gate, temperature_grid
from swarm.gating.regions import LeafSummary, summarise_leaf

SIZE = 3
ANY_FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
RADII = st.floats(0, 2.0**100, width=32)
FEATURES = arrays(np.float32, st.tuples(st.integers(1, 8), st.just(SIZE)), elements=ANY_FLOAT32)


@st.composite
def summaries(draw: st.DrawFn) -> LeafSummary:
    count = draw(st.integers(1, 5))
    return LeafSummary(
        prototypes=draw(arrays(np.float32, (count, SIZE), elements=ANY_FLOAT32)),
        counts=draw(arrays(np.int64, count, elements=st.integers(1, 10**9))),
        radii=np.sort(draw(arrays(np.float32, (count, 3), elements=RADII)), axis=1),
    )


LEAVES = st.lists(summaries(), min_size=1, max_size=5)


def leaf(centre: list[float], count: int = 100, spread: float = 1.0, prototypes: int = 4) -> LeafSummary:
    rng = np.random.default_rng(0)
    samples = (np.array(centre) + spread * rng.normal(size=(count, len(centre)))).astype(np.float32)
    return summarise_leaf(samples, prototypes=prototypes, seed=0)


@settings(max_examples=150, deadline=None)
@given(LEAVES, FEATURES, st.floats(1e-30, 1e30))
def test_weights_are_positive_finite_and_sum_to_one_for_any_features(
    leaves: list[LeafSummary], features: np.ndarray, temperature: float
) -> None:
    gate = build_prototype_gate(leaves, temperature)
    weights = gate.leaf_weights(features)
    assert weights.shape == (len(features), len(leaves)) and weights.dtype == np.float32
    assert np.isfinite(np.log(weights)).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    novelty = gate.novelty(features)
    assert np.isfinite(novelty).all() and (novelty >= 0).all()


@settings(max_examples=80, deadline=None)
@given(LEAVES)
def test_the_scale_and_the_grid_are_positive_and_rising_for_any_prototypes(leaves: list[LeafSummary]) -> None:
    gate = build_prototype_gate(leaves)
    grid = temperature_grid(gate)
    assert np.isfinite(grid).all() and grid[0] > 0 and list(grid) == sorted(set(grid))
    assert gate.temperature in grid


@settings(max_examples=40, deadline=None)
@given(LEAVES)
def test_the_same_contributions_build_the_same_gate_to_the_bit(leaves: list[LeafSummary]) -> None:
    before = [(s.prototypes.tobytes(), s.counts.tobytes(), s.radii.tobytes()) for s in leaves]
    first, second = build_prototype_gate(leaves), build_prototype_gate(leaves)
    assert [a.tobytes() for a in first.arrays().values()] == [a.tobytes() for a in second.arrays().values()]
    assert first.temperature == second.temperature
    assert [(s.prototypes.tobytes(), s.counts.tobytes(), s.radii.tobytes()) for s in leaves] == before


@settings(max_examples=40, deadline=None)
@given(LEAVES, FEATURES)
def test_a_gate_survives_its_arrays(leaves: list[LeafSummary], features: np.ndarray) -> None:
    gate = build_prototype_gate(leaves)
    again = PrototypeGate.from_arrays(gate.arrays(), leaves=gate.leaves, temperature=gate.temperature)
    assert gate.leaf_weights(features).tobytes() == again.leaf_weights(features).tobytes()


def test_a_leaf_keeps_its_array_when_another_joins() -> None:
    alone, joined = leaf([0, 0, 0]), leaf([9, 0, 0])
    before, after = (build_prototype_gate(leaves).arrays() for leaves in ([alone], [alone, joined]))
    assert before["prototypes.0"].tobytes() == after["prototypes.0"].tobytes()


def test_a_gate_without_an_owner_is_the_gate_that_never_had_it() -> None:
    stays, goes = [leaf([0, 0, 0]), leaf([9, 0, 0])], leaf([0, 9, 0])
    without = build_prototype_gate([part for part in [stays[0], goes, stays[1]] if part is not goes])
    assert [a.tobytes() for a in without.arrays().values()] == [
        a.tobytes() for a in build_prototype_gate(stays).arrays().values()
    ]


def test_features_near_a_leaf_go_to_it() -> None:
    gate = build_prototype_gate([leaf([0, 0, 0]), leaf([20, 0, 0]), leaf([0, 20, 0])])
    weights = gate.leaf_weights(np.array([[0.5, 0, 0], [19, 1, 0], [1, 21, 0]], np.float32))
    assert weights.argmax(axis=1).tolist() == [0, 1, 2] and weights.max(axis=1).min() > 0.9


def test_a_higher_temperature_spreads_the_weights() -> None:
    gate = build_prototype_gate([leaf([0, 0, 0]), leaf([6, 0, 0])])
    at = np.array([[2.0, 0, 0]], np.float32)
    tops = [gate.leaf_weights(at, temperature).max() for temperature in temperature_grid(gate)]
    assert tops == sorted(tops, reverse=True) and tops[0] > tops[-1]


def test_temperatures_scale_with_the_features() -> None:
    small = build_prototype_gate([leaf([0, 0, 0]), leaf([6, 0, 0])])
    large = build_prototype_gate(
        [
            LeafSummary(prototypes=1000 * s.prototypes, counts=s.counts, radii=1000 * s.radii)
            for s in (leaf([0, 0, 0]), leaf([6, 0, 0]))
        ]
    )
    at = np.array([[2.5, 0, 0]], np.float32)
    assert np.allclose(small.leaf_weights(at), large.leaf_weights(1000 * at), atol=1e-4)


def test_between_equal_leaves_the_one_with_more_samples_weighs_more() -> None:
    gate = build_prototype_gate([leaf([0, 0, 0], 100, prototypes=1), leaf([0, 0, 0], 300, prototypes=1)])
    weights = gate.leaf_weights(np.zeros((1, 3), np.float32))
    assert weights[0, 1] > 2 * weights[0, 0]


def test_a_claim_of_a_billion_samples_does_not_drown_the_others() -> None:
    honest = [leaf([0, 0, 0], prototypes=1), leaf([0, 3, 0], prototypes=1)]
    weights = build_prototype_gate([*honest, counted(10**9)]).leaf_weights(np.zeros((1, 3), np.float32))
    assert weights[0, 0] > 0.15


@pytest.mark.parametrize(
    ("owners", "counts", "effective"),
    [
        ("ab", [600, 10**9], [600, 2400]),
        ("abcde" + 8 * "f", [600] * 5 + [10**9] * 8, [600] * 5 + [300] * 8),
        ("aab", [5 * 10**8, 10**9, 600], [800, 1600, 600]),
        ("abab", [300, 400, 300, 200], [300, 400, 300, 200]),
        ("aaaa", [1, 10**9, 5, 600], [1, 10**9, 5, 600]),
    ],
)
def test_an_owner_counts_as_much_as_four_median_owners_whatever_it_claims(
    owners: str, counts: list[int], effective: list[int]
) -> None:
    gate = build_prototype_gate([counted(count) for count in counts], 1.0, owners)
    assert np.expm1(gate.log_prior.astype(np.float64)) == pytest.approx(effective, rel=1e-4)


def test_a_gate_after_a_withdrawal_weighs_as_one_that_never_had_that_owner() -> None:
    parts = {"a": [600, 500], "b": [10**9] * 8, "c": [700], "d": [650]}

    def priors(*owners: str) -> bytes:
        leaves = [(counted(count), owner) for owner in owners for count in parts[owner]]
        gate = build_prototype_gate([part for part, _ in leaves], 1.0, [owner for _, owner in leaves])
        return gate.log_prior.tobytes()

    never = priors("a", "c", "d")
    assert priors("a", "b", "c", "d") != never
    del parts["b"]
    assert priors(*parts) == never


def counted(count: int) -> LeafSummary:
    return LeafSummary(
        prototypes=np.zeros((1, 3), np.float32),
        counts=np.array([count]),
        radii=np.ones((1, 3), np.float32),
    )


def test_novelty_is_above_one_beyond_the_samples_of_a_prototype() -> None:
    gate = build_prototype_gate([leaf([0, 0, 0]), leaf([20, 0, 0])])
    near, far = gate.novelty(np.array([[0.1, 0, 0], [0, 50, 0]], np.float32))
    assert near < 1 < far


def test_wrong_features_are_refused_by_name() -> None:
    gate = build_prototype_gate([leaf([0, 0, 0])])
    with pytest.raises(ShapeMismatchError, match="query features: found 4 columns; expected 3"):
        gate.leaf_weights(np.zeros((1, 4), np.float32))
    with pytest.raises(InvalidInputError, match="not finite in row 0"):
        gate.leaf_weights(np.full((1, 3), np.inf, np.float32))
    with pytest.raises(InvalidInputError, match="temperature"):
        gate.leaf_weights(np.zeros((1, 3), np.float32), 0.0)


def test_contributions_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no leaves"):
        build_prototype_gate([])
    with pytest.raises(InvalidInputError, match="owners: found 1; expected one of each of 2 leaves"):
        build_prototype_gate([leaf([0, 0, 0]), leaf([9, 0, 0])], owners=["ada"])
    with pytest.raises(ShapeMismatchError, match="prototypes of leaf 1"):
        build_prototype_gate([leaf([0, 0, 0]), leaf([0, 0])])
    empty = LeafSummary(
        prototypes=np.zeros((0, 3), np.float32),
        counts=np.zeros(0, np.int64),
        radii=np.zeros((0, 3), np.float32),
    )
    with pytest.raises(InvalidInputError, match="leaf 0"):
        build_prototype_gate([empty])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_prior", np.array([0, np.nan], np.float32)),
        ("radii", np.zeros((2, 2), np.float32)),
        ("radii", np.full((2, 3), -1, np.float32)),
        ("prototypes.1", np.full((1, 3), np.nan, np.float32)),
        ("prototypes.1", np.zeros((2, 3), np.float32)),
    ],
)
def test_damaged_gate_arrays_are_refused(name: str, value: np.ndarray) -> None:
    gate = build_prototype_gate([leaf([0, 0, 0], prototypes=1), leaf([9, 0, 0], prototypes=1)])
    with pytest.raises(InvalidInputError, match=r"gate|prototypes"):
        PrototypeGate.from_arrays({**gate.arrays(), name: value}, leaves=2, temperature=1.0)
    missing = {key: array for key, array in gate.arrays().items() if key != name}
    with pytest.raises(ShapeMismatchError, match=rf"no {name}"):
        PrototypeGate.from_arrays(missing, leaves=2, temperature=1.0)
