"""Keeps the modules of every leaf loaded on so many nodes: tells each node what to hold, over its stream.

A node is told all that it is to hold and keep loaded, its own experts included, whenever that changes and
each time it connects; it says with its heartbeats what it has loaded, and what it may or can not hold. Nodes
stand in by their own reckoning besides, also while the coordinator is away (docs/adr/0019).
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

import structlog

from coordinator.heads import Heads
from coordinator.live_nodes import LiveNode, LiveNodes
from coordinator.placement import Place, Placeable, Places, plan_placement
from swarm.answering.active_gate import ActiveGate
from swarm.answering.call_times import CallTimes
from swarm.answering.known_head import KnownHead
from swarm.digests import digest_of
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import PlacedVersions
from swarm.rpc.ports import NodeLink

LOOK_S: Final = 2.0
GRACE_S: Final = 30.0
"""So long a node that is gone is expected back, and after a start of the coordinator every node is."""
MOST_TOLD: Final = 4
"""So many holders of a version are told to who routes elsewhere."""
log = structlog.get_logger()


class Replicas:
    """Implements the coordinator's placement. `run` goes on until it is cancelled."""

    def __init__(
        self,
        *,
        live: LiveNodes,
        heads: Heads,
        active: Callable[[], ActiveGate | None],
        times: CallTimes,
        replicas: int,
        grace_s: float = GRACE_S,
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live, self._heads, self._active, self._times = live, heads, active, times
        self.replicas, self._grace_s, self._look_s, self._clock = replicas, grace_s, look_s, clock
        self._began = clock()
        self._plan: Places = {}
        self._told: dict[NodeId, tuple[NodeLink, frozenset[Digest]]] = {}
        self._there: set[NodeId] = set()
        self._gone: dict[NodeId, float] = {}
        self._waited_for: set[Digest] = set()
        self._kicked = asyncio.Event()
        self._told_of: tuple[float, PlacedVersions] = (-math.inf, PlacedVersions(mark="", nodes={}))

    async def run(self) -> None:
        """Look now and then, and whenever somebody waits for an expert that nobody there can answer with."""
        while True:
            self.look()
            try:
                async with asyncio.timeout(self._look_s):
                    await self._kicked.wait()
            except TimeoutError:
                pass
            self._kicked.clear()

    def wait_for(self, head: KnownHead) -> None:
        """Take note that nobody was there to answer with this version: another node is to fetch it now."""
        if head.manifest.share == "serve-only" or head.digest in self._waited_for:
            return
        log.info("expert.waited_for", expert=head.manifest.expert, version=head.manifest.version)
        self._waited_for.add(head.digest)
        self._kicked.set()

    def look(self) -> None:
        """Work out who is to hold what, and tell those for whom it changed."""
        away, nodes = self._note_who_is_there(), {n.link.node: n for n in self._live if n.has_beaten}
        versions = self._versions()
        self._waited_for &= {version.manifest for version in versions}
        if self._clock() - self._began < self._grace_s:
            return  # after a start of ours, whoever held something may not be back yet
        before = self._plan
        self._plan = plan_placement(
            versions, self._places(nodes), before, self.replicas, away=away, waited_for=self._waited_for
        )
        for version in versions:
            added = set(self._plan[version.manifest]) - set(before.get(version.manifest, ()))
            if added:
                log.info("expert.placed", expert=version.expert, nodes=sorted(added))
        self._waited_for -= {digest for digest in self._waited_for if self._plan.get(digest)}
        self._tell(nodes, versions)

    def under_replicated(self) -> dict[str, int]:
        """Return the leaves that may be shared and are loaded on fewer live nodes than wanted: on how many.

        An owner that is there counts, whether it was asked yet or not.
        """
        active, found = self._active(), {}
        for leaf in () if active is None else active.value.leaves:
            head = self._heads.answering(leaf)
            if head is None or head.manifest.share == "serve-only":
                continue
            count = sum(node.link.node == leaf.owner or head.digest in node.loaded for node in self._live)
            if count < self.replicas:
                found[str(leaf.leaf)] = count
        return found

    def placement(self) -> PlacedVersions:
        """Return who beside the owner has each version loaded, or was told to, as of a moment ago."""
        now = self._clock()
        if now - self._told_of[0] >= self._look_s:
            nodes = self._placed()
            mark = digest_of(repr(sorted(nodes.items())).encode())
            self._told_of = now, PlacedVersions(mark=mark, nodes=nodes)
        return self._told_of[1]

    def _placed(self) -> Places:
        loaded: dict[Digest, list[NodeId]] = {}
        for node in sorted(self._live, key=lambda node: node.link.node):
            for digest in node.loaded:
                loaded.setdefault(digest, []).append(node.link.node)
        found: Places = {}
        for version in self._versions():
            names = dict.fromkeys((*loaded.get(version.manifest, ()), *self._plan.get(version.manifest, ())))
            names.pop(version.owner, None)
            if names:
                found[version.manifest] = tuple(names)[:MOST_TOLD]
        return found

    def _note_who_is_there(self) -> set[NodeId]:
        """Return who was there within the grace and is not now, or has not yet said what it holds."""
        now, there = self._clock(), {node.link.node for node in self._live if node.has_beaten}
        for node in self._there - there:
            self._gone[node] = now
        self._there = there
        self._gone = {
            node: since
            for node, since in self._gone.items()
            if node not in there and now - since < self._grace_s
        }
        return set(self._gone) | ({node.link.node for node in self._live} - there)

    def _versions(self) -> list[Placeable]:
        active = self._active()
        found: dict[Digest, Placeable] = {}
        for leaf in () if active is None else active.value.leaves:
            head = self._heads.answering(leaf)
            if head is None or head.manifest.share == "serve-only":
                continue
            found[head.digest] = Placeable(
                manifest=head.digest,
                expert=leaf.expert,
                owner=leaf.owner,
                size_bytes=sum(module.size_bytes for module in head.manifest.modules),
            )
        return list(found.values())

    def _places(self, nodes: dict[NodeId, LiveNode]) -> dict[NodeId, Place]:
        asked = {name: self._times.rows_lately(name) for name in nodes}
        most = max(asked.values(), default=0.0)
        return {
            name: Place(
                node=name,
                room_bytes=node.room_bytes,
                busy=asked[name] / most if most else 0.0,
                held=node.served,
                loaded=node.loaded,
                declined=node.declined,
            )
            for name, node in nodes.items()
        }

    def _tell(self, nodes: dict[NodeId, LiveNode], versions: list[Placeable]) -> None:
        wanted: dict[NodeId, set[Digest]] = {
            name: set() for name, node in nodes.items() if node.room_bytes > 0
        }
        for version in versions:
            for name in (version.owner, *self._plan[version.manifest]):
                if name in wanted:
                    wanted[name].add(version.manifest)
        for name, digests in wanted.items():
            link = nodes[name].link
            if self._told.get(name) != (link, frozenset(digests)):
                self._told[name] = (link, frozenset(digests))
                link.announce(placement=sorted(digests))
