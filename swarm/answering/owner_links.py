"""Nodes that listen, as those whose experts are asked in one hop; connections open at their first call."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from swarm.answering.expert_calls import ExpertLink
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import ExpertAnswer, ExpertRequest
from swarm.domain.manifests import Manifest
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.credentials import IdentitySource
from swarm.rpc.node_clients import ExpertClient
from swarm.transfer import likeliest

SUSPECTED_S: Final = 10.0
"""So long a node that let a call time out is not asked."""
STAND_INS: Final = 2
"""So many nodes beside the owner may hold its expert; which ones, the expert's own order tells."""
MOST_RANKED: Final = 10_000
"""For so many experts it is kept who stands in."""


class OwnerLink:
    """One node's experts, by address. Implements `ExpertLink` and `LiveExperts`."""

    def __init__(self, node: NodeId, address: str, connection: Connection) -> None:
        self.node, self.address, self.connection = node, address, connection
        self._experts = ExpertClient(connection)
        self._suspected_until = 0.0

    @property
    def link(self) -> "OwnerLink":
        return self

    @property
    def suspected(self) -> bool:
        """Whether it let a call time out a moment ago."""
        return time.monotonic() < self._suspected_until

    @suspected.setter
    def suspected(self, value: bool) -> None:
        self._suspected_until = time.monotonic() + SUSPECTED_S if value else 0.0

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        return await self._experts.predict(request, timeout_s)


class OwnLink:
    """The experts of this very process. Implements `LiveExperts`."""

    suspected = False

    def __init__(self, link: ExpertLink) -> None:
        self.link = link


class OwnerLinks:
    """Implements `Holders` over what is known of the nodes."""

    def __init__(
        self,
        source: IdentitySource,
        *,
        nodes: Callable[[], Mapping[NodeId, str]],
        owners: Callable[[], Iterable[NodeId]],
        is_revoked: Callable[[NodeId], bool],
        own: ExpertLink | None = None,
        placed: Callable[[Digest], tuple[NodeId, ...]] = lambda digest: (),
    ) -> None:
        """`nodes`: where they listen; `owners`: those with leaves in the gate; `own`: this process's own
        experts, if it has any; `placed`: on which nodes the coordinator has a version, beside its owner."""
        self._source, self._nodes, self._owners, self._is_revoked = source, nodes, owners, is_revoked
        self._own = None if own is None else OwnLink(own)
        self._placed = placed
        self._open: dict[NodeId, OwnerLink] = {}
        self._ranked_of: Iterable[NodeId] = ()
        self._ranked: dict[ExpertId, tuple[NodeId, ...]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, node: NodeId) -> OwnerLink | OwnLink | None:
        """Return a node that listens and is not revoked, None otherwise."""
        if self._is_revoked(node):
            return None
        if self._own is not None and self._own.link.node == node:
            return self._own
        return self.reachable(node)

    def reachable(self, node: NodeId) -> OwnerLink | None:
        """Return the connection to another node that listens and is not revoked, None otherwise."""
        address = self._nodes().get(node)
        known = self._open.get(node)
        if known is not None and (known.address != address or self._is_revoked(node)):
            self._close_soon(self._open.pop(node))
            known = None
        if address is None or self._is_revoked(node):
            return None
        if known is None:
            connection = open_channel(self._source, address, "node", node)
            known = self._open[node] = OwnerLink(node, address, connection)
        return known

    def holders(self, manifest: Manifest, digest: Digest) -> list[OwnerLink | OwnLink]:
        """Return who can answer for a version: its owner, then those that the coordinator placed it on, then
        those that stand in for it anyway; a serve-only expert is its owner's alone. One that does not hold it
        says so when it is asked."""
        names: tuple[NodeId, ...] = (manifest.owner,)
        if manifest.share != "serve-only":
            names = (*names, *self._placed(digest), *self._stand_ins(manifest.expert, manifest.owner))
        found = [self.get(name) for name in dict.fromkeys(names)]
        return [each for each in found if each is not None and not each.suspected]

    def holds(self, node: NodeId, manifest: Manifest, digest: Digest) -> bool:
        """Say whether one of the holders is expected to have a version: those that it was placed on, where
        that is known; else nobody can tell."""
        placed = self._placed(digest)
        return not placed or node == manifest.owner or node in placed

    async def close(self) -> None:
        """Close all connections."""
        for link in self._open.values():
            self._close_soon(link)
        self._open.clear()
        await asyncio.gather(*self._closing)

    def _stand_ins(self, expert: ExpertId, owner: NodeId) -> tuple[NodeId, ...]:
        owners = self._owners()
        if owners is not self._ranked_of or len(self._ranked) >= MOST_RANKED:
            self._ranked_of, self._ranked = owners, {}
        found = self._ranked.get(expert)
        if found is None:
            found = self._ranked[expert] = likeliest(expert, owner, {*owners} - {owner})[:STAND_INS]
        return found

    def _close_soon(self, link: OwnerLink) -> None:
        task = asyncio.ensure_future(link.connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
