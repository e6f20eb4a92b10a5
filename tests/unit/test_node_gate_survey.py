"""What a node finds of each leaf on its own validation data: sums over what is routed to it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from node.gate_survey import survey, survey_combination, survey_options
from node.gate_trial import TrialGate, Voice, arrays_for
from swarm.domain.combination import Combination
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.growth import LeafSurvey
from swarm.domain.ids import LeafId, NodeId, expert_of, owner_of
from swarm.gating.branches import Cluster
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.tree import Tree
from tests.support import trust

PLACES = np.float32([[0, 0], [0.5, 0], [0, 3], [10, 0], [10, 0.4]])
LABELS = ["cat", "dog", "owl", "cat", "owl"]
TOP_1 = Combination(name="prototypes", temperature=1.0)


def leaf(name: str, parent: str = "", manifest: str = "") -> GateLeaf:
    id = LeafId(name)
    return GateLeaf(
        leaf=id,
        owner=owner_of(id),
        expert=expert_of(id),
        class_names=("cat", "dog"),
        parent=parent,
        manifest=manifest,
    )


def cluster(*place: float) -> Cluster:
    return Cluster(
        prototypes=np.float32([place]), log_prior=np.zeros(1, np.float32), radii=np.float32([[0.5, 1, 2]])
    )


def gate(identities: tuple[str, ...] = ()) -> TrialGate:
    """ada's leaf was split at the origin; bob's is at (10, 0)."""
    leaves = (leaf("ada.l2", "ada.l1"), leaf("ada.l3", "ada.l1"), leaf("bob.l1"))
    branches = (GateBranch(leaf=LeafId("ada.l1"), owner=NodeId("ada")),)
    nodes = [cluster(0, 0), cluster(0, 3), cluster(10, 0), cluster(0, 0)]
    return TrialGate(
        class_names=("cat", "dog", "owl"),
        leaves=leaves,
        prototypes=PrototypeGate.of_nodes(nodes, Tree.of(leaves, branches), {}, 1.0),
        identities=identities,
    )


def voice(*rows: list[float]) -> Voice:
    return Voice(class_names=("cat", "dog"), probabilities=np.float32(rows))


def test_each_leaf_sums_up_what_its_own_expert_says_of_the_samples_that_go_to_it() -> None:
    mine = voice([0.9, 0.1], [0.4, 0.6], [1, 0], [1, 0], [1, 0])
    theirs = voice([0, 1], [0, 1], [0.3, 0.7], [0, 1], [0, 1])
    found = survey(LABELS, PLACES, gate(), TOP_1, {"ada.e2": mine, "ada.e3": theirs})
    assert [each.leaf for each in found] == ["ada.l2", "ada.l3", "bob.l1"]
    assert (found[0].samples, found[0].correct, found[0].novel) == (2, 2, 0)
    assert found[0].nll_sum == pytest.approx(-np.log(0.9) - np.log(0.6), rel=1e-6)
    # An owl, which the expert does not know; (0, 3) is beyond 2 of the region's prototype at the origin.
    assert (found[1].samples, found[1].correct, found[1].novel) == (1, 0, 1)
    assert found[1].nll_sum == pytest.approx(-np.log(1e-6))
    assert found[2] == LeafSurvey(leaf=LeafId("bob.l1"), samples=2, nll_sum=0.0, correct=0, novel=0)


def test_of_exact_copies_the_first_stands_for_both() -> None:
    alike = ("net", "net", "other")
    found = survey(LABELS, PLACES, gate(alike), TOP_1, {})
    assert [(each.leaf, each.samples, each.novel) for each in found] == [("ada.l2", 3, 1), ("bob.l1", 2, 0)]


def test_a_pinned_leaf_is_known_by_its_version() -> None:
    whole = gate()
    pinned = replace(
        whole, leaves=(replace(whole.leaves[0], manifest="ab" * 32), *whole.leaves[1:]), identities=()
    )
    right: NDArray[np.float32] = np.float32([[1, 0]] * 5)
    voices = {
        "ada.e2": voice(*[[0, 1]] * 5),
        "ab" * 32: Voice(class_names=("cat", "dog"), probabilities=right),
    }
    assert pinned.experts[0] == "ab" * 32
    assert survey(LABELS, PLACES, pinned, TOP_1, voices)[0].correct == 1


def test_samples_are_routed_by_what_asks_experts() -> None:
    served, other = Combination(name="poe", top_k=4, strength=2.0), Combination(name="gate", top_k=2)
    root, near = Combination(name="root"), Combination(name="prototypes", temperature=3.0, top_k=4)
    value = replace(trust.gate(), kind="analytic", combinations=(root, near, other, served), served=3)
    assert survey_combination(value) == replace(served, top_k=1)
    assert survey_combination(replace(value, served=0)) == replace(other, top_k=1)
    plain = replace(value, kind="prototypes", combinations=(near,), served=0)
    assert survey_combination(plain) == replace(near, top_k=1)
    assert survey_combination(replace(value, combinations=(root,), served=0)).name == "prototypes"


def test_only_the_arrays_that_a_survey_needs_are_named() -> None:
    branches = (GateBranch(leaf=LeafId("ada.l1"), owner=NodeId("ada"), is_learned=True),)
    value = replace(trust.gate(), leaves=gate().leaves, branches=branches)
    prototypes = {"prototypes.0", "prototypes.1", "prototypes.2", "branch.0", "log_prior", "radii", "split.0"}
    assert set(arrays_for(value, survey_options(TOP_1))) == prototypes
    asked = survey_options(Combination(name="gate"))
    assert set(arrays_for(value, asked)) == prototypes | {"weights", "branch_weights"}


def test_novelty_cannot_be_told_without_prototypes() -> None:
    with pytest.raises(InvalidInputError, match="prototypes"):
        survey(LABELS, PLACES, replace(gate(), prototypes=None), TOP_1, {})
