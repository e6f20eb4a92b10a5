"""How far out an input lies, by what owners contributed: prototypes, their radii and counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.distances import squared_distances
from swarm.gating.out_of_distribution import REACH, out_of_distribution, reaches
from swarm.gating.prototype_gate import PrototypeGate, build_prototype_gate
from swarm.gating.regions import LeafSummary, summarise_leaf


def clouds(seed: int, spreads: tuple[float, ...], count: int = 600) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        (random.normal(scale=spread, size=(count, 4)) + 40 * place).astype(np.float32)
        for place, spread in enumerate(spreads)
    ]


def gate_of(parts: list[np.ndarray], prototypes: int) -> PrototypeGate:
    return build_prototype_gate([summarise_leaf(part, prototypes=prototypes, seed=0) for part in parts])


@settings(max_examples=10)
@given(st.integers(0, 99), st.sampled_from([1, 3, 12]))
def test_about_one_in_a_hundred_training_samples_lies_beyond_its_own_regions_reach(
    seed: int, prototypes: int
) -> None:
    parts = clouds(seed, (0.3, 1.0, 5.0))
    gate = gate_of(parts, prototypes)
    reach = reaches(gate)
    for place, part in enumerate(parts):
        own = gate.prototypes[gate.leaf_rows == place].astype(np.float64)
        exact = np.quantile(np.sqrt(squared_distances(part, own).min(axis=1)), REACH)
        assert reach[place] == pytest.approx(exact, rel=0.15)
        beyond = (out_of_distribution(gate, part, reach) > 1).mean()
        assert 0 <= beyond <= 0.03


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=8),
    st.integers(1, 50),
)
def test_a_reach_lies_among_its_prototypes_largest_radii(
    radii: list[tuple[float, float, float]], count: int
) -> None:
    rising = np.sort(np.array(radii, dtype=np.float32), axis=1)
    summary = LeafSummary(
        prototypes=np.arange(4 * len(radii), dtype=np.float32).reshape(-1, 4),
        counts=np.full(len(radii), count),
        radii=rising,
    )
    found = float(reaches(build_prototype_gate([summary], temperature=1.0))[0])
    last = rising[:, 2].astype(np.float64)
    most = last + (last - rising[:, 1]) / 9
    assert last.min() * (1 - 1e-6) <= found <= most.max() * (1 + 1e-6) + 1e-12


def test_what_is_far_from_everybody_scores_high_and_distances_are_in_each_regions_own_unit() -> None:
    parts = clouds(3, (0.5, 5.0))
    gate = gate_of(parts, 4)
    reach = reaches(gate)
    offset = np.array([[6.0, 0, 0, 0]], dtype=np.float32)
    near, wide = (out_of_distribution(gate, part.mean(axis=0)[None] + offset, reach)[0] for part in parts)
    assert near > 2 > wide
    far = out_of_distribution(gate, np.full((1, 4), 1e4, np.float32), reach)
    assert far[0] > 100 and far.dtype == np.float32
    with pytest.raises(ShapeMismatchError):
        out_of_distribution(gate, np.zeros((1, 3), np.float32), reach)


def test_one_point_alone_has_no_reach_and_all_else_is_beyond_it() -> None:
    point = np.ones((8, 4), np.float32)
    gate = gate_of([point], 1)
    found = out_of_distribution(gate, np.concatenate([point[:1], point[:1] + 1]), reaches(gate))
    assert found[0] == 0 and found[1] > 1e6 and np.isfinite(found).all()
