"""On which nodes each expert's modules are to be loaded: pure.

The owner counts as one. What was decided stays for as long as it can: nothing moves for balance alone. A node
that is away for less than a grace counts as there, so one that restarts moves nothing; but an expert that
somebody waits for, and nobody who is there has, is given to another node at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from swarm.digests import digest_of
from swarm.domain.ids import Digest, ExpertId, NodeId

FETCH, LOAD = 1.0, 0.25
"""What it counts that a node first has to fetch a version, or to load it; so do a full and a busy node."""

Places = dict[Digest, tuple[NodeId, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeable:
    """One version that answers for a leaf and may be shared; `size_bytes` are its modules'."""

    manifest: Digest
    expert: ExpertId
    owner: NodeId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node that is there. `room_bytes` may experts of others fill; `busy` 0..1: how much it is asked beside
    the busiest; `declined`: what it may or can not hold."""

    node: NodeId
    room_bytes: int
    busy: float = 0.0
    held: Collection[Digest] = frozenset()
    loaded: Collection[Digest] = frozenset()
    declined: Collection[Digest] = frozenset()


def plan_placement(
    versions: Sequence[Placeable],
    places: Mapping[NodeId, Place],
    before: Mapping[Digest, Sequence[NodeId]],
    replicas: int,
    *,
    away: Collection[NodeId] = (),
    waited_for: Collection[Digest] = (),
) -> Places:
    """Return who beside the owner is to hold each version, fewer than wanted where nobody else can.

    `before`: the last plan; `away`: who was there within the grace; `waited_for`: versions that nobody was
    there to answer with.
    """
    found: Places = {}
    filled = dict.fromkeys(places, 0)
    for version in versions:
        kept = [
            node
            for node in before.get(version.manifest, ())
            if node in away or (node in places and _can_hold(places[node], version, filled[node]))
        ]
        found[version.manifest] = tuple(kept[: _needed(version, places, away, replicas)])
        for node in found[version.manifest]:
            if node in filled:
                filled[node] += version.size_bytes
    for version in versions:
        holders = list(found[version.manifest])
        missing = _needed(version, places, away, replicas) - len(holders)
        is_there = version.owner in places or any(node in places for node in holders)
        if version.manifest in waited_for and not is_there:
            missing = max(missing, 1)
        for node in _cheapest(version, places, filled, holders)[: max(missing, 0)]:
            holders.append(node)
            filled[node] += version.size_bytes
        found[version.manifest] = tuple(holders)
    return found


def _needed(
    version: Placeable, places: Mapping[NodeId, Place], away: Collection[NodeId], replicas: int
) -> int:
    return replicas - (version.owner in places or version.owner in away)


def _can_hold(place: Place, version: Placeable, filled: int) -> bool:
    return version.manifest not in place.declined and filled + version.size_bytes <= place.room_bytes


def _cheapest(
    version: Placeable,
    places: Mapping[NodeId, Place],
    filled: Mapping[NodeId, int],
    holders: Collection[NodeId],
) -> list[NodeId]:
    """Return who can hold a version as well, the best first."""

    def cost(place: Place) -> tuple[float, str]:
        digest = version.manifest
        get = 0.0 if digest in place.loaded else LOAD if digest in place.held else FETCH
        full = filled[place.node] / place.room_bytes
        return get + full + place.busy, digest_of(f"{version.expert} {place.node}".encode())

    able = [
        place
        for name, place in places.items()
        if name not in holders and name != version.owner and _can_hold(place, version, filled[name])
    ]
    return [place.node for place in sorted(able, key=cost)]
