"""Regions that several nodes' novel samples have in common: a federated run that the coordinator orders."""

import secrets
from collections.abc import Sequence

from coordinator.federation import Federation
from swarm.domain.errors import NotReadyError
from swarm.domain.federation import FederationOrder
from swarm.domain.ids import NodeId
from swarm.federation.options import novel_regions
from swarm.gating.common_regions import found_regions, packed_regions

ROUND_TIMEOUT_S = 120.0


class NovelRegions:
    """Finds them by k-means over the nodes' novel samples; only centroids, sums and counts leave a node."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def find(self, nodes: Sequence[NodeId]) -> bytes:
        """Return the regions of these nodes, packed.

        Raises ConflictError while another federated run is under way, NotReadyError where fewer than two of
        them took part, and what else the run ends with.
        """
        options = novel_regions(nodes, least=2, timeout_s=ROUND_TIMEOUT_S)
        order = FederationOrder(app="kmeans", options=options, idempotency_key=secrets.token_hex(16))
        last = None
        async for step in self._federation.run(order):
            last = step
        if last is None or last.stage != "done":
            raise NotReadyError("common regions", found="a run without a result")
        return packed_regions(found_regions(last.arrays))
