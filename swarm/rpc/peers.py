"""Nodes that may have what is fetched, besides the registry: those that live and advertise an address."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from swarm.domain.errors import SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import NodeView
from swarm.rpc.blob_holders import node_holder
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.credentials import IdentitySource
from swarm.transfer import Holder, likeliest
from swarm.trust.identity import Identity

MOST_PEERS: Final = 8

FindPeers = Callable[[Manifest], AbstractAsyncContextManager[tuple[Holder, ...]]]
"""Opens the nodes that may have a version's weights."""


class LivingPeers:
    """The nodes that the coordinator knows, the likeliest to hold an expert first: its owner, then those that
    stand in for it."""

    def __init__(
        self, source: Identity | IdentitySource, own: NodeId, coordinator: CoordinatorClient
    ) -> None:
        self._source, self._own, self._coordinator = source, own, coordinator

    @asynccontextmanager
    async def __call__(self, manifest: Manifest) -> AsyncIterator[tuple[Holder, ...]]:
        """Open the MOST_PEERS likeliest; none where the coordinator does not answer.

        A connection opens at its first call, and proves that it is that node: nothing else that a peer says
        is believed.
        """
        able = await self._able()
        order = likeliest(manifest.expert, manifest.owner, able)
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    open_channel(self._source, able[node].advertise, "node", node)
                )
                for node in order[:MOST_PEERS]
            ]
            yield tuple(map(node_holder, opened))

    async def _able(self) -> dict[NodeId, NodeView]:
        try:
            nodes = (await self._coordinator.status()).nodes
        except SwarmError:
            return {}  # the registry alone, then
        return {
            each.id: each
            for each in nodes
            if each.alive and not each.revoked and each.advertise and each.id != self._own
        }
