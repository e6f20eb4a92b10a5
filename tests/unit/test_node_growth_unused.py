"""What growth leaves in the registry makes room by itself, and only what is of no use to anybody."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.growth.changes import Place, TreeChange, split_places, tree_change
from node.growth.unused import KEPT_ACCEPTED, UnusedExperts, unused_leaves
from node.leaves import LeafBook
from node.outbox import Outbox
from swarm.domain.errors import TooManyExpertsError
from swarm.domain.ids import Digest, LeafId, NodeId, expert_of, leaf_of
from swarm.domain.lineage import Lineage
from swarm.domain.manifests import Manifest, Parent
from swarm.domain.membership import Head
from swarm.modules import BlobFiles
from swarm.trust.statements import read_statement
from tests.support.registry import Registry, expert, open_registry
from tests.support.trust import specification, tombstone

ADA = NodeId("ada")
LIMIT = 16


@dataclass
class Plot:
    """The node ada, whose one leaf is split again and again, before a registry that holds 16 experts."""

    registry: Registry
    book: LeafBook
    outbox: Outbox
    cache: BlobFiles
    folder: Path
    asked: list[str] = field(default_factory=list)

    @property
    def unused(self) -> UnusedExperts:
        leaves = [SimpleNamespace(leaf=leaf.leaf) for leaf in self.book.leaves()]
        knowledge = SimpleNamespace(
            gate=SimpleNamespace(leaves=leaves, branches=()),
            specification=lambda: replace(specification(), max_leaves_per_owner=1),
        )
        return UnusedExperts(
            identity=self.registry.nodes["ada"],
            book=self.book,
            outbox=self.outbox,
            cache=self.cache,
            knowledge=knowledge,  # type: ignore[arg-type]
            registry=self,
            fence=lambda: self.registry.fences["ada"],
        )

    async def heads(self, owner: str = "") -> list[Head]:
        return await self.registry.service.heads(owner)

    async def lineage(self, manifest: str = "", expert: str = "") -> Lineage:
        return await self.registry.service.lineage(manifest, expert)

    async def withdraw(self, tombstone: bytes, fence: int) -> list[Digest]:
        return await self.registry.service.withdraw(self.registry.caller("ada"), tombstone, fence, "")

    async def own(self) -> list[str]:
        return [head.expert for head in await self.heads("ada")]

    async def put(self, number: int, version: int, parents: tuple[Parent, ...], seed: int) -> Digest:
        """Sign, keep and publish one version."""
        made, blobs = expert("ada", number, version, seed=seed)
        await self.registry.publish(blobs)
        for blob in blobs.values():
            self.cache.put(blob)
        envelope = self.registry.signed(replace(made, parents=parents))
        statement = read_statement(envelope, Manifest)
        summary = self.folder / f"{number}-{version}.npz"
        summary.write_bytes(b"summary")
        self.book.note_signed(statement, class_counts={"yew": 30}, import_paths=(), summary=summary)
        digest = await self.registry.commit(statement.value)
        assert digest == statement.digest
        head = Head(expert=statement.value.expert, version=version, manifest=digest)
        self.book.note_accepted(statement, head)
        return digest

    def change(self, proposal: str, parent: LeafId, first: int) -> TreeChange:
        places = self.book.tree.places([leaf.leaf for leaf in self.book.everything()])
        after = split_places(places, parent, [leaf_of(ADA, first), leaf_of(ADA, first + 1)])
        return tree_change(proposal, "split", places, after, {})

    async def split(self, proposal: str, *, pays: bool = False) -> tuple[LeafId, LeafId]:
        """Split a leaf as a proposal asks, and put it back unless it pays."""
        parent = self.book.leaves()[0]
        first = self.book.reserve(2)
        self.book.tree.note_change(self.change(proposal, parent.leaf, first))
        for number in (first, first + 1):
            copy = await self.put(number, 1, (Parent(kind="split-from", manifest=parent.manifest),), seed=1)
            await self.put(number, 2, (Parent(kind="trained-from", manifest=copy),), seed=number)
        (self.book.tree.settle if pays else self.book.tree.put_back)(proposal)
        return leaf_of(ADA, first), leaf_of(ADA, first + 1)

    def files(self) -> int:
        kept = [self.book.manifests, self.folder / "state" / "leaves", self.cache.folder]
        return sum(path.is_file() for folder in kept for path in folder.rglob("*"))


@pytest.fixture
async def plot(tmp_path: Path) -> Plot:
    registry = await open_registry(tmp_path / "registry", max_leaves_per_owner=1)
    cache = BlobFiles(tmp_path / "cache")
    made = Plot(registry, LeafBook(tmp_path / "state"), Outbox(tmp_path / "outbox"), cache, tmp_path)
    await made.put(1, 1, (), seed=1)
    return made


async def test_what_did_not_pay_is_withdrawn_oldest_first_and_only_as_much_as_is_needed(plot: Plot) -> None:
    for number in range(7):
        assert await plot.unused.make_room(2) == ()
        await plot.split(f"p{number}")
    assert len(await plot.own()) == 15
    assert await plot.unused.make_room(1) == ()
    assert await plot.unused.make_room(2) == ("ada.e2",)
    await plot.split("p7")
    assert await plot.unused.make_room(2) == ("ada.e3", "ada.e4")
    assert set(await plot.registry.store.tombstones()) == {"ada.e2", "ada.e3", "ada.e4"}


async def test_owner_and_registry_stay_within_bounds_however_many_splits_fail(plot: Plot) -> None:
    files, index = set[int](), set[int]()
    for number in range(40):
        await plot.unused.make_room(2)
        await plot.split(f"p{number}")
        assert len(await plot.own()) <= LIMIT
        if number >= 10:
            files.add(plot.files())
            index.add((plot.folder / "state" / "leaves.json").stat().st_size // 200)
    assert len(files) == 1 and max(index) - min(index) <= 1
    assert [leaf.leaf for leaf in plot.book.leaves()] == ["ada.l1"]
    assert plot.book.reserve(1) == 82  # no number is ever given twice
    assert LeafBook(plot.folder / "state").first_free == 83
    assert len(plot.book.published_envelopes()) == len(await plot.own())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.growth) for seed in (1, 2, 3))])
async def test_any_history_of_splits_goes_on_or_is_refused_by_name_and_keeps_what_counts(
    plot: Plot, seed: int
) -> None:
    rng = random.Random(seed)
    for number in range(30):
        try:
            await plot.unused.make_room(2)
        except TooManyExpertsError:
            break
        await plot.split(f"p{number}", pays=rng.random() < 0.1)
        own = await plot.own()
        assert len(own) <= LIMIT
        tree = plot.book.tree
        in_the_tree = [leaf for leaf in plot.book.everything() if not tree.place(leaf.leaf).is_retired]
        assert {leaf.expert for leaf in in_the_tree} <= set(own)
        accepted = [change for change in tree.changes() if change.was_accepted]
        assert {expert_of(leaf) for change in accepted for leaf in change.made} <= set(own)


async def test_what_others_came_from_stays_until_they_are_withdrawn(plot: Plot) -> None:
    kept, _ = await plot.split("p1")
    known = plot.book.leaf(kept)
    assert known is not None
    first = plot.book.signed(Digest(known.head)).value.parents[0].manifest
    borrowed, blobs = expert("bob", 1, seed=99)
    edge = Parent(kind="borrowed-from", manifest=first)
    await plot.registry.publish(blobs, "bob")
    await plot.registry.commit(replace(borrowed, parents=(edge,)))
    for number in range(2, 8):
        await plot.split(f"p{number}")
    assert await plot.unused.make_room(3) == ("ada.e3", "ada.e4")
    await plot.registry.store.withdraw("bob.e1", b"stone", None, "")
    assert await plot.unused.make_room(4) == ("ada.e2",)


async def test_where_nothing_may_go_it_is_refused_by_name(plot: Plot) -> None:
    for number in range(2, 17):
        await plot.registry.add("ada", number + 100)
    with pytest.raises(TooManyExpertsError, match=r"experts of ada: found 16 in the registry.*at most 14"):
        await plot.unused.make_room(2)
    assert not await plot.registry.store.tombstones()


async def test_what_waits_to_be_sent_and_what_a_gate_has_is_never_touched(plot: Plot) -> None:
    for number in range(7):
        await plot.split(f"p{number}")
    plot.outbox.put("publish", key="p0-x", subject="ada.e2@3", envelope=b"{}")
    unused = plot.unused
    held: Any = unused.knowledge.gate
    held.leaves.append(SimpleNamespace(leaf="ada.l3"))
    assert await unused.make_room(2) == ("ada.e4",)


async def test_a_withdrawal_that_was_cut_short_is_made_up_for(plot: Plot) -> None:
    for number in range(7):
        await plot.split(f"p{number}")
    await plot.withdraw(plot.registry.signed(tombstone("ada.e5")), plot.registry.fences["ada"])
    assert plot.book.leaf(LeafId("ada.l5")) is not None
    assert await plot.unused.make_room(3) == ("ada.e2",)
    assert plot.book.leaf(LeafId("ada.l5")) is None


def change(proposal: str, made: str, state: Any, *, was_accepted: bool = False) -> TreeChange:
    return TreeChange(
        proposal=proposal,
        kind="merge",
        before={LeafId(made): Place(standing="retired")},
        after={LeafId(made): Place()},
        state=state,
        was_accepted=was_accepted,
    )


def test_the_newest_accepted_changes_are_kept_for_a_rollback_and_older_ones_go_last() -> None:
    accepted = [
        change(f"p{n}", f"ada.l{n}", "undone", was_accepted=True) for n in range(1, KEPT_ACCEPTED + 3)
    ]
    failed = change("p90", "ada.l90", "undone")
    under_way = change("p91", "ada.l91", "open")
    leaves = [LeafId(f"ada.l{n}") for n in (91, 90, *range(1, KEPT_ACCEPTED + 3), 99)]
    assert unused_leaves([*accepted, failed, under_way], leaves) == ["ada.l90", "ada.l1", "ada.l2"]


def test_a_change_that_was_accepted_stays_so_when_it_is_undone_later() -> None:
    settled = replace(change("p1", "ada.l2", "open"), state="done")
    undone = replace(settled, state="undone")
    assert undone.was_accepted and TreeChange.from_fields(undone.fields()).was_accepted
