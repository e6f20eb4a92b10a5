"""What growth is said to cost is what it costs: gate FLOPs are those that answers tell."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.candidate import Candidate
from coordinator.growth_benefit import Weighing, cost_of
from coordinator.growth_trial import weighing_of
from coordinator.solver_jobs import Group, Solution
from swarm.domain.combination import Combination
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import Digest
from swarm.domain.manifests import Cost, Manifest
from tests.support.trees import CLASS_NAMES, FIXED_POINT, RIDGES, SIZE, Grown, loaded, solved
from tests.support.trust import manifest, specification

GATE, ROOT, PROTOTYPES = (
    Combination(name="gate", top_k=2),
    Combination(name="root"),
    Combination(name="prototypes", top_k=2),
)
TRUNK = replace(specification().trunk, feature_size=SIZE, fixed_point=FIXED_POINT, has_constant=False)
SPECIFICATION = replace(specification(), class_names=CLASS_NAMES, trunk=TRUNK)


def weighing(found: tuple[Group, Solution]) -> Weighing:
    group, solution = found
    candidate = Candidate(group=group, ridges=RIDGES, solution=solution, has_corrections=False)
    return weighing_of(candidate, SPECIFICATION)


def answering(leaf: GateLeaf) -> tuple[Digest, Manifest] | None:
    """Every leaf's expert costs 100 a query, node-0's 300; each took 7 to train."""
    each = 300 if leaf.owner == "node-0" else 100
    cost = Cost(train_flops=7, inference_flops=each, samples_seen=1, duration_s=1.0)
    return Digest(leaf.leaf), replace(manifest(owner=leaf.owner), cost=cost)


def owners(count: int) -> list[Grown]:
    found = [Grown(owner=owner) for owner in range(count)]
    for each in found:
        each.join()
    return found


@settings(max_examples=60, deadline=None)
@given(
    splits=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 999), st.booleans()), min_size=1, max_size=8),
    with_sums=st.booleans(),
)
def test_the_gates_cost_that_is_told_is_the_one_that_its_answers_tell(
    splits: list[tuple[int, int, bool]], with_sums: bool
) -> None:
    grown = owners(3)
    whole = solved([each.contribution(with_sums=with_sums) for each in grown])
    for owner, choice, learned in splits:
        grown[owner].split(choice, learned=learned)
    parts = solved([each.contribution(with_sums=with_sums) for each in grown])
    before, after = weighing(whole), weighing(parts)
    for combination in (GATE, ROOT, PROTOTYPES) if with_sums else (PROTOTYPES,):
        told = cost_of(combination, before, after, answering)
        for when, found in (("before", whole), ("after", parts)):
            _, prototypes, analytic = loaded(found)
            gate = prototypes if combination is PROTOTYPES else analytic
            assert gate is not None
            assert told[f"gate_flops_{when}"] == gate.flops_per_query


@pytest.mark.parametrize("learned", [False, True])
def test_a_split_costs_a_product_for_each_child_and_none_for_its_classes(learned: bool) -> None:
    """Of M = 9 rows of W and six targets; a learned gate looks at the features of regions alone."""
    grown = owners(1)
    whole = solved([each.contribution() for each in grown])
    assert grown[0].split(0, learned=learned)
    parts = solved([each.contribution() for each in grown])
    told = cost_of(GATE, weighing(whole), weighing(parts), answering)
    rows, targets = SIZE + 1, 6
    assert told["gate_flops_before"] == 2 * rows * targets + 2 * rows + 2 * targets + 8 * 2
    children = (2 * SIZE if learned else 2 * rows * 2) + 8 * 2
    assert told["gate_flops_after"] == told["gate_flops_before"] + children


def test_the_cost_of_a_split_is_told_before_and_after() -> None:
    grown = owners(2)
    before = weighing(solved([each.contribution() for each in grown]))
    grown[0].split(0, learned=False)
    after = weighing(solved([each.contribution() for each in grown]))
    found = cost_of(GATE, before, after, answering)
    assert found["train_flops"] == 2 * 7
    assert found["expert_flops_before"] == 2 * (2 * 300 + 2 * 100) / 4
    assert found["expert_flops_after"] == pytest.approx(2 * (3 * 300 + 2 * 100) / 5)


def test_a_gate_without_leaves_costs_nothing() -> None:
    group = Group(contributions=(), leaves=())
    nothing = weighing_of(
        Candidate(group=group, ridges=RIDGES, solution=None, has_corrections=False), SPECIFICATION
    )
    assert (nothing.flops_per_query(GATE), nothing.flops_per_query(PROTOTYPES)) == (0, 0)
