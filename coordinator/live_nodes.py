"""Which nodes are connected now, and which of them can answer for which version of an expert."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Event, Heartbeat
from swarm.rpc.ports import NodeLink

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True, eq=False)
class LiveNode:
    """A node with an open stream. `suspected`: it let a call time out and has not been heard of since."""

    link: NodeLink
    fence: int
    last_seen: float
    served: frozenset[Digest]
    activity: str = ""
    socket_bytes: SocketBytes = field(default_factory=SocketBytes)
    suspected: bool = False
    trouble: str = ""
    loaded: frozenset[Digest] = frozenset()
    declined: frozenset[Digest] = frozenset()
    room_bytes: int = 0
    has_beaten: bool = False

    def hear(self, beat: Heartbeat, now: float) -> None:
        """Take over what a heartbeat says."""
        self.last_seen, self.suspected = now, False
        self.served = frozenset(beat.served)
        self.activity, self.socket_bytes = beat.activity, beat.socket_bytes
        self.trouble = beat.trouble
        self.loaded, self.declined = frozenset(beat.loaded), frozenset(beat.declined)
        self.room_bytes, self.has_beaten = beat.room_bytes, True


class LiveNodes:
    """The open streams, one per node: a newer one takes the older one's place."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._nodes: dict[NodeId, LiveNode] = {}
        self.seen: dict[NodeId, LiveNode] = {}
        """The last state of every node that was ever connected to this process."""

    def add(self, link: NodeLink, fence: int) -> None:
        """Count link's node as live; an older stream of the same node is closed."""
        older = self._nodes.get(link.node)
        node = LiveNode(link=link, fence=fence, last_seen=self._clock(), served=frozenset(link.hello.served))
        self._nodes[link.node] = self.seen[link.node] = node
        if older is not None and older.link is not link:
            older.link.close("a newer stream of the same node took its place")

    def remove(self, link: NodeLink) -> LiveNode | None:
        """Count link's node as gone; None where another stream took its place already."""
        node = self._nodes.get(link.node)
        if node is None or node.link is not link:
            return None
        del self._nodes[link.node]
        return node

    def get(self, node: NodeId) -> LiveNode | None:
        """Return a node while it is connected."""
        return self._nodes.get(node)

    def of(self, link: NodeLink) -> LiveNode | None:
        """Return the node of this very stream, None where another took its place."""
        node = self._nodes.get(link.node)
        return node if node is not None and node.link is link else None

    def __iter__(self) -> Iterator[LiveNode]:
        return iter(list(self._nodes.values()))

    def holders(self, manifest: Manifest, digest: Digest) -> list[LiveNode]:
        """Return who can answer for this version now, those under suspicion left out: the owner first, then
        those that have it loaded.

        Nobody but the owner holds a serve-only expert.
        """
        owner = self._nodes.get(manifest.owner)
        others = (
            []
            if manifest.share == "serve-only"
            else [n for n in self if n is not owner and digest in n.served]
        )
        found = [
            *([owner] if owner is not None else []),
            *sorted(others, key=lambda n: (digest not in n.loaded, n.link.node)),
        ]
        return [node for node in found if not node.suspected]

    def holds(self, node: NodeId, manifest: Manifest, digest: Digest) -> bool:
        """Say whether one of the holders is known to have the version: all of them are."""
        return True

    def announce(
        self,
        *,
        gate: bytes = b"",
        specification: bytes = b"",
        revocations: bytes = b"",
        event: Event | None = None,
    ) -> None:
        """Tell every connected node."""
        for node in self:
            node.link.announce(gate=gate, specification=specification, revocations=revocations, event=event)


class LeaseWatch:
    """Says once for each lease that it ran out: `lost(node)` is called when nothing renewed it in time."""

    def __init__(self, lost: Callable[[NodeId], None]) -> None:
        self._lost = lost
        self._timers: dict[NodeId, asyncio.TimerHandle] = {}

    def renewed(self, node: NodeId, lease_s: float) -> None:
        """Expect the next renewal within lease_s."""
        self.ended(node)
        self._timers[node] = asyncio.get_running_loop().call_later(max(lease_s, 0.0), self._ran_out, node)

    def ended(self, node: NodeId) -> None:
        """Expect nothing more of node."""
        timer = self._timers.pop(node, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Expect nothing more of anyone."""
        for node in list(self._timers):
            self.ended(node)

    def _ran_out(self, node: NodeId) -> None:
        self._timers.pop(node, None)
        self._lost(node)
