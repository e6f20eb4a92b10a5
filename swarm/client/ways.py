"""One query by every way there is: direct, by the coordinator, by a node that routes."""

import time
from typing import Final

import structlog

from swarm.answering.direct import DirectAnswers
from swarm.client.routing_nodes import RoutingNodes
from swarm.domain.errors import InvalidInputError, NotFoundError, SwarmError, UnreachableError
from swarm.domain.inference import Answer, Query
from swarm.rpc.clients import CoordinatorClient

DIRECT_SHARE: Final = 0.6
COORDINATOR_SHARE: Final = 0.7
"""Of the time that is left, so that there is some for the next way."""
_log = structlog.get_logger(__name__)


class Ways:
    """Asks by the first way that answers whole; where none does, by one whose answer is degraded.

    `direct` None: routing is left to others. `nodes`: those that route where the coordinator cannot be
    reached; None: nobody is asked to.
    """

    def __init__(
        self,
        coordinator: CoordinatorClient,
        *,
        direct: DirectAnswers | None,
        nodes: RoutingNodes | None = None,
    ) -> None:
        self._coordinator, self._direct, self._nodes = coordinator, direct, nodes

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
        nodes = None if query.profile else self._nodes
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
        if nodes:
            try:
                name, answer = await nodes.predict(query, deadline - time.monotonic())
                _log.info("answer.by_node", node=name, because=str(refusal))
                return answer
            except (UnreachableError, NotFoundError) as error:
                _log.info("answer.not_by_nodes", because=str(error))
                if isinstance(error, NotFoundError) and not query.gate_version:
                    raise  # but for older gates, which the coordinator alone answers by
        raise refusal
