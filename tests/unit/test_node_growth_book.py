"""The node's book of leaves as proposals come and go: done, undone, done again, over any crash."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from node.existing import existing_leaves
from node.growth.changes import Place, merged_places, pruned, split_places, tree_change
from node.jobs import CONTRIBUTION_FILE, LearningResult
from node.leaves import LeafBook
from node.outbox import Outbox
from node.publishing import Publisher
from swarm.domain.errors import ConflictError
from swarm.domain.ids import LeafId
from swarm.domain.manifests import Manifest
from swarm.trust.statements import read_statement
from tests.support.growing import Plot, two_kinds

L1, L2, L3, L4 = (LeafId(f"rose.l{number}") for number in range(1, 5))
TREE = {
    L1: Place(standing="branch"),
    L2: Place(parent=L1),
    L3: Place(parent=L1),
    L4: Place(),
}


@pytest.fixture
def plot(tmp_path: Path) -> Plot:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"))
    return plot


def split(plot: Plot) -> None:
    plot.grow(plot.order("split", "rose.e1"), "split", "rose.l1", new=2)


def standing(book: LeafBook) -> dict[str, str]:
    return {leaf.leaf: book.tree.place(leaf.leaf).standing for leaf in book.everything()}


def again(plot: Plot) -> LeafBook:
    """Return the book as another start of the agent reads it."""
    return LeafBook(plot.home.state)


def test_a_branch_that_is_left_with_one_child_gives_its_place_to_it() -> None:
    after = pruned(TREE, [L2])
    assert after[L1].standing == after[L2].standing == "retired"
    assert after[L3] == Place() and after[L4] == Place()


def test_a_merged_leaf_is_under_the_branch_that_its_parents_have_in_common_else_at_the_top() -> None:
    five = LeafId("rose.l5")
    both = merged_places(TREE, [L2, L3], five)
    assert both[five] == Place() and both[L1].standing == "retired"
    deep = split_places(TREE, L2, [LeafId("rose.l6"), LeafId("rose.l7")])
    inner = merged_places(deep, [LeafId("rose.l6"), LeafId("rose.l7")], five)
    assert inner[five] == Place(parent=L1) and inner[L1].standing == "branch"
    apart = merged_places(TREE, [L3, L4], five)
    assert apart[five] == Place() and apart[L2] == Place()


def test_a_change_names_only_what_it_changes_and_its_new_leaves_were_retired_before() -> None:
    change = tree_change("p1", "split", {L4: Place()}, split_places({L4: Place()}, L4, [L2, L3]), {})
    assert change.before[L2].standing == "retired" and change.before[L4] == Place()
    assert change.after[L4].standing == "branch" and change.after[L3].parent == L4


def test_a_rolled_back_split_leaves_the_book_as_it_was_but_for_ids_that_are_not_used_again(
    plot: Plot,
) -> None:
    summary = plot.book.summary(L1).read_bytes()
    split(plot)
    assert standing(again(plot)) == {"rose.l1": "branch", "rose.l2": "leaf", "rose.l3": "leaf"}
    assert again(plot).tree.on_trial == "p1"
    plot.book.tree.put_back("p1")
    book = again(plot)
    assert standing(book) == {"rose.l1": "leaf", "rose.l2": "retired", "rose.l3": "retired"}
    assert [leaf.leaf for leaf in book.leaves()] == ["rose.l1"] and not book.tree.on_trial
    assert book.first_free == 4 and book.reserve(2) == 4 and again(plot).first_free == 6
    assert book.summary(L1).read_bytes() == summary
    assert len(book.published_envelopes()) == 3  # the registry keeps what was made


def test_an_accepted_split_follows_the_gate_back_and_forth(plot: Plot) -> None:
    before = plot.given().digest
    split(plot)
    after, tree = plot.given().digest, plot.book.tree
    assert tree.follow([before], 3) == (), "on trial"
    tree.settle("p1", 3)
    assert tree.follow(["another's", after], 3) == ()
    assert tree.follow([before], 2) == (), "an older gate than the one by which it was accepted"
    assert tree.follow([before, "another's"], 4) == ("p1",)
    assert [leaf.leaf for leaf in again(plot).leaves()] == ["rose.l1"]
    assert again(plot).tree.follow([before], 5) == ()
    assert tree.follow(["another's"], 6) == (), "this node is not in the gate"
    assert tree.follow([after], 6) == ("p1",)
    assert [leaf.leaf for leaf in again(plot).leaves()] == ["rose.l2", "rose.l3"]


def test_a_withdrawn_leaf_is_retired_for_good_and_the_next_one_has_a_new_number(plot: Plot) -> None:
    before = plot.given().digest
    assert plot.book.tree.withdraw(L1) and not plot.book.tree.withdraw(L1)
    book = again(plot)
    assert not book.leaves() and existing_leaves(book) == () and book.first_free == 2
    assert book.tree.follow([before], 9) == () and not book.leaves()


def test_a_withdrawn_child_stays_away_over_rollbacks_of_its_split(plot: Plot) -> None:
    before = plot.given().digest
    split(plot)
    after, tree = plot.given().digest, plot.book.tree
    tree.settle("p1", 3)
    tree.withdraw(L2)
    assert standing(again(plot)) == {"rose.l1": "retired", "rose.l2": "retired", "rose.l3": "leaf"}
    tree.follow([before], 4)
    assert standing(again(plot)) == {"rose.l1": "leaf", "rose.l2": "retired", "rose.l3": "retired"}
    tree.follow([after], 5)
    assert standing(again(plot)) == {"rose.l1": "retired", "rose.l2": "retired", "rose.l3": "leaf"}


def test_a_contribution_that_waited_while_its_leaf_went_does_not_go_out(plot: Plot, tmp_path: Path) -> None:
    intent = plot.outbox.put(
        "contribute",
        key="k",
        subject="contribution",
        envelope=plot.given().envelope,
        arrays=plot.last / CONTRIBUTION_FILE,
    )
    plot.book.tree.withdraw(L1)
    nobody: Any = None
    publisher = Publisher(
        registry=nobody,
        coordinator=nobody,
        cache=plot.cache,
        book=plot.book,
        outbox=plot.outbox,
        outbound=nobody,
        signer=plot.signer,
    )
    with pytest.raises(ConflictError, match=r"rose\.l1 was split, rolled back or withdrawn while it waited"):
        asyncio.run(publisher.contribute(intent, 1))


def test_a_book_from_before_growth_is_read_as_one_without_branches(plot: Plot) -> None:
    index = plot.home.state / "leaves.json"
    kept = json.loads(index.read_bytes())
    del kept["tree"]
    index.write_text(json.dumps(kept))
    assert [leaf.leaf for leaf in again(plot).leaves()] == ["rose.l1"] and again(plot).first_free == 2


def test_training_of_a_leaf_that_was_split_meanwhile_is_a_version_of_it_that_its_children_are_offered(
    plot: Plot, tmp_path: Path
) -> None:
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2))
    split(plot)
    summary = plot.book.summary(L1).read_bytes()
    plan = plot.land(late)
    assert not plan.contribution and "p1 changes this node's leaves" in plan.note
    manifest = plot.head("rose.l1")
    assert (manifest.version, plot.book.tree.place(L1).standing) == (2, "branch")
    assert plot.book.summary(L1).read_bytes() == summary
    known = plot.book.leaf(L1)
    assert known is not None
    offered = {again(plot).tree.offered(leaf) for leaf in (L2, L3)}
    assert offered == {known.manifest}
    order = plot.order("split", "rose.e1", steps="10")
    result, _ = plot.grow(order, "child", "rose.l2", contribution=str(plot.given().digest))
    assert any("what its parent was trained to meanwhile" in note for note in result.notes)


def test_the_next_training_of_a_child_starts_from_what_it_is_offered_where_that_is_better(
    plot: Plot, tmp_path: Path
) -> None:
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2), steps=400)
    split(plot)
    plot.land(late)
    plot.book.tree.settle("p1")
    assert [leaf.offered is not None for leaf in existing_leaves(plot.book)] == [True, True]
    more = two_kinds(tmp_path / "more.npz", seed=3)
    folder = plot.late_training(more)
    result = LearningResult.read(folder)
    offered = [note for note in result.notes if "what its parent was trained to meanwhile" in note]
    assert len(offered) == 2 and any("starts from" in note for note in offered)
    plot.land(folder)
    assert [leaf.offered for leaf in existing_leaves(plot.book)] == [None, None]
    without = LearningResult.read(plot.late_training(more))
    for with_offer, alone in zip(result.leaves, without.leaves, strict=True):
        judged = 2 * with_offer.metrics["validation_samples"] * with_offer.cost.inference_flops
        assert with_offer.cost.train_flops - alone.cost.train_flops == judged


def test_training_of_a_leaf_that_was_removed_meanwhile_is_kept_with_its_reason(
    plot: Plot, tmp_path: Path
) -> None:
    split(plot)
    plot.book.tree.settle("p1")
    late = plot.late_training(two_kinds(tmp_path / "late.npz", seed=2))
    plot.grow(plot.order("remove", "rose.e2", proposal="p2"), "remove", "rose.l2")
    plan = plot.land(late)
    assert not plan.contribution
    versions = [read_statement(one.envelope.encode(), Manifest).value for one in plan.publishes]
    mine = [each for each in versions if each.leaf == "rose.l2"]
    assert mine and plot.outbox.kept == len(mine) and not len(plot.outbox)
    (kept,) = Outbox(plot.home.outbox).refused()
    assert kept[0] == f"rose.e2@{mine[0].version}" and "was taken out of the gate meanwhile" in kept[1]
