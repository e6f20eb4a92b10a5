"""The tree of a node's own leaves: where each is, and what proposals changed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from node.growth.changes import Place, TreeChange, pruned
from swarm.domain.ids import LeafId, number_of

KEPT_CONTRIBUTED = 1000
"""Of so many of the newest contributions it is kept of which tree they are."""


class OwnTree:
    """Part of the node's book of leaves. `save` brings the whole book to disk; each change calls it last."""

    def __init__(
        self,
        save: Callable[[], None],
        reshape: Callable[[TreeChange, bool], None] = lambda change, back: None,
    ) -> None:
        """`reshape` gives or takes samples as a change does, or (True) as what it did before; saved next."""
        self._save, self._reshape = save, reshape
        self._changed: dict[LeafId, Place] = {}
        """Where proposals put leaves; `_places` is that without the leaves that were withdrawn."""
        self._places: dict[LeafId, Place] = {}
        self._changes: dict[str, TreeChange] = {}
        self._offers: dict[LeafId, str] = {}
        self._withdrawn: set[LeafId] = set()
        self._contributed: dict[str, tuple[str, ...]] = {}
        """By digest of a contribution, oldest first: the proposals by which its tree had changed."""
        self._reserved = 0

    def place(self, leaf: LeafId) -> Place:
        """Return where a leaf is; at the top, unless a proposal put it elsewhere."""
        return self._places.get(leaf, Place())

    def places(self, leaves: Collection[LeafId]) -> dict[LeafId, Place]:
        """Return where these leaves and branches are, without those that are retired."""
        found = {leaf: self.place(leaf) for leaf in leaves}
        return {leaf: place for leaf, place in found.items() if place.standing != "retired"}

    def children(self, branch: str) -> tuple[LeafId, ...]:
        """Return the leaves and branches right under a branch."""
        return tuple(
            leaf
            for leaf, place in self._places.items()
            if branch and place.parent == branch and place.standing != "retired"
        )

    def leaves_below(self, branch: LeafId) -> tuple[LeafId, ...]:
        """Return the leaves under a branch, at any depth."""
        found: list[LeafId] = []
        for child in self.children(branch):
            found += [child] if self.place(child).standing == "leaf" else self.leaves_below(child)
        return tuple(found)

    @property
    def last_number(self) -> int:
        """The largest number that a proposal made or set aside, 0 without one."""
        return max(self._reserved, *(number_of(leaf) for leaf in self._places), 0)

    def reserve(self, last: int) -> None:
        """Set all numbers up to `last` aside."""
        self._reserved = max(self._reserved, last)
        self._save()

    @property
    def on_trial(self) -> str:
        """The proposal whose change is on trial, empty where none is."""
        return next((each.proposal for each in self._changes.values() if each.state == "open"), "")

    def offered(self, leaf: LeafId) -> str:
        """Return the digest of the version of its parent that a leaf is offered to start from, or nothing."""
        return self._offers.get(leaf, "")

    def offer(self, leaf: LeafId, manifest: str) -> tuple[LeafId, ...]:
        """Keep that a leaf that was split was trained meanwhile: its children may start from this version.
        Return the children."""
        children = self.leaves_below(leaf)
        self._offers |= dict.fromkeys(children, manifest)
        self._save()
        return children

    def note_taken_up(self, leaf: LeafId, manifest: str) -> None:
        """Keep that what a leaf was offered has been tried."""
        if self._offers.get(leaf) == manifest:
            del self._offers[leaf]
            self._save()

    def change(self, proposal: str) -> TreeChange | None:
        """Return what a proposal changed, None where it changed nothing here."""
        return self._changes.get(proposal)

    def changes(self) -> tuple[TreeChange, ...]:
        """Return what proposals changed, oldest first."""
        return tuple(self._changes.values())

    def forget(self, leaf: LeafId) -> tuple[str, ...]:
        """Forget a retired leaf, whose number stays taken, and the changes that made nothing else that is
        known; return their proposals. What moved samples and counts stays."""
        self._reserved = self.last_number
        self._changed.pop(leaf, None)
        self._places.pop(leaf, None)
        self._offers.pop(leaf, None)
        self._withdrawn.discard(leaf)
        void = [
            change.proposal
            for change in self._changes.values()
            if leaf in change.made
            and change.state != "open"
            and not (change.reshaped and change.state == "done")
            and not any(made in self._places for made in change.made)
        ]
        for proposal in void:
            del self._changes[proposal]
        self._save()
        return tuple(void)

    def moved_out(self, leaf: LeafId) -> tuple[str, ...]:
        """Return the proposals by which samples of a leaf are in another one now."""
        return tuple(
            each.proposal
            for each in self._changes.values()
            if leaf in each.reshaped and each.state != "undone"
        )

    def reshaping(self) -> tuple[str, ...]:
        """Return the proposals by which samples ever moved, oldest first."""
        return tuple(each.proposal for each in self._changes.values() if each.reshaped)

    def note_change(self, change: TreeChange) -> None:
        """Let a proposal change the tree, until it ends. Noting a known one again changes nothing."""
        if change.proposal not in self._changes:
            self._reshape(change, False)
            self._put(change, change.after)

    def unpin(self, proposal: str) -> None:
        """Let the heads of a proposal's leaves answer again."""
        change = self._changes.get(proposal)
        if change is not None and change.pins:
            self._put(replace(change, pins={}), {})

    def settle(self, proposal: str, gate_version: int = 0) -> None:
        """Keep that a proposal was accepted, by this version of the gate: what it changed stays."""
        change = self._changes.get(proposal)
        if change is not None and change.state == "open":
            self._put(replace(change, state="done", pins={}, ended_at=gate_version), {})

    def put_back(self, proposal: str, gate_version: int = 0) -> None:
        """Take back what a proposal changed, by this version of the gate. What it made is retired: files and
        ids stay theirs."""
        change = self._changes.get(proposal)
        if change is not None and change.state != "undone":
            self._undo(change, gate_version)

    def withdraw(self, leaf: LeafId) -> bool:
        """Retire a leaf whose expert has a tombstone, for good: no rollback brings it back. False where it is
        no leaf now."""
        if self.place(leaf).standing != "leaf":
            return False
        self._withdrawn.add(leaf)
        self._changed.setdefault(leaf, Place())
        self._place_all()
        self._save()
        return True

    def note_contributed(self, digest: str) -> None:
        """Keep of which tree a contribution is, so that this node's can follow a gate back to it. Noting a
        known one again changes nothing."""
        if digest in self._contributed:
            return
        self._contributed[digest] = tuple(
            change.proposal for change in self._changes.values() if change.state != "undone"
        )
        for old in list(self._contributed)[:-KEPT_CONTRIBUTED]:
            del self._contributed[old]
        self._save()

    def follow(self, contributions: Collection[str], gate_version: int) -> tuple[str, ...]:
        """Let the tree be the one that this node's contribution in a gate is of, after a rollback: undo,
        newest first, and do again, oldest first, the ended proposals by which it differs. Return them.

        Nothing is done while a proposal is on trial (its end is followed), of a gate without this node, and
        where a proposal ended by a newer version than this one.
        """
        own = next((digest for digest in contributions if digest in self._contributed), "")
        if not own or self.on_trial:
            return ()
        wanted = self._contributed[own]
        ended = tuple(self._changes.values())
        if any(change.ended_at > gate_version for change in ended):
            return ()
        undone = [each for each in reversed(ended) if each.state == "done" and each.proposal not in wanted]
        redone = [each for each in ended if each.state == "undone" and each.proposal in wanted]
        for change in undone:
            self._undo(change, gate_version)
        for change in redone:
            self._reshape(change, False)
            self._put(replace(change, state="done", ended_at=gate_version), change.after)
        return tuple(change.proposal for change in (*undone, *redone))

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON can keep it."""
        return {
            "places": {leaf: asdict(place) for leaf, place in self._changed.items()},
            "changes": [change.fields() for change in self._changes.values()],
            "offers": self._offers,
            "withdrawn": sorted(self._withdrawn),
            "contributed": _by_tree(self._contributed),
            "reserved": self._reserved,
        }

    def load(self, fields: Mapping[str, Any]) -> None:
        """Take up what `fields` returned; a node that never grew has none."""
        self._changed = {LeafId(leaf): Place(**place) for leaf, place in fields.get("places", {}).items()}
        changes = [TreeChange.from_fields(kept) for kept in fields.get("changes", ())]
        self._changes = {change.proposal: change for change in changes}
        self._offers = {LeafId(leaf): str(offer) for leaf, offer in fields.get("offers", {}).items()}
        self._withdrawn = {LeafId(leaf) for leaf in fields.get("withdrawn", ())}
        self._place_all()
        self._contributed = {
            digest: tuple(proposals)
            for proposals, digests in fields.get("contributed", ())
            for digest in digests
        }
        self._reserved = int(fields.get("reserved", 0))

    def _undo(self, change: TreeChange, gate_version: int) -> None:
        self._reshape(change, True)
        self._put(replace(change, state="undone", pins={}, ended_at=gate_version), change.before)

    def _put(self, change: TreeChange, places: Mapping[LeafId, Place]) -> None:
        self._changes[change.proposal] = change
        self._changed |= places
        self._place_all()
        self._save()

    def _place_all(self) -> None:
        gone = [leaf for leaf in self._withdrawn if self._changed[leaf].standing == "leaf"]
        self._places = pruned(self._changed, gone) if gone else dict(self._changed)


def _by_tree(contributed: Mapping[str, tuple[str, ...]]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return the digests of contributions by what they are of: most are of the tree of the one before."""
    return [
        (proposals, [digest for digest, _ in group])
        for proposals, group in groupby(contributed.items(), key=lambda item: item[1])
    ]
