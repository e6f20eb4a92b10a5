"""What growth makes of a node's leaves: exact copies, merges, removals, new leaves; and when it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.growth.checks import check_order
from node.growth.jobs import GrowthResult
from node.jobs import CONTRIBUTION_FILE, WAITING_FILE, LearningResult
from node.plan import Plan
from node.shard_source import ShardPart, ShardSource
from node.stream.gathered import Gathered
from node.sums import LeafSums
from swarm.data.sources import load_training
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    NotReadyError,
    VerificationError,
)
from swarm.domain.ids import Digest, LeafId
from swarm.domain.manifests import Correction, Manifest
from swarm.trust.statements import read_statement
from tests.support.growing import NODE, Plot, columns, mega_batch, two_kinds
from tests.support.learning import gate_of


@pytest.fixture
def plot(tmp_path: Path) -> Plot:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"))
    return plot


def split(plot: Plot, **options: str) -> Plan:
    return plot.grow(plot.order("split", "rose.e1", **options), "split", "rose.l1", new=2)[1]


def test_the_columns_of_a_splits_children_add_up_to_the_leafs_and_its_sums_stay_the_very_bytes(
    plot: Plot,
) -> None:
    before = plot.laid()
    split(plot)
    after, given = plot.laid(), plot.given().value
    assert [(leaf.leaf, leaf.parent) for leaf in given.leaves] == [
        ("rose.l2", "rose.l1"),
        ("rose.l3", "rose.l1"),
    ]
    assert [branch.leaf for branch in given.branches] == ["rose.l1"]
    summed, whole = columns(after, "rose.l2", "rose.l3"), columns(before, "rose.l1")
    assert summed.keys() == whole.keys()
    assert all(np.array_equal(summed[name], whole[name]) for name in whole)
    assert before.sums is not None and after.sums is not None
    assert before.sums.gram is not None and after.sums.gram is not None
    assert before.sums.gram.tobytes() == after.sums.gram.tobytes()
    assert before.sums.samples == after.sums.samples
    for name in ("prototypes", "prototype_counts", "radii"):
        kept = before.leaf(LeafId("rose.l1")).arrays[name]
        assert np.array_equal(after.branches[0].arrays[name], kept)
    for leaf in after.leaves:
        assert int(leaf.arrays["prototype_counts"].sum()) == leaf.samples >= 20


def test_children_are_exact_copies_pinned_to_the_versions_that_they_begin_with(plot: Plot) -> None:
    parent, given_by = plot.head("rose.l1"), plot.book.leaf(LeafId("rose.l1"))
    assert given_by is not None
    plan = split(plot)
    for leaf, planned in zip(plot.given().value.leaves, plan.publishes, strict=True):
        statement = read_statement(planned.envelope.encode(), Manifest)
        child = statement.value
        assert leaf.manifest == statement.digest and leaf.expert == child.expert
        assert (child.modules, child.net, child.class_names) == (
            parent.modules,
            parent.net,
            parent.class_names,
        )
        assert [(each.kind, each.manifest) for each in child.parents] == [("split-from", given_by.head)]
        assert (child.version, child.cost.samples_seen) == (1, 0) and child.cost.train_flops > 0
    assert plot.given().value.proposal == "p1"
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l2", "rose.l3"]
    assert [leaf.leaf for leaf in plot.book.branches()] == ["rose.l1"]
    heads = {read_statement(each, Manifest).value.expert for each in plot.book.published_envelopes()}
    assert heads == {"rose.e1", "rose.e2", "rose.e3"}  # older gates need the parent's


def test_each_child_keeps_its_own_samples_and_sums(plot: Plot) -> None:
    split(plot)
    whole = 0
    for leaf in ("rose.l2", "rose.l3"):
        source = ShardSource.read(plot.book.shard(LeafId(leaf)))
        samples = source.load(plot.specification, leaf)
        sums = LeafSums.read(plot.book.sums(LeafId(leaf)), plot.specification.trunk.sum_size)
        assert sums is not None and sums.f.gram is not None
        assert len(samples) == sums.f.samples
        whole = whole + sums.f.gram.astype(np.int64)
    total = plot.laid().sums
    assert total is not None and total.gram is not None
    assert np.array_equal(whole, total.gram)


def test_a_class_with_few_samples_in_one_part_lies_in_the_other_altogether(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz", rare=4))
    result, _ = plot.grow(plot.order("split", "rose.e1"), "split", "rose.l1", new=2)
    told = [leaf.class_counts for leaf in plot.given().value.leaves]
    assert all(count >= 5 for counts in told for count in counts.values())
    assert sum("0" in counts for counts in told) == 1
    assert any("too few samples for both" in note for note in result.notes)


def test_a_part_with_too_few_samples_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    plot = Plot(tmp_path, min_leaf_count=140)
    plot.learn(two_kinds(tmp_path / "data.npz", count=300))
    with pytest.raises(InvalidInputError, match=r"split of rose\.l1.*at least 140 in each"):
        split(plot)
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l1"]


def test_data_that_have_changed_since_are_refused_by_name(plot: Plot, tmp_path: Path) -> None:
    two_kinds(tmp_path / "data.npz", seed=5)
    with pytest.raises(VerificationError, match=r"the data of rose\.l1 at .*swarm train"):
        split(plot)


def test_samples_other_than_those_that_were_contributed_are_refused(plot: Plot, tmp_path: Path) -> None:
    source = two_kinds(tmp_path / "other.npz", seed=3)
    dataset = load_training(source)
    part = ShardPart.of(dataset, np.arange(len(dataset)), source)
    ShardSource(parts=(part,)).save(plot.book.shard(LeafId("rose.l1")))
    with pytest.raises(VerificationError, match="differ from those that the gate has"):
        split(plot)


def test_a_learned_gate_tells_the_parts_from_each_other_and_is_kept(plot: Plot) -> None:
    split(plot, gate="learned")
    gate = plot.laid().branches[0].arrays["split"]
    size = plot.laid().branches[0].arrays["prototypes"].shape[1]
    assert (gate.shape, gate.dtype) == ((size + 1,), np.float32)
    first = plot.laid().leaf(LeafId("rose.l2")).arrays["prototypes"]
    second = plot.laid().leaf(LeafId("rose.l3")).arrays["prototypes"]
    assert ((first @ gate[:-1] + gate[-1]) > 0).all() and ((second @ gate[:-1] + gate[-1]) < 0).all()
    assert np.array_equal(np.load(plot.book.split_gate(LeafId("rose.l1"))), gate)


def test_children_trained_apart_are_given_without_pins_and_all_else_is_the_same(plot: Plot) -> None:
    order = plot.order("split", "rose.e1", steps="30")
    plot.grow(order, "split", "rose.l1", new=2)
    first, made = plot.given(), plot.last
    for leaf in ("rose.l2", "rose.l3"):
        result, _ = plot.grow(order, "child", leaf, contribution=str(first.digest))
        manifest = plot.head(leaf)
        assert (manifest.version, manifest.parents[0].kind) == (2, "trained-from")
        assert manifest.metrics["validation_samples"] > 0 and manifest.cost.train_flops > 0
        assert result.leaves[0].summary == ""
    assert plot.book.sums(LeafId("rose.l2")).exists() and plot.book.tree.on_trial == "p1"
    settled = plot.folder / "settle"
    settled.mkdir()
    (settled / CONTRIBUTION_FILE).write_bytes((made / CONTRIBUTION_FILE).read_bytes())
    replace(GrowthResult.read(made), task="regate", leaves=()).write(settled)
    plot.plan(order, settled)
    second = plot.given().value
    unpinned = tuple(replace(leaf, manifest="") for leaf in first.value.leaves)
    assert (second.leaves, second.branches, second.sums) == (
        unpinned,
        first.value.branches,
        first.value.sums,
    )
    assert second.epoch == first.value.epoch + 1
    change = plot.book.tree.change("p1")
    assert change is not None and not change.pins


def test_a_childs_correction_is_trained_further_against_the_present_root(plot: Plot) -> None:
    gate = gate_of(plot.last, plot.specification, plot.cache)
    order = plot.order("split", "rose.e1", steps="60")
    plot.grow(order, "split", "rose.l1", new=2)
    job = plot.maker(order).job("child", [LeafId("rose.l2")], contribution=str(plot.given().digest))
    manifest = job.leaves[0].manifest
    inherited = Correction(
        modules=manifest.modules,
        base=Digest("0" * 64),
        class_temperature=0.2,
        metrics={},
        cost=manifest.cost,
    )
    leaf = replace(job.leaves[0], manifest=replace(manifest, correction=inherited))
    alone, _ = plot.do(order, replace(job, leaves=(leaf,)))
    assert alone.leaves[0].correction == inherited  # there is no root to train against
    found, _ = plot.do(order, replace(job, leaves=(leaf,), gate=gate, gate_digest="ab" * 32))
    correction = found.leaves[0].correction
    assert correction is not None and correction.base == "ab" * 32
    assert correction.modules != inherited.modules and correction.cost.train_flops > 0
    assert plot.head("rose.l2").correction == correction


def test_the_learned_gate_is_fitted_anew_to_what_the_children_know(plot: Plot) -> None:
    order = plot.order("split", "rose.e1", steps="30", gate="learned")
    plot.grow(order, "split", "rose.l1", new=2)
    first, before = plot.given(), plot.laid()
    for leaf in ("rose.l2", "rose.l3"):
        plot.grow(order, "child", leaf, contribution=str(first.digest))
    plot.grow(order, "regate", "rose.l2", "rose.l3", contribution=str(first.digest))
    after = plot.laid()
    assert not any(leaf.manifest for leaf in plot.given().value.leaves)
    assert after.branches[0].arrays["split"].shape == before.branches[0].arrays["split"].shape
    assert all(
        np.array_equal(now.arrays["columns"], was.arrays["columns"])
        for now, was in zip(after.leaves, before.leaves, strict=True)
    )


def test_a_merge_adds_columns_and_takes_the_place_of_the_branch_whose_only_children_it_merged(
    plot: Plot,
) -> None:
    ancestor = plot.head("rose.l1")
    split(plot)
    before = plot.laid()
    order = plot.order("merge", "rose.e2", "rose.e3", proposal="p2", method="mean")
    result, plan = plot.grow(order, "merge", "rose.l2", "rose.l3", new=1, ancestor=ancestor)
    after = plot.laid()
    assert [(leaf.leaf, leaf.parent) for leaf in after.leaves] == [("rose.l4", "")]
    assert after.branches == () and after.sums is not None and before.sums is not None
    assert np.array_equal(after.sums.arrays()["gram"], before.sums.arrays()["gram"])
    was, now = columns(before, "rose.l2", "rose.l3"), columns(after, "rose.l4")
    assert all(np.array_equal(was[name], now[name]) for name in was) and was.keys() == now.keys()
    assert len(after.leaves[0].arrays["prototypes"]) <= plot.specification.max_prototypes_per_leaf
    assert int(after.leaves[0].arrays["prototype_counts"].sum()) == after.sums.samples
    manifest = plot.head("rose.l4")
    assert [each.kind for each in manifest.parents] == ["merged-from", "merged-from"]
    assert set(manifest.class_names) == set(ancestor.class_names)
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l4"] and not plot.book.branches()
    kept = LeafSums.read(plot.book.sums(LeafId("rose.l4")), plot.specification.trunk.sum_size)
    assert kept is not None and kept.f.samples == after.sums.samples
    assert len(ShardSource.read(plot.book.shard(LeafId("rose.l4")))) == after.sums.samples
    assert result.contribution is not None and plan.change is not None


def test_what_is_left_by_a_removal_is_what_there_would_have_been_without_the_leaf(plot: Plot) -> None:
    split(plot)
    own = LeafSums.read(plot.book.sums(LeafId("rose.l3")), plot.specification.trunk.sum_size)
    assert own is not None and own.f.gram is not None
    order = plot.order("remove", "rose.e2", proposal="p2")
    plot.grow(order, "remove", "rose.l2")
    after = plot.laid()
    assert [(leaf.leaf, leaf.parent) for leaf in after.leaves] == [("rose.l3", "")]  # in its parent's place
    assert after.branches == () and after.sums is not None and after.sums.gram is not None
    assert after.sums.gram.tobytes() == own.f.gram.tobytes()
    assert np.array_equal(after.leaves[0].arrays["columns"], own.columns)
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["rose.l3"]
    assert plot.book.tree.place(LeafId("rose.l1")).standing == "retired"


def test_compact_sums_are_joined_anew_without_the_leaf(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz"), sums="compact", sums_mb=0.05)
    split(plot)
    own = LeafSums.read(plot.book.sums(LeafId("rose.l3")), plot.specification.trunk.sum_size)
    plot.grow(plot.order("remove", "rose.e2", proposal="p2"), "remove", "rose.l2")
    left = plot.laid().sums
    assert own is not None and left is not None and left.rank and left.samples == own.f.samples


def test_the_last_leaf_is_not_removed_and_the_remedy_is_to_leave(plot: Plot) -> None:
    order = plot.order("remove", "rose.e1")
    with pytest.raises(InvalidInputError, match="leave instead"):
        check_order(order, NODE, plot.book, plot.specification, plot.novel)
    with pytest.raises(InvalidInputError, match="leave instead"):
        plot.grow(order, "remove", "rose.l1")


def test_a_retrained_leaf_has_no_ancestor_and_stands_for_the_same_samples(plot: Plot) -> None:
    before, sums = plot.head("rose.l1"), plot.book.sums(LeafId("rose.l1")).read_bytes()
    _, plan = plot.grow(plot.order("retrain", "rose.e1", steps="20"), "retrain", "rose.l1")
    after = plot.head("rose.l1")
    assert (after.version, after.parents) == (2, ()) and after.modules != before.modules
    assert after.metrics["afresh"] == 1.0 and not plan.contribution
    assert plot.book.sums(LeafId("rose.l1")).read_bytes() == sums


def test_a_leaf_is_added_on_novel_samples_with_its_own_sums(plot: Plot, tmp_path: Path) -> None:
    source = two_kinds(tmp_path / "novel.npz", count=120, seed=9)
    dataset = load_training(source)
    ShardSource(parts=(ShardPart.of(dataset, np.arange(100), source),)).save(plot.novel)
    before = plot.laid()
    plot.grow(plot.order("add"), "add", new=1)
    after = plot.laid()
    assert [leaf.leaf for leaf in after.leaves] == ["rose.l1", "rose.l2"]
    own = LeafSums.read(plot.book.sums(LeafId("rose.l2")), plot.specification.trunk.sum_size)
    assert own is not None and own.f.gram is not None and before.sums is not None and after.sums is not None
    assert np.array_equal(after.sums.arrays()["gram"], before.sums.arrays()["gram"] + own.f.gram)
    assert after.sums.samples == before.sums.samples + 100
    assert plot.head("rose.l2").parents == ()


def test_a_class_told_only_since_a_later_mega_batch_does_not_stand_against_a_split(tmp_path: Path) -> None:
    """Of the few that came first the gate is told nothing, ever; they are trained on all the same."""
    plot = Plot(tmp_path)
    plot.learn(two_kinds(tmp_path / "data.npz", classes={2: 4}))
    few = LearningResult.read(plot.last).leaves[0].class_counts["9"]
    assert 0 < few < 5
    images, labels = load(two_kinds(tmp_path / "more.npz", seed=4, classes={2: 12}))
    plot.learn_batch(tmp_path / "b.npz", images, labels)
    given = plot.laid().leaf(LeafId("rose.l1"))
    source = ShardSource.read(plot.book.shard(LeafId("rose.l1")))
    samples = source.load(plot.specification, "rose.l1")
    assert samples.class_counts()["9"] == given.class_counts["9"] + few and given.class_counts["9"] >= 5
    before = plot.laid()
    split(plot)
    after = plot.laid()
    summed, whole = columns(after, "rose.l2", "rose.l3"), columns(before, "rose.l1")
    assert all(np.array_equal(summed[name], whole[name]) for name in whole)
    children = [ShardSource.read(plot.book.shard(LeafId(leaf))) for leaf in ("rose.l2", "rose.l3")]
    assert sum(map(len, children)) == len(source)
    # Each child goes on from what it stands for.
    plot.book.tree.settle("p1")
    images, labels = load(two_kinds(tmp_path / "yet.npz", seed=6))
    result = plot.learn_batch(tmp_path / "c.npz", images, labels)
    assert not any("stands for its new samples alone" in note for note in result.notes)


def test_few_of_a_class_wait_for_the_next_mega_batch_and_are_told_with_it(tmp_path: Path) -> None:
    plot = Plot(tmp_path)
    images, labels = load(two_kinds(tmp_path / "data.npz", classes={2: 4}))
    folder = plot.late_batch(tmp_path / "a.npz", images, labels)
    plot.land(folder)
    waiting = Gathered.read(folder / WAITING_FILE)
    assert set(waiting.samples.class_names) == {"9"} and "9" not in plot.laid().leaves[0].class_counts
    images, labels = load(two_kinds(tmp_path / "more.npz", seed=4, classes={2: 5}))
    second = mega_batch(tmp_path / "b.npz", images, labels)
    own = Gathered.read(second).samples.class_counts()["9"]
    assert len(waiting) < 5 and own < 5 <= own + len(waiting)
    gathered = (str(folder / WAITING_FILE), str(second))
    plot.learn("stream", gathered=gathered, accumulate=True)
    assert plot.laid().leaf(LeafId("rose.l1")).class_counts["9"] == own + len(waiting)
    split(plot)


def load(source: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(source) as file:
        return file["x"], file["y"]


def test_a_merge_is_trained_for_some_steps_on_the_samples_of_both(plot: Plot) -> None:
    ancestor = plot.head("rose.l1")
    split(plot)
    order = plot.order("merge", "rose.e2", "rose.e3", proposal="p2")
    job = plot.maker(order).job(
        "merge",
        [LeafId("rose.l2"), LeafId("rose.l3")],
        new=[LeafId("rose.l4")],
        ancestor=ancestor,
    )
    assert job.steps == 100
    result, _ = plot.do(order, replace(job, steps=30))
    (merged,) = result.leaves
    assert merged.cost.samples_seen > 0 and merged.metrics["steps"] == 30
    assert plot.head("rose.l4").modules == merged.modules


def test_a_merge_whose_samples_are_gone_is_not_trained_and_says_so(plot: Plot, tmp_path: Path) -> None:
    ancestor = plot.head("rose.l1")
    split(plot)
    (tmp_path / "data.npz").unlink()
    order = plot.order("merge", "rose.e2", "rose.e3", proposal="p2")
    result, _ = plot.grow(order, "merge", "rose.l2", "rose.l3", new=1, ancestor=ancestor)
    assert any("is not trained after the merge" in note for note in result.notes)
    assert result.leaves[0].cost.samples_seen == 0 and result.leaves[0].metrics["validation_samples"] > 0


def test_an_order_that_cannot_be_carried_out_is_refused_by_name(plot: Plot) -> None:
    def refused(order: object, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            check_order(order, NODE, plot.book, plot.specification, plot.novel)  # type: ignore[arg-type]

    refused(plot.order("split", "lily.e1"), NotAuthorisedError, "its owner, lily")
    refused(plot.order("split", "rose.e7"), NotFoundError, "no leaf of it on this node")
    refused(plot.order("add"), NotReadyError, "nothing novel kept")
    refused(replace(plot.order("split", "rose.e1"), before="0" * 64), ConflictError, "none that is kept here")
    plot.book.shard(LeafId("rose.l1")).unlink()
    refused(plot.order("split", "rose.e1"), NotReadyError, "train it once more: swarm train DATA")
    few = replace(plot.specification, max_leaves_per_owner=1)
    plot.book.shard(LeafId("rose.l1")).write_bytes(b"")
    with pytest.raises(InvalidInputError, match="fewer than 1"):
        check_order(plot.order("split", "rose.e1"), NODE, plot.book, few, plot.novel)
