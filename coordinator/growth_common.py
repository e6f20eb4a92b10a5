"""Adds of several nodes by the same regions: found once, then each of the nodes is asked in its turn."""

from collections.abc import Awaitable, Callable, Sequence

import structlog

from swarm.domain.errors import ConflictError, SwarmError
from swarm.domain.ids import NodeId
from swarm.gating.growth import Intention

FindRegions = Callable[[Sequence[NodeId]], Awaitable[bytes]]

log = structlog.get_logger()


class CommonRegions:
    """What was found last, for the nodes that were not asked by it yet; another intention ends their turn."""

    def __init__(self, find: FindRegions) -> None:
        self._find = find
        self._found: dict[NodeId, bytes] = {}

    async def of(self, intention: Intention) -> bytes:
        """Return the regions by which an intended add is to be; empty: by its node's own samples alone.

        Where they cannot be found, one node's add is still one. Raises ConflictError while another federated
        run is under way: the next look is soon enough.
        """
        kept = self._found.pop(intention.owner, b"") if intention.kind == "add" else b""
        if kept:
            return kept
        self._found = {}
        if len(intention.together) < 2:
            return b""
        try:
            regions = await self._find(intention.together)
        except ConflictError:
            raise
        except SwarmError as error:
            log.warning("growth.no_common_regions", nodes=" ".join(intention.together), reason=str(error))
            return b""
        self._found = dict.fromkeys((node for node in intention.together if node != intention.owner), regions)
        return regions
