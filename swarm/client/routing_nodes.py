"""Nodes that listen and route for others: who is asked where the coordinator cannot be reached."""

import random
import time
from collections.abc import Callable, Collection
from typing import Final

import structlog

from swarm.answering.owner_links import OwnerLinks
from swarm.domain.errors import (
    ExhaustedError,
    NotFoundError,
    NotReadyError,
    NotServedError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.rpc.clients import CoordinatorClient

SHARES: Final = 3
"""Each of many nodes may take one of so many equal shares of the time that is left."""
SHORTEST_S: Final = 0.1
"""With less time left nobody more is asked."""
NAMED: Final = 3
_order = random.Random()  # noqa: S311 (no secret)
_log = structlog.get_logger(__name__)


class RoutingNodes:
    """Asks one after the other, in a new order each time, until one answers."""

    def __init__(self, links: OwnerLinks, nodes: Callable[[], Collection[NodeId]]) -> None:
        """`nodes`: who listens and may be asked."""
        self._links, self._nodes = links, nodes

    def __bool__(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._nodes())

    async def predict(self, query: Query, timeout_s: float) -> tuple[NodeId, Answer]:
        """Return a node's answer, and which node that is, within timeout_s.

        Raises NotFoundError where a node that was reached does not know what the query names, and nobody
        answers, UnauthenticatedError where one does not take the caller for a member; UnreachableError with
        what each said where nobody was of use. What is wrong with the query itself the first one that is
        reached says.
        """
        deadline = time.monotonic() + timeout_s
        names = list(self._nodes())
        refusals: dict[NodeId, SwarmError] = {}
        for place, name in enumerate(_order.sample(names, len(names))):
            left = deadline - time.monotonic()
            link = self._links.reachable(name)
            if link is None or link.suspected:
                continue
            if left < SHORTEST_S and refusals:
                break
            try:
                share = left / min(SHARES, len(names) - place)
                return name, await CoordinatorClient(link.connection).predict(query, share)
            except SwarmError as error:
                if not _is_its_own(error):
                    raise
                refusals[name] = error
                _log.info("answer.not_by_node", node=name, because=str(error))
        for refusal in refusals.values():
            of_the_query = isinstance(refusal, NotFoundError) and not isinstance(refusal, NotServedError)
            if of_the_query or isinstance(refusal, UnauthenticatedError):
                raise refusal
        raise UnreachableError(
            "nodes that route", found=_told(refusals), expected="an answer from one of them"
        )


def _is_its_own(error: SwarmError) -> bool:
    """Say whether another node may do better: this one is away, late, full, broken or behind."""
    kinds = (
        UnreachableError,
        NotReadyError,
        NotFoundError,
        ExhaustedError,
        UnauthenticatedError,
        VerificationError,  # not itself, or an answer that is none
    )
    return isinstance(error, kinds) or type(error) is SwarmError  # a defect


def _told(refusals: dict[NodeId, SwarmError]) -> str:
    if not refusals:
        return "none that is known to listen"
    told = [f"{name}: {error.found or error}" for name, error in [*refusals.items()][:NAMED]]
    return "; ".join([*told, *([f"{len(refusals) - NAMED} more"] if len(refusals) > NAMED else [])])
