"""A split changes no answer: not of any tree, gate, net, combination or top-k."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swarm.domain.combination import USES_EXPERTS, Combination, CombinationName
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import LeafId
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import expert_weights, may_speak, mix
from swarm.gating.gate_arrays import Placed
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.routing import plan_route
from swarm.gating.tree import MAX_DEPTH, Tree, logistic_shares, softmax_shares
from tests.support.trees import CLASS_NAMES, OWNERS, SIZE, Grown, loaded, solved

COUNT = 24
NAMES: tuple[CombinationName, ...] = ("root", "gate", "poe", "corrected", "prototypes")


@dataclass(frozen=True)
class At:
    """Where a leaf or a branch stands."""

    leaf: LeafId
    parent: str = ""
    is_learned: bool = False


def at(number: int, parent: int = 0, owner: str = "ada", **changes: bool) -> At:
    above = f"{owner}.l{parent}" if parent else ""
    return At(leaf=LeafId(f"{owner}.l{number}"), parent=above, **changes)


def said(net: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a net says of COUNT samples: probabilities and corrections over all classes."""
    rng = np.random.default_rng(sum(map(ord, net)))
    corrections = rng.normal(size=(COUNT, len(CLASS_NAMES))).astype(np.float32)
    probabilities = rng.dirichlet(np.full(len(CLASS_NAMES), 0.4), COUNT).astype(np.float32)
    return probabilities, corrections


class Gate:
    """A gate over owners' leaves, and what it answers about the same samples."""

    def __init__(self, owners: Sequence[Grown], *, with_sums: bool) -> None:
        found = solved([each.contribution(with_sums=with_sums) for each in owners])
        nets = {leaf: net for each in owners for leaf, net in each.nets().items()}
        self.placed: Placed
        self.prototypes: PrototypeGate
        self.analytic: AnalyticGate | None
        self.placed, self.prototypes, self.analytic = loaded(found)
        self.identities = [nets[leaf.leaf] for leaf in found[0].leaves]
        rng = np.random.default_rng(5)
        self.features = (2 * rng.normal(size=(COUNT, SIZE))).astype(np.float32)

    def weights(self, combination: Combination) -> NDArray[np.floating]:
        scores = self.analytic.scores(self.features) if self.analytic is not None else None
        return expert_weights(combination, self.analytic, self.prototypes, scores, self.features)

    def answers(self, combination: Combination, uniform: bool = False) -> NDArray[np.float32]:
        base, parts = None, []
        if self.analytic is not None:
            base = self.analytic.class_scores(self.analytic.scores(self.features))
        if combination.name in USES_EXPERTS:
            leaves, top_k = len(self.identities), combination.top_k
            weights, allowed = self.weights(combination), may_speak(combination, self.analytic, leaves)
            if uniform:
                weights, top_k = np.ones((COUNT, leaves)), len(set(self.identities))
            plan = plan_route(weights, self.identities, top_k, allowed)
            for leaf, net in enumerate(self.identities):
                rows, places = np.nonzero(plan.choices == leaf)
                values = said(net)[combination.name == "corrected"][rows]
                given_ = np.ones(len(rows)) if uniform else plan.weights[rows, places]
                parts.append((rows, given_, np.arange(len(CLASS_NAMES)), values))
        return mix(combination, class_scores=base, parts=parts, batch=COUNT, classes=len(CLASS_NAMES))

    def combination(self, name: CombinationName, temperature: float, top_k: int) -> Combination:
        scale = self.prototypes.scale if name == "prototypes" else 1.0
        return Combination(name=name, temperature=temperature * scale, top_k=top_k)


@settings(max_examples=80, deadline=None)
@given(
    splits=st.lists(
        st.tuples(st.integers(0, OWNERS - 1), st.integers(0, 999), st.booleans()), min_size=1, max_size=7
    ),
    trained=st.sets(st.integers(0, 6)),
    with_sums=st.booleans(),
    temperature=st.sampled_from([0.05, 0.2, 1.0]),
)
def test_at_a_split_into_exact_copies_no_answer_changes(
    splits: list[tuple[int, int, bool]], trained: set[int], with_sums: bool, temperature: float
) -> None:
    """Splits follow each other, some after the children before them were trained apart."""
    owners = [Grown(owner=owner) for owner in range(OWNERS)]
    for each in owners:
        each.join()
    before = Gate(owners, with_sums=with_sums)
    for place, (owner, choice, learned) in enumerate(splits):
        children = owners[owner].split(choice, learned=learned)
        after = Gate(owners, with_sums=with_sums)
        names = NAMES if with_sums else ("prototypes",)
        for name in names:
            for top_k in range(1, 6):
                combination = before.combination(name, temperature, top_k)
                was, now = before.answers(combination), after.answers(combination)
                assert np.abs(np.log(now) - np.log(was)).max() < 1e-6, (name, top_k)
                assert (now.argmax(axis=1) == was.argmax(axis=1)).all()
        evenly = before.combination("prototypes", temperature, 1)
        assert np.allclose(
            after.answers(evenly, uniform=True), before.answers(evenly, uniform=True), atol=1e-6
        )
        if place in trained:
            for child in children:
                owners[owner].leaves[child].net += f" {child}"
            after = Gate(owners, with_sums=with_sums)
        before = after


@settings(max_examples=40, deadline=None)
@given(
    splits=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 999), st.booleans()), max_size=8),
    with_sums=st.booleans(),
)
def test_the_weights_of_a_regions_leaves_are_those_of_the_leaf_that_it_was_to_the_bit(
    splits: list[tuple[int, int, bool]], with_sums: bool
) -> None:
    owners = [Grown(owner=owner) for owner in range(2)]
    for each in owners:
        each.join()
    whole = Gate(owners, with_sums=with_sums)
    for owner, choice, learned in splits:
        owners[owner].split(choice, learned=learned)
    parts = Gate(owners, with_sums=with_sums)
    combination = whole.combination("gate" if with_sums else "prototypes", 0.2, 1)
    found, tree = parts.weights(combination), parts.placed.tree
    assert tree.nodes == len(tree.parents) and len(tree.regions) == 4
    regions = np.zeros((COUNT, 4))
    for leaf, place in enumerate(tree.region_of):
        regions[:, place] += found[:, leaf]
    assert np.array_equal(regions, whole.weights(combination))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert parts.prototypes.scale == whole.prototypes.scale
    novelty = parts.prototypes.novelty(parts.features)
    assert np.array_equal(novelty, whole.prototypes.novelty(whole.features))
    if splits and tree.children:
        assert parts.prototypes.flops_per_query > whole.prototypes.flops_per_query


def test_a_branchs_score_stays_the_sum_of_its_childrens() -> None:
    owners = [Grown(owner=0), Grown(owner=1)]
    for each in owners:
        each.join()
    before = solved([each.contribution() for each in owners])[1].weights
    owners[0].split(0, learned=False)
    group, after = solved([each.contribution() for each in owners])
    assert before is not None and after.weights is not None and after.branch_weights is not None
    widths = np.cumsum([len(leaf.class_names) for leaf in group.leaves])
    assert [leaf.parent for leaf in group.leaves] == ["", "node-0.l1", "node-0.l1", "", ""]
    under = after.weights[0][:, widths[0] : widths[2]].astype(np.float64)
    of_branch = after.branch_weights[0].astype(np.float64)
    assert np.abs(under.sum(axis=1) - of_branch.sum(axis=1)).max() < 1e-6 * np.abs(of_branch).max()
    assert np.array_equal(after.branch_weights[0], before[0][:, : of_branch.shape[1]])


def test_children_share_their_parents_weight_by_their_scores_or_prototypes() -> None:
    owner = Grown(owner=0)
    owner.join()
    owner.split(0, learned=False)
    for with_sums in (True, False):
        gate = Gate([owner], with_sums=with_sums)
        found = gate.weights(gate.combination("gate" if with_sums else "prototypes", 0.2, 1))
        one, two = (row for row, parent in enumerate(gate.placed.tree.parents[:3]) if parent >= 0)
        shares = found[:, one] / (found[:, one] + found[:, two])
        assert shares.std() > 0.01 and shares.min() >= 0 and shares.max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-600, 600), min_size=1, max_size=9))
def test_the_two_sides_of_a_learned_gate_come_to_one(logits: list[float]) -> None:
    shares = logistic_shares(np.array(logits))
    assert (shares.sum(axis=1) == 1).all() and (shares >= 0).all()
    np.testing.assert_allclose(shares[:, 0], 1 / (1 + np.exp(-np.array(logits))), rtol=1e-9, atol=1e-16)


def test_a_learned_gate_gives_the_first_child_by_number_its_logistic() -> None:
    owner = Grown(owner=0)
    owner.join()
    owner.split(0, learned=True)
    gate = Gate([owner], with_sums=True)
    split = owner.branches[1].split
    assert split is not None
    g = 1 / (1 + np.exp(-(gate.features.astype(np.float64) @ split[:-1] + split[-1])))
    for name in ("gate", "prototypes"):
        found = gate.weights(gate.combination(name, 0.2, 1))  # type: ignore[arg-type]
        np.testing.assert_allclose(found[:, 1], g * (found[:, 1] + found[:, 2]), rtol=1e-5, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_shares_of_any_depth_add_up_exactly(seed: int, depth: int, fan: int) -> None:
    rng = np.random.default_rng(seed)
    leaves, branches, number = [], [], 1
    for level in range(depth):
        parent = number if level else 0
        number += 1
        branches.append(at(number, parent))
        for _ in range(fan):
            leaves.append(at(100 + len(leaves), number))
    tree = (
        Tree.of([*leaves, at(1000)], branches)
        if depth == 1
        else Tree.of([*leaves, at(1000)], _chain(branches))
    )
    regions = rng.dirichlet(np.ones(len(tree.regions)), 7).astype(np.float32)
    shares = [softmax_shares(40 * rng.normal(size=(7, len(c))), 1.0) for c in tree.children]
    weights = tree.leaf_weights(regions, shares)
    order = rng.permutation(len(leaves))
    assert np.array_equal(weights[:, order].cumsum(axis=1)[:, -1], regions[:, 0].astype(np.float64))
    assert np.array_equal(weights[:, -1], regions[:, 1].astype(np.float64)) and (weights >= 0).all()


def _chain(branches: list[At]) -> list[At]:
    """Each branch under the one before it."""
    return [
        At(leaf=branch.leaf, parent=branches[row - 1].leaf if row else "")
        for row, branch in enumerate(branches)
    ]


def test_regions_come_by_owner_and_number_and_children_by_number() -> None:
    leaves = [at(2), at(12, 3), at(4, 3), at(1, owner="bob"), at(7, owner="bob")]
    tree = Tree.of(leaves, [at(3)])
    assert tree.regions == (0, 5, 3, 4) and tree.children == ((2, 1),)
    assert tree.region_of == (0, 1, 1, 2, 3) and tree.leaves_of(5) == (1, 2)
    flat = Tree.of([at(9), at(2)], [])
    assert flat == Tree.flat(2) and flat.regions == (0, 1)


@pytest.mark.parametrize(
    ("leaves", "branches", "named"),
    [
        ([at(1, 9)], [], "unknown parent"),
        ([at(1, 9), at(2)], [at(3)], "unknown parent"),
        ([at(1), at(2)], [at(3)], "no children"),
        ([at(1, 3), at(2, 3)], [at(3), at(3)], "twice"),
        ([at(1, 3), at(3)], [at(3)], "twice"),
        ([At(LeafId("bob.l1"), "ada.l3")], [at(3)], "another owner"),
        ([at(1)], [at(3, 4), at(4, 3)], "cycle"),
        (
            [at(1, 10 + MAX_DEPTH)],
            [at(10 + row, 9 + row if row else 0) for row in range(MAX_DEPTH + 1)],
            "more than",
        ),
    ],
)
def test_what_is_no_tree_is_refused_by_name(leaves: list[At], branches: list[At], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        Tree.of(leaves, branches)


def test_damaged_arrays_of_branches_are_refused_by_name() -> None:
    owner = Grown(owner=0)
    owner.join()
    owner.split(0, learned=True)
    group, solution = solved([owner.contribution()])
    placed = Placed.of(group.leaves, group.branches)
    assert solution.weights is not None and solution.branch_weights is not None
    sound = {
        **solution.prototypes,
        "weights": solution.weights[0],
        "branch_weights": solution.branch_weights[0],
    }
    for name, value, refusal in (
        ("branch_weights", None, ShapeMismatchError),
        ("branch_weights", solution.branch_weights[0][:, 1:], ShapeMismatchError),
        ("branch_weights", np.full_like(solution.branch_weights[0], np.nan), InvalidInputError),
        ("split.0", None, ShapeMismatchError),
        ("split.0", np.zeros(3, np.float32), ShapeMismatchError),
        ("split.0", np.full(SIZE + 1, np.inf, np.float32), InvalidInputError),
    ):
        arrays = {key: array for key, array in sound.items() if key != name or value is not None}
        if value is not None:
            arrays[name] = value
        with pytest.raises(refusal, match=r"branch_weights|split\.0|gate weights"):
            AnalyticGate.from_statement_arrays(arrays, group.leaves, CLASS_NAMES, 32.0, False, placed)
    with pytest.raises(ShapeMismatchError, match=r"branch\.0"):
        kept = {key: array for key, array in sound.items() if key != "branch.0"}
        PrototypeGate.from_arrays(kept, leaves=3, temperature=1.0, tree=placed.tree)
