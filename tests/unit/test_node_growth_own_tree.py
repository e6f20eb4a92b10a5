"""The tree of a node's leaves over histories of growth, withdrawals and rollbacks to any gate of before."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.growth.changes import Place, TreeChange, merged_places, pruned, split_places, tree_change
from node.growth.own_tree import KEPT_CONTRIBUTED, OwnTree
from swarm.domain.growth import ProposalKind
from swarm.domain.ids import LeafId

Places = dict[LeafId, Place]


class Node:
    """A node that grows and contributes; `gates` are its contributions with the trees that they are of."""

    def __init__(self) -> None:
        self.tree = OwnTree(lambda: None)
        self.known: list[LeafId] = []
        self.gates: list[tuple[str, Places]] = []
        self.version = 0
        self.proposals = 0
        self.new_leaf()
        self.contribute()

    def new_leaf(self) -> LeafId:
        leaf = LeafId(f"ada.l{len(self.known) + 1}")
        self.known.append(leaf)
        return leaf

    @property
    def places(self) -> Places:
        return self.tree.places(self.known)

    @property
    def leaves(self) -> list[LeafId]:
        return [leaf for leaf, place in self.places.items() if place.standing == "leaf"]

    def contribute(self) -> None:
        """Let the gate have what there is, as it does for an ordinary contribution."""
        digest = f"digest {len(self.gates)}"
        self.tree.note_contributed(digest)
        self.version += 1
        self.gates.append((digest, self.places))

    def propose(self, choose: Callable[[int], int]) -> TreeChange:
        """Return what one proposal changes, of a kind that there are leaves enough for."""
        leaves, places = self.leaves, self.places
        one = leaves[choose(len(leaves))]
        kinds: list[ProposalKind] = ["split", "add", *(("merge", "remove") if len(leaves) > 1 else ())]
        kind = kinds[choose(len(kinds))]
        other = [leaf for leaf in leaves if leaf != one][choose(len(leaves) - 1)] if len(leaves) > 1 else one
        if kind == "split":
            after = split_places(places, one, [self.new_leaf(), self.new_leaf()])
        elif kind == "add":
            after = {**places, self.new_leaf(): Place()}
        elif kind == "merge":
            after = merged_places(places, [one, other], self.new_leaf())
        else:
            after = pruned(places, [one])
        self.proposals += 1
        return tree_change(f"p{self.proposals}", kind, places, after, {})

    def rollback(self, to: int) -> None:
        digest, _ = self.gates[to]
        self.version += 1
        self.tree.follow(["another node's", digest], self.version)

    def restart(self) -> None:
        fields: dict[str, Any] = json.loads(json.dumps(self.tree.fields()))
        self.tree = OwnTree(lambda: None)
        self.tree.load(fields)


def check_sound(places: Places) -> None:
    """Every parent is a branch that is there, with two children or more."""
    parents = [place.parent for place in places.values() if place.parent]
    branches = {leaf for leaf, place in places.items() if place.standing == "branch"}
    assert set(parents) == branches and all(parents.count(branch) >= 2 for branch in branches)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_after_a_rollback_to_any_gate_the_tree_is_what_it_was_then(data: st.DataObject) -> None:
    node = Node()

    def choose(count: int) -> int:
        return data.draw(st.integers(0, max(0, count - 1)))

    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(
            st.sampled_from(("accepted", "accepted", "refused", "learned", "rollback", "restart"))
        )
        if step in ("accepted", "refused"):
            before, change = node.places, node.propose(choose)
            node.tree.note_change(change)
            digest = f"digest of {change.proposal}"
            node.tree.note_contributed(digest)
            node.version += 1
            assert node.tree.follow([node.gates[0][0]], node.version) == (), "one is on trial"
            if step == "accepted":
                node.tree.settle(change.proposal, node.version)
                node.gates.append((digest, node.places))
            else:
                node.tree.put_back(change.proposal, node.version)
                assert node.places == before
        elif step == "learned":
            node.contribute()
        elif step == "rollback":
            to = choose(len(node.gates))
            node.rollback(to)
            assert node.places == node.gates[to][1]
        else:
            node.restart()
        check_sound(node.places)
    to = choose(len(node.gates))
    node.rollback(to)
    assert node.places == node.gates[to][1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_was_withdrawn_never_comes_back_and_no_leaf_is_under_what_is_gone(data: st.DataObject) -> None:
    node, withdrawn = Node(), set[LeafId]()

    def choose(count: int) -> int:
        return data.draw(st.integers(0, max(0, count - 1)))

    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(("accepted", "on trial", "withdrawn", "rollback", "restart")))
        if step in ("accepted", "on trial") and node.leaves:
            change = node.propose(choose)
            node.tree.note_change(change)
            if step == "on trial" and node.leaves:  # something is withdrawn meanwhile, and it fails
                gone = node.leaves[choose(len(node.leaves))]
                node.tree.withdraw(gone)
                withdrawn.add(gone)
                node.tree.put_back(change.proposal, node.version)
            else:
                node.tree.settle(change.proposal, node.version)
                node.contribute()
        elif step == "withdrawn" and node.leaves:
            gone = node.leaves[choose(len(node.leaves))]
            node.tree.withdraw(gone)
            withdrawn.add(gone)
        elif step == "rollback":
            node.rollback(choose(len(node.gates)))
        elif step == "restart":
            node.restart()
        check_sound(node.places)
        assert not withdrawn & set(node.leaves)


def test_only_the_newest_contributions_are_remembered() -> None:
    tree = OwnTree(lambda: None)
    for number in range(KEPT_CONTRIBUTED + 5):
        tree.note_contributed(f"digest {number}")
    fields = json.loads(json.dumps(tree.fields()))
    ((proposals, digests),) = fields["contributed"]
    assert proposals == [] and len(digests) == KEPT_CONTRIBUTED and digests[0] == "digest 5"
