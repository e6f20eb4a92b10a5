"""`swarm predict` while the coordinator does not answer: this node routes, or another that listens."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from swarm.cli.output import progress
from swarm.domain.errors import ExhaustedError, NotFoundError, NotReadyError, UnreachableError

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.inference import Answer, Query
    from swarm.domain.specification import Specification

MakeQuery = Callable[["Specification"], "Query"]


async def ask_nodes(
    place: "Place", unreachable: UnreachableError, query_of: MakeQuery, timeout_s: float
) -> "tuple[Query, Answer]":
    """Return the answer of this home's own node where it listens, else of another that this home knows.

    Raises an UnreachableError of the coordinator where nobody answers, and what a node says of the query.
    """
    own: list[str] = []
    try:
        return await _by_own_node(place, unreachable, query_of, timeout_s)
    except UnreachableError as error:
        own = [] if error is unreachable else [f"this node: {error.found or error}"]
    except (NotReadyError, ExhaustedError) as error:
        own = [f"this node: {error.found or error}"]
    return await _by_another(place, unreachable, query_of, timeout_s, own)


async def _by_own_node(
    place: "Place", unreachable: UnreachableError, query_of: MakeQuery, timeout_s: float
) -> "tuple[Query, Answer]":
    from swarm.cli.places import own_routing
    from swarm.domain.specification import Specification

    async with own_routing(place, unreachable) as (client, envelope):
        progress(f"{unreachable.subject} does not answer: this node routes")
        query = query_of(place.identity().keyring().open(envelope, Specification).value)
        return query, await client.predict(query, timeout_s)


async def _by_another(
    place: "Place", unreachable: UnreachableError, query_of: MakeQuery, timeout_s: float, own: list[str]
) -> "tuple[Query, Answer]":
    from swarm.cli.kept_members import routing_nodes

    async with routing_nodes(place.identity()) as (nodes, known):
        try:
            query = query_of(known.specification())
            name, answer = await nodes.predict(query, timeout_s)
        except NotFoundError:
            progress(f"{unreachable.subject} does not answer: nodes that route were asked")
            raise
        except (UnreachableError, NotReadyError) as error:
            silent = "; ".join([*own, *([error.found] if nodes else [])])
            said = f"no node answers either ({silent})" if silent else "no node that listens is known here"
            raise UnreachableError(
                unreachable.subject,
                found=f"{unreachable.found}; {said}",
                expected="the coordinator, or a node that listens and was known when it last answered here",
                remedy=unreachable.remedy,
            ) from unreachable
    progress(f"{unreachable.subject} does not answer: node {name} routed")
    return query, answer
