"""What a home keeps of its swarm from when the coordinator answered: who is asked while it does not."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from swarm.answering.known_members import KnownMembers
from swarm.answering.owner_links import OwnerLinks
from swarm.client.cache import CacheFolder
from swarm.client.routing_nodes import RoutingNodes
from swarm.domain.errors import SwarmError
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.credentials import IdentitySource
from swarm.telemetry import log_as_library
from swarm.trust.identity import Identity

KEPT_S: Final = 30.0
"""So long nothing is asked anew."""
WITHIN_S: Final = 3.0
"""So long, at most, a command that is done goes on for it."""
_STAMP = "asked"


async def keep_members(identity: Identity, coordinator: CoordinatorClient) -> None:
    """Keep the specification, who is revoked and where nodes listen, as the Python client does. What fails
    now is tried again by the next command."""
    log_as_library()
    cache = CacheFolder(identity, None)
    stamp = cache.folder / _STAMP
    try:
        with contextlib.suppress(SwarmError, OSError, TimeoutError):
            if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < KEPT_S:
                return
            async with asyncio.timeout(WITHIN_S):
                known = KnownMembers(cache.folder, identity)
                await known.take_specification(await coordinator.specification())
                await known.refresh_members(coordinator)
            stamp.touch()
    finally:
        cache.close()


@asynccontextmanager
async def routing_nodes(identity: Identity) -> AsyncIterator[tuple[RoutingNodes, KnownMembers]]:
    """Open the nodes that listen, but for this one itself, as this home knows them."""
    log_as_library()
    cache = CacheFolder(identity, None)
    try:
        known = KnownMembers(cache.folder, identity)
        links = OwnerLinks(
            IdentitySource(identity.folder),
            nodes=lambda: known.nodes,
            owners=tuple,
            is_revoked=known.keyring.is_revoked,
        )
        try:
            yield RoutingNodes(links, lambda: known.nodes.keys() - {identity.id}), known
        finally:
            await links.close()
    finally:
        cache.close()
