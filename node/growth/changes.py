"""How a proposal changes a node's own tree of leaves, so that it can be done, undone and done again."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from swarm.domain.growth import ProposalKind
from swarm.domain.ids import LeafId

Standing = Literal["leaf", "branch", "retired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a leaf is in the owner's tree. `parent` names the branch above it, empty at the top.

    leaf: it has an expert that answers; branch: it was split, its children share its region; retired: rolled
    back, merged away or removed. Its files stay, and its id is never used again.
    """

    standing: Standing = "leaf"
    parent: str = ""

    @property
    def is_retired(self) -> bool:
        return self.standing == "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeChange:
    """What one proposal changes: the places of some leaves before it and after it.

    Leaves that it makes are retired before it. While it is on trial, `pins` name the versions (by digest)
    that its leaves answer with. `reshaped` leaves gave samples to another one (`node.growth.reshaping`).
    open: on trial; done: accepted; undone: rolled back, or refused. `was_accepted` stays when an accepted one
    is undone later. `ended_at`: by this version of the gate it had ended, older ones say nothing of it.
    """

    proposal: str
    kind: ProposalKind
    before: Mapping[LeafId, Place]
    after: Mapping[LeafId, Place]
    pins: Mapping[LeafId, str] = field(default_factory=dict)
    reshaped: tuple[LeafId, ...] = ()
    state: Literal["open", "done", "undone"] = "open"
    was_accepted: bool = False
    ended_at: int = 0

    def __post_init__(self) -> None:
        if self.state == "done":
            object.__setattr__(self, "was_accepted", True)

    @property
    def made(self) -> tuple[LeafId, ...]:
        """The leaves that are there because of it."""
        return tuple(leaf for leaf, place in self.before.items() if place.is_retired)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `asdict` made fields of."""
        places = {
            name: {LeafId(leaf): Place(**place) for leaf, place in fields[name].items()}
            for name in ("before", "after")
        }
        reshaped = tuple(LeafId(leaf) for leaf in fields.get("reshaped", ()))
        return cls(**{**fields, **places, "reshaped": reshaped})

    def fields(self) -> dict[str, Any]:
        """Return the change as JSON can keep it."""
        return asdict(self)


def tree_change(
    proposal: str,
    kind: ProposalKind,
    places: Mapping[LeafId, Place],
    after: Mapping[LeafId, Place],
    pins: Mapping[LeafId, str],
) -> TreeChange:
    """Return the change from the present `places` to those `after`; leaves that are new were retired."""
    changed = {leaf: place for leaf, place in after.items() if places.get(leaf) != place}
    before = {leaf: places.get(leaf, Place(standing="retired")) for leaf in changed}
    return TreeChange(proposal=proposal, kind=kind, before=before, after=changed, pins=dict(pins))


def split_places(
    places: Mapping[LeafId, Place], parent: LeafId, children: Collection[LeafId]
) -> dict[LeafId, Place]:
    """Return the places once a leaf is a branch with these children."""
    branch = Place(standing="branch", parent=places[parent].parent)
    return dict(places) | {parent: branch} | dict.fromkeys(children, Place(parent=parent))


def merged_places(
    places: Mapping[LeafId, Place], merged: Collection[LeafId], new: LeafId
) -> dict[LeafId, Place]:
    """Return the places once a new leaf stands for some: under the branch that they have in common, else at
    the top."""
    parents = {places[leaf].parent for leaf in merged}
    return pruned({**places, new: Place(parent=parents.pop() if len(parents) == 1 else "")}, merged)


def pruned(places: Mapping[LeafId, Place], gone: Collection[LeafId]) -> dict[LeafId, Place]:
    """Return the places of all leaves and branches once some leaves are retired.

    A branch that is left with one child goes too, and the child takes its place; one without children goes.
    """
    after = dict(places) | dict.fromkeys(gone, Place(standing="retired"))
    while True:
        lonely = next((leaf for leaf, place in after.items() if _is_lonely(leaf, place, after)), None)
        if lonely is None:
            return after
        for child in _children(lonely, after):
            after[child] = Place(standing=after[child].standing, parent=after[lonely].parent)
        after[lonely] = Place(standing="retired")


def _is_lonely(leaf: LeafId, place: Place, places: Mapping[LeafId, Place]) -> bool:
    return place.standing == "branch" and len(_children(leaf, places)) < 2


def _children(branch: LeafId, places: Mapping[LeafId, Place]) -> list[LeafId]:
    return [leaf for leaf, place in places.items() if place.parent == branch and place.standing != "retired"]
