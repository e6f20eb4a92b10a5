"""One query by every way there is: direct, by the coordinator, by a node that routes."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from swarm.answering.direct import DirectAnswers
from swarm.answering.owner_links import OwnerLink, OwnerLinks
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.rpc.clients import CoordinatorClient

DIRECT_SHARE: Final = 0.6
COORDINATOR_SHARE: Final = 0.7
"""Of the time that is left, so that there is some for the next way."""
MOST_NODES: Final = 3
_order = random.Random()  # noqa: S311 (no secret)
_log = structlog.get_logger(__name__)


class Ways:
    """Asks by the first way that answers whole; where none does, by one whose answer is degraded.

    `direct` None: routing is left to others. `links` and `nodes`: nodes that listen, which route where the
    coordinator cannot be reached; `links` None: nobody is asked to.
    """

    def __init__(
        self,
        coordinator: CoordinatorClient,
        *,
        direct: DirectAnswers | None,
        links: OwnerLinks | None,
        nodes: Callable[[], tuple[NodeId, ...]] = tuple,
    ) -> None:
        self._coordinator, self._direct, self._links, self._nodes = coordinator, direct, links, nodes

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return an answer within timeout_s. Raises what the coordinator says where that is an answer too,
        UnreachableError where neither it nor anybody else can be reached."""
        deadline = time.monotonic() + timeout_s
        direct = None if query.profile else self._direct
        if direct is not None:
            try:
                return await direct.predict(query, timeout_s * DIRECT_SHARE)
            except InvalidInputError:
                raise
            except (SwarmError, OSError) as error:
                _log.info("answer.not_direct", because=str(error))
        nodes = () if query.profile else tuple(self._routing())
        share = COORDINATOR_SHARE if direct is not None or nodes else 1.0
        refusal: SwarmError
        try:
            return await self._coordinator.predict(query, (deadline - time.monotonic()) * share)
        except UnreachableError as error:
            refusal = error
        if direct is not None:
            try:
                return await direct.predict(query, deadline - time.monotonic(), whole=False)
            except (SwarmError, OSError) as error:
                _log.info("answer.not_degraded", because=str(error))
                if isinstance(error, NotFoundError) and direct.known.active is not None:
                    raise  # of what the query names, the verified gate has the last word
        for place, node in enumerate(nodes):
            left = (deadline - time.monotonic()) / (len(nodes) - place)
            try:
                return await CoordinatorClient(node.connection).predict(query, left)
            except (UnreachableError, NotReadyError, NotFoundError) as error:
                _log.info("answer.not_by_node", node=node.node, because=str(error))
        raise refusal

    def _routing(self) -> Iterator[OwnerLink]:
        """Yield a few nodes that listen, in a new order each time."""
        if self._links is None:
            return
        names = list(self._nodes())
        for name in _order.sample(names, min(MOST_NODES, len(names))):
            link = self._links.reachable(name)
            if link is not None and not link.suspected:
                yield link
