"""Nodes that may have what is fetched, besides the registry: those that live and advertise an address."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from swarm.cli.places import Place
from swarm.domain.errors import SwarmError

if TYPE_CHECKING:
    from swarm.rpc.clients import CoordinatorClient
    from swarm.transfer import Holder

MOST_PEERS = 8


@asynccontextmanager
async def living_peers(place: Place, coordinator: "CoordinatorClient") -> "AsyncIterator[tuple[Holder, ...]]":
    """Open connections to the peers that the coordinator knows; none where it does not answer.

    A connection opens at its first call, and proves that it is that node: nothing else that a peer says is
    believed.
    """
    from swarm.rpc.blob_holders import node_holder
    from swarm.rpc.channel import open_channel

    identity = place.identity()
    try:
        nodes = (await coordinator.status()).nodes
    except SwarmError:
        nodes = ()  # the registry alone, then
    able = [
        each
        for each in nodes
        if each.alive and not each.revoked and each.advertise and each.id != identity.id
    ]
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(open_channel(identity, each.advertise, "node", each.id))
            for each in able[:MOST_PEERS]
        ]
        yield tuple(map(node_holder, opened))
