"""A leaf that is added takes over what others hold of its samples: nothing counts twice, all can return."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import node.leaves
from node.growth.adding import take_along
from node.growth.checks import check_order
from node.growth.overlap import NOBODY, STAYS, held_files, held_places, keep_held, movable, overlap_of
from node.growth.own_tree import OwnTree
from node.jobs import WAITING_FILE
from node.leaves import LeafBook
from node.plan import Plan
from node.shard_source import ShardPart, ShardSource
from node.stream.gathered import Gathered
from node.sums import LeafSums
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import Digest, LeafId
from swarm.gating.common_regions import packed_regions
from swarm.gating.regions import summarise_leaf
from tests.support.growing import NODE, Plot, columns, mega_batch
from tests.support.learning import digits_like

pytestmark = pytest.mark.growth

L1, L2 = LeafId("rose.l1"), LeafId("rose.l2")


def samples(count: int, *classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digits of some classes; 2 and 3 are bright, as a mega-batch brings something new."""
    images, labels = digits_like(4 * count, 4, seed=seed)
    images = np.clip(images.astype(np.int64) + 4 * (labels >= 2)[:, None, None], 0, 16).astype(np.uint8)
    rows = np.flatnonzero(np.isin(labels, classes))[:count]
    return images[rows], labels[rows]


def streamed(folder: Path, **order: Any) -> Plot:
    """Return a node that has learned two mega-batches, the second with two classes more: all in one leaf."""
    plot = Plot(folder)
    plot.learn_batch(folder / "data" / "a.npz", *samples(200, 0, 1, seed=1), **order)
    plot.learn_batch(folder / "data" / "b.npz", *samples(240, 0, 1, 2, 3, seed=2), **order)
    assert [leaf.leaf for leaf in plot.book.leaves()] == [L1]
    return plot


def learned(path: Path) -> tuple[Gathered, np.ndarray]:
    """Return a mega-batch's training samples, and their labels as numbers."""
    found = Gathered.read(path.with_suffix(".training.npz"))
    return found, np.array([int(found.samples.class_names[label]) for label in found.samples.labels])


def novel(plot: Plot, folder: Path, extra: int = 0) -> int:
    """Note as novel what the second mega-batch has of classes 2 and 3, and `extra` samples of class 1."""
    found, labels = learned(folder / "data" / "b.npz")
    rows = np.concatenate([np.flatnonzero(labels >= 2), np.flatnonzero(labels == 1)[:extra]])
    found.source(np.sort(rows)).save(plot.novel)
    return int((labels >= 2).sum())


def add(plot: Plot) -> Plan:
    return plot.grow(plot.order("add"), "add", new=1)[1]


def sums_of(plot: Plot, leaf: LeafId, book: LeafBook | None = None) -> LeafSums:
    found = LeafSums.read((book or plot.book).sums(leaf), plot.specification.trunk.sum_size)
    assert found is not None
    return found


def kept(book: LeafBook, leaf: LeafId) -> tuple[bytes, ...]:
    files = book.summary(leaf), book.sums(leaf), book.shard(leaf)
    known = book.leaf(leaf)
    assert known is not None
    return (*(path.read_bytes() for path in files), repr(sorted(known.class_counts.items())).encode())


def again(plot: Plot) -> LeafBook:
    """Return the book as another start of the agent reads it."""
    return LeafBook(plot.home.state)


@pytest.mark.parametrize("form", ["exact", "compact"])
def test_what_a_leaf_holds_moves_and_the_owners_sums_stay_the_very_bytes(tmp_path: Path, form: str) -> None:
    plot = streamed(tmp_path, sums=form, sums_mb=0.05 if form == "compact" else 20.0)
    moved, before = novel(plot, tmp_path), plot.laid()
    add(plot)
    after = plot.laid()
    assert before.sums is not None and after.sums is not None
    assert before.sums.arrays().keys() == after.sums.arrays().keys()
    for name, array in before.sums.arrays().items():
        assert array.tobytes() == after.sums.arrays()[name].tobytes()
    assert before.sums.samples == after.sums.samples
    whole, together = columns(before, "rose.l1"), columns(after, "rose.l1", "rose.l2")
    assert whole.keys() == together.keys()
    assert all(np.array_equal(whole[name], together[name]) for name in whole)
    assert after.leaf(L1).class_counts.keys() == {"0", "1"}
    assert after.leaf(L2).class_counts.keys() == {"2", "3"} and after.leaf(L2).samples == moved
    for leaf in (L1, L2):
        laid, own = after.leaf(leaf), sums_of(plot, leaf)
        assert int(laid.arrays["prototype_counts"].sum()) == laid.samples == own.f.samples
        assert np.array_equal(own.columns, laid.arrays["columns"])
        source = ShardSource.read(plot.book.shard(leaf))
        assert source.load(plot.specification, leaf).class_counts() == laid.class_counts
    if form == "exact":
        own = sums_of(plot, L1).f.gram, sums_of(plot, L2).f.gram
        assert np.array_equal(own[0] + own[1], before.sums.arrays()["gram"])  # type: ignore[operator]


def test_samples_that_nobody_held_are_added_to_the_sums_and_no_others(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    moved, before = novel(plot, tmp_path), plot.laid()
    path = tmp_path / "data" / "c.npz"
    mega_batch(path, *samples(60, 2, 3, seed=3))
    fresh = Gathered.read(path.with_suffix(".training.npz"))
    ShardSource.read(plot.novel).joined(fresh.source(np.arange(len(fresh)))).save(plot.novel)
    add(plot)
    after = plot.laid()
    assert before.sums is not None and after.sums is not None
    assert after.sums.samples == before.sums.samples + len(fresh)
    assert after.leaf(L2).samples == moved + len(fresh)
    own = sums_of(plot, L1).f.gram, sums_of(plot, L2).f.gram
    assert np.array_equal(own[0] + own[1], after.sums.arrays()["gram"])  # type: ignore[operator]


def test_a_class_of_which_too_few_would_move_or_be_left_stays_whole_where_it_is(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    novel(plot, tmp_path, extra=3)
    before = plot.laid()
    add(plot)
    after = plot.laid()
    assert after.leaf(L1).class_counts["1"] == before.leaf(L1).class_counts["1"]
    assert "1" not in after.leaf(L2).class_counts
    given = [leaf.class_counts for leaf in plot.given().value.leaves]
    assert all(count >= 5 for counts in given for count in counts.values())


def test_few_of_a_class_neither_leave_nor_come() -> None:
    def source(rows: np.ndarray) -> ShardSource:
        part = ShardPart(source="a", import_paths=(), digest=Digest("0" * 64), rows=rows)
        return ShardSource(parts=(part,))

    found = overlap_of(source(np.arange(30)), [source(np.arange(10, 20)), None], [("a", (), 25)])
    assert found.holders[:10].tolist() == [NOBODY] * 10 and found.positions[10:20].tolist() == list(range(10))
    assert found.holders[10:20].tolist() == [0] * 10 and found.holders[25] == STAYS
    labels = np.array([0] * 4 + [1] * 6 + [0] * 4 + [1] * 6 + [2] * 10)
    chosen = movable(found, labels, ("x", "y", "z"), [{"x": 20, "y": 6}, {}])
    assert not chosen[:4].any() and chosen[4:10].all()  # nobody's
    assert not chosen[10:14].any() and chosen[14:20].all()  # the leaf's
    assert np.flatnonzero(~chosen[20:]).tolist() == [5]
    assert not movable(found, labels, ("x", "y", "z"), [{"x": 20, "y": 9}, {}])[
        14:20
    ].any()  # 3 would be left


def test_a_leaf_that_would_be_left_with_too_few_is_the_leaf_of_those_samples_and_refused_by_name(
    tmp_path: Path,
) -> None:
    plot = streamed(tmp_path)
    everything = ShardSource.read(plot.book.shard(L1))
    before, given = kept(plot.book, L1), plot.given().digest
    whole = everything.load(plot.specification, "rose.l1")
    ten = np.flatnonzero(whole.labels_among(["0"]) == 0)[:10]
    for rows in (np.arange(len(whole)), np.setdiff1d(np.arange(len(whole)), ten)):
        everything.subset(whole, rows).save(plot.novel)
        with pytest.raises(InvalidInputError, match=r"samples of rose\.l1.*at least 20 that stay.*split"):
            add(plot)
    assert kept(again(plot), L1) == before and plot.given().digest == given


def test_samples_on_their_way_into_a_leaf_are_not_taken(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    moved = novel(plot, tmp_path)
    waits = mega_batch(
        plot.home.state / "stream" / "waiting" / "000003" / "c.npz", *samples(60, 2, 3, seed=3)
    )
    late = Gathered.read(waits)
    waits.rename(waits.with_name("training.npz"))
    few = Gathered.read(mega_batch(tmp_path / "data" / "d.npz", *samples(30, 2, 3, seed=4)))
    few.save(plot.home.state / "stream" / WAITING_FILE)
    source = ShardSource.read(plot.novel)
    for each in (late, few):
        source = source.joined(each.source(np.arange(len(each))))
    source.save(plot.novel)
    keep_held(plot.home.state, plot.book, [L1], plot.home.state)
    assert len(held_places(held_files(plot.home.state))) == len(late) + len(few)
    before = plot.laid()
    add(plot)
    after = plot.laid()
    assert after.leaf(L2).samples == moved
    assert before.sums is not None and after.sums is not None and after.sums.samples == before.sums.samples
    assert len(Gathered.read(plot.home.state / "stream" / WAITING_FILE)) == len(few)


def test_a_refused_add_puts_back_the_leaf_that_it_took_samples_from(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    novel(plot, tmp_path)
    before = kept(plot.book, L1)
    add(plot)
    assert kept(again(plot), L1) != before and again(plot).tree.on_trial == "p1"
    plot.book.tree.put_back("p1")
    book = again(plot)
    assert kept(book, L1) == before == kept(plot.book, L1)
    assert [leaf.leaf for leaf in book.leaves()] == [L1] and book.tree.place(L2).standing == "retired"


def test_an_accepted_add_follows_the_gate_back_and_forth(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    novel(plot, tmp_path)
    before, old = kept(plot.book, L1), plot.given().digest
    add(plot)
    after, new = (kept(plot.book, L1), kept(plot.book, L2)), plot.given().digest
    plot.book.tree.settle("p1", 2)
    assert plot.book.tree.follow([new], 2) == ()
    assert plot.book.tree.follow([old], 3) == ("p1",)
    assert kept(again(plot), L1) == before and again(plot).tree.place(L2).standing == "retired"
    assert again(plot).tree.follow([old], 4) == ()
    assert plot.book.tree.follow([new], 5) == ("p1",)
    assert (kept(again(plot), L1), kept(again(plot), L2)) == after


@pytest.mark.parametrize("at", [(OwnTree, "note_change"), (node.leaves, "write_json"), (LeafBook, "_save")])
def test_a_crash_in_between_leaves_the_leaf_as_it_was_or_as_it_is_to_be(
    tmp_path: Path, at: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plot = streamed(tmp_path)
    novel(plot, tmp_path)
    before, order = kept(plot.book, L1), plot.order("add")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    reserved = plot.book.reserve(1)
    job = plot.maker(order).job("add", [], new=[LeafId(f"rose.l{reserved}")])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(*at, crash)  # type: ignore[call-overload]
        plot.do(order, job)
    plot.book = again(plot)
    assert (kept(plot.book, L1) == before) is (not plot.book.tree.on_trial)
    folder = sorted(tmp_path.glob("*-add"))[-1]
    plan = Plan.read(folder)
    assert plan is not None
    plot.deliver(plan, folder)
    assert sums_of(plot, L1).f.samples == plot.laid().leaf(L1).samples
    plot.book.tree.put_back("p1")
    assert kept(again(plot), L1) == before


def test_what_is_learned_while_an_add_is_on_trial_is_kept_when_it_is_put_back(tmp_path: Path) -> None:
    plot, plain = streamed(tmp_path / "one"), streamed(tmp_path / "other")
    novel(plot, tmp_path / "one")
    add(plot)
    more = samples(120, 0, 1, seed=5)
    plot.learn_batch(tmp_path / "one" / "data" / "c.npz", *more)
    plain.learn_batch(tmp_path / "other" / "data" / "c.npz", *more)
    plot.book.tree.put_back("p1")
    found, wanted = sums_of(plot, L1, again(plot)), sums_of(plain, L1)
    assert np.array_equal(found.columns, wanted.columns) and found.f.samples == wanted.f.samples
    assert np.array_equal(found.f.gram, wanted.f.gram)  # type: ignore[arg-type]
    known, same = again(plot).leaf(L1), plain.book.leaf(L1)
    assert known is not None and same is not None and known.class_counts == same.class_counts
    source = ShardSource.read(plot.book.shard(L1))
    assert source.load(plot.specification, L1).class_counts() == same.class_counts
    # What it stands for is given again as it is.
    plot.learn_batch(tmp_path / "one" / "data" / "d.npz", *samples(80, 0, 1, seed=6))
    assert plot.laid().leaf(L1).samples == found.f.samples + len(
        learned(tmp_path / "one" / "data" / "d.npz")[0]
    )


def test_training_that_began_before_an_add_does_not_bring_back_what_moved(tmp_path: Path) -> None:
    plot, plain = streamed(tmp_path / "one"), streamed(tmp_path / "other")
    more = samples(120, 0, 1, seed=5)
    for each, folder in ((plot, tmp_path / "one"), (plain, tmp_path / "other")):
        novel(each, folder)
    late = plot.late_batch(tmp_path / "one" / "data" / "c.npz", *more)
    add(plot)
    plan = plot.land(late)
    assert not plan.contribution
    add(plain)
    plain.learn_batch(tmp_path / "other" / "data" / "c.npz", *more)
    found, wanted = sums_of(plot, L1, again(plot)), sums_of(plain, L1)
    assert np.array_equal(found.columns, wanted.columns) and found.f.samples == wanted.f.samples
    assert np.array_equal(found.f.gram, wanted.f.gram)  # type: ignore[arg-type]
    with np.load(plot.book.summary(L1)) as file:
        assert file["prototype_counts"].sum() == wanted.f.samples and file["prototype_counts"].min() >= 5
    plot.book.tree.settle("p1")
    plot.learn_batch(tmp_path / "one" / "data" / "d.npz", *samples(80, 0, 1, seed=6))
    laid = plot.laid()
    assert laid.sums is not None and laid.sums.samples == sum(leaf.samples for leaf in laid.leaves)


def test_a_new_leaf_has_as_many_prototypes_as_are_wanted_and_the_net_of_the_newest_leaf(
    tmp_path: Path,
) -> None:
    plot = streamed(tmp_path, net="mlp:8x1")
    novel(plot, tmp_path)
    result, _ = plot.grow(plot.order("add", k="2"), "add", new=1)
    assert len(plot.laid().leaf(L2).arrays["prototypes"]) == 2
    assert result.leaves[0].net.factory == "mlp:8x1"
    other = streamed(tmp_path / "other", net="mlp:8x1")
    novel(other, tmp_path / "other")
    result, _ = other.grow(other.order("add", net="mlp:4x1"), "add", new=1)
    assert result.leaves[0].net.factory == "mlp:4x1"


def test_a_new_leaf_stands_by_those_common_regions_that_enough_of_it_is_near_to(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    moved = novel(plot, tmp_path)
    own = summarise_leaf(
        np.concatenate([plot.laid().leaf(L1).arrays["prototypes"]]), prototypes=2, seed=0
    ).prototypes
    far = np.full((1, own.shape[1]), 1e3, np.float32)
    order = replace(plot.order("add"), regions=packed_regions(np.concatenate([own, far])))
    book, specification = plot.book, plot.specification
    take_along(order, plot.home.state, book, plot.given().value, specification, plot.home.state)
    result, _ = plot.grow(order, "add", new=1)
    laid = plot.laid().leaf(L2)
    assert np.array_equal(laid.arrays["prototypes"], own)
    assert laid.arrays["prototype_counts"].min() >= 5 and laid.arrays["prototype_counts"].sum() == moved
    assert any("by 2 of 3 common regions" in note for note in result.notes)


def test_an_add_that_cannot_be_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    plot = streamed(tmp_path)
    order, least = plot.order("add"), plot.specification.min_leaf_count

    def refused(order: GrowthOrder) -> str:
        with pytest.raises(SwarmError) as error:
            check_order(order, NODE, plot.book, plot.specification, plot.novel)
        return str(error.value)

    assert "nothing novel kept" in refused(order) and "swarm train --watch" in refused(order)
    novel(plot, tmp_path)
    everything = ShardSource.read(plot.novel)
    samples = everything.load(plot.specification, "novel samples")
    everything.subset(samples, np.arange(least - 1)).save(plot.novel)
    assert f"found {least - 1} novel samples" in refused(order) and f"at least {least}" in refused(order)
    everything.save(plot.novel)
    check_order(order, NODE, plot.book, plot.specification, plot.novel)
    assert "at most 20" in refused(replace(order, options={"k": "21"}))
    assert "everybody can build" in refused(replace(order, options={"net": "mine:net"}))
    assert "common regions" in refused(replace(order, regions=b"abc"))
    columns = plot.laid().leaf(L1).arrays["prototypes"].shape[1]
    assert "not finite" in refused(replace(order, regions=b"\xff" * 4 * columns))
    assert "1 to 20 rows" in refused(replace(order, regions=bytes(4 * columns * 21)))
