"""Nodes that route: one whose answers are none, or that is broken, does not keep others from answering."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from swarm.answering.owner_links import OwnerLinks
from swarm.client.routing_nodes import RoutingNodes
from swarm.domain.errors import InvalidInputError, UnauthenticatedError, UnreachableError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, Query
from swarm.rpc.credentials import IdentitySource
from swarm.rpc.servicers import inference_service
from swarm.trust.identity import Identity
from tests.support.rpc import Inference, asking, found_now, node, serving
from tests.support.trust import Founded

QUERY = Query(inputs=np.zeros((3, 4), np.uint8))
TIMES = 6
"""Nodes are asked in an order of chance."""


class TooFew(Inference):
    """Answers all rows but the last."""

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        return await super().predict(replace(query, inputs=query.inputs[:-1]), timeout_s)


class Broken(Inference):
    """Has a defect."""

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        raise RuntimeError("a defect")


class Strict(Inference):
    """Says what is wrong with every query."""

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        raise InvalidInputError("inputs", found="these", expected="others")


@pytest.fixture
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found_now(tmp_path_factory.mktemp("swarm"))


@pytest.fixture
def asker(swarm: Founded) -> Identity:
    return node(swarm, "asker")


@asynccontextmanager
async def nodes(
    swarm: Founded, asker: Identity, ports: Mapping[str, Inference], refusing: str = ""
) -> AsyncIterator[RoutingNodes]:
    """Run nodes that route as these ports do; `refusing` takes nobody for a member."""
    known: dict[NodeId, str] = {}
    async with AsyncExitStack() as stack:
        for name, port in ports.items():
            server = serving(
                node(swarm, name), [inference_service(port)], revoked=lambda _, name=name: name == refusing
            )
            _, known[NodeId(name)] = await stack.enter_async_context(server)
        links = OwnerLinks(
            IdentitySource(asker.folder),
            nodes=lambda: known,
            owners=tuple,
            is_revoked=lambda _: False,
        )
        stack.push_async_callback(links.close)
        yield RoutingNodes(links, known.keys)


@pytest.mark.parametrize("wrong", [TooFew(), Broken()])
async def test_another_node_answers_where_one_is_broken_or_its_answer_is_none(
    swarm: Founded, asker: Identity, wrong: Inference
) -> None:
    async with nodes(swarm, asker, {"rose": wrong, "tulip": Inference()}) as asked:
        for _ in range(TIMES):
            name, answer = await asked.predict(QUERY, 20.0)
            assert name == "tulip" and len(answer.probabilities) == 3
    async with nodes(swarm, asker, {"poppy": wrong}) as asked:
        with pytest.raises(UnreachableError, match="poppy"):
            await asked.predict(QUERY, 20.0)


async def test_another_node_answers_where_one_takes_the_caller_for_no_member(
    swarm: Founded, asker: Identity
) -> None:
    both = {"rose": Inference(), "tulip": Inference()}
    async with nodes(swarm, asker, both, refusing="rose") as asked:
        assert {(await asked.predict(QUERY, 20.0))[0] for _ in range(TIMES)} == {"tulip"}
    async with nodes(swarm, asker, {"poppy": Inference()}, refusing="poppy") as asked:
        with pytest.raises(UnauthenticatedError, match="asker"):
            await asked.predict(QUERY, 20.0)


async def test_what_is_wrong_with_the_query_the_first_node_says(swarm: Founded, asker: Identity) -> None:
    async with nodes(swarm, asker, {"rose": Strict(), "tulip": Strict()}) as asked:
        with pytest.raises(InvalidInputError, match="these"):
            await asked.predict(QUERY, 20.0)


async def test_an_answer_to_other_rows_than_were_asked_is_not_used(swarm: Founded, asker: Identity) -> None:
    async with asking(swarm.coordinator, asker, inference_service(TooFew())) as client:
        with pytest.raises(VerificationError, match="found 2; expected 3"):
            await client.predict(QUERY)
