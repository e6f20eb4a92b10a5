"""The tree of a node's own leaves: where each is, and what proposals changed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from node.growth.changes import Place, TreeChange
from swarm.domain.ids import LeafId, number_of


class OwnTree:
    """Part of the node's book of leaves. `save` brings the whole book to disk; each change calls it last."""

    def __init__(
        self,
        save: Callable[[], None],
        reshape: Callable[[TreeChange, bool], None] = lambda change, back: None,
    ) -> None:
        """`reshape` gives or takes samples as a change does, or (True) as what it did before; saved next."""
        self._save, self._reshape = save, reshape
        self._places: dict[LeafId, Place] = {}
        self._changes: dict[str, TreeChange] = {}
        self._offers: dict[LeafId, str] = {}
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
        self._places.pop(leaf, None)
        self._offers.pop(leaf, None)
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

    def settle(self, proposal: str) -> None:
        """Keep that a proposal was accepted: what it changed stays."""
        change = self._changes.get(proposal)
        if change is not None and change.state == "open":
            self._put(replace(change, state="done", pins={}), {})

    def put_back(self, proposal: str) -> None:
        """Take back what a proposal changed. What it made is retired: files and ids stay theirs."""
        change = self._changes.get(proposal)
        if change is not None and change.state != "undone":
            self._reshape(change, True)
            self._put(replace(change, state="undone", pins={}), change.before)

    def follow(self, gate_leaves: Collection[LeafId]) -> tuple[str, ...]:
        """After a rollback of the gate, to one with these leaves of this node: undo, or do again, the ended
        proposals by which the tree differs from it. Return them."""
        followed = []
        for change in reversed(tuple(self._changes.values())):
            if change.state == "done" and change.is_undone_by(gate_leaves, self._places):
                self._reshape(change, True)
                self._put(replace(change, state="undone"), change.before)
                followed.append(change.proposal)
        for change in tuple(self._changes.values()):
            if change.proposal in followed or change.state != "undone" or not change.is_done_in(gate_leaves):
                continue
            self._reshape(change, False)
            self._put(replace(change, state="done"), change.after)
            followed.append(change.proposal)
        return tuple(followed)

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON can keep it."""
        return {
            "places": {leaf: asdict(place) for leaf, place in self._places.items()},
            "changes": [change.fields() for change in self._changes.values()],
            "offers": self._offers,
            "reserved": self._reserved,
        }

    def load(self, fields: Mapping[str, Any]) -> None:
        """Take up what `fields` returned; a node that never grew has none."""
        self._places = {LeafId(leaf): Place(**place) for leaf, place in fields.get("places", {}).items()}
        changes = [TreeChange.from_fields(kept) for kept in fields.get("changes", ())]
        self._changes = {change.proposal: change for change in changes}
        self._offers = {LeafId(leaf): str(offer) for leaf, offer in fields.get("offers", {}).items()}
        self._reserved = int(fields.get("reserved", 0))

    def _put(self, change: TreeChange, places: Mapping[LeafId, Place]) -> None:
        self._changes[change.proposal] = change
        self._places |= places
        self._save()
