"""Growth of one owner again and again: no number of splits that come to nothing is in the way of the next."""

import asyncio
from collections.abc import Iterator

import pytest

from node.growth.kept import KeptContributions
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, ExpertId
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.statements import read_statement
from tests.support.growing import two_kinds
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

pytestmark = pytest.mark.growth
E1 = ExpertId("rose.e1")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("again")) as running:
        yield running


@pytest.fixture(scope="module")
def home(swarm: WholeSwarm, tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    """A node whose expert has nothing to gain, and which contributed twice."""
    home = swarm.joined("rose")
    swarm.agent(home)
    data = two_kinds(tmp_path_factory.mktemp("data") / "rose.npz")

    async def train_twice() -> None:
        async with agent_of(home) as client:
            for _ in range(2):
                order = TrainOrder(data=data, net="mlp:16x1", steps=300, borrow=False)
                assert (await carried_out(client, order)).figures["activated"] == 1.0

    asyncio.run(train_twice())
    return home


async def gate(client: CoordinatorClient, version: int = 0) -> GateStatement:
    return read_statement(await client.gate(version), GateStatement).value


async def split(client: CoordinatorClient) -> Proposal:
    """Propose a split that gains nothing, at once; return it once it has ended."""
    found = await client.propose("split", [E1], {"steps": "1"})

    async def has_ended() -> bool:
        nonlocal found
        (found,) = await client.proposals(found.id)
        return found.has_ended

    await until(has_ended, 120)
    return found


def is_kept(home: NodeHome, contribution: Digest) -> bool:
    return KeptContributions(home.state / "contributions").find(contribution) is not None


async def test_split_after_split_is_rolled_back_and_none_of_them_fails(
    swarm: WholeSwarm, home: NodeHome
) -> None:
    async with swarm.coordinator() as client:
        before = await gate(client)
        for _ in range(4):
            known = await split(client)
            assert known.state == "rolled-back", known
            now = await gate(client)
            assert now.contributions == before.contributions and now.leaves == before.leaves
    assert is_kept(home, before.contributions[0])


async def test_after_a_rollback_to_what_the_node_keeps_no_more_it_grows_on(
    swarm: WholeSwarm, home: NodeHome
) -> None:
    async with swarm.coordinator() as client:
        first = await gate(client, 1)
        assert not is_kept(home, first.contributions[0])
        await client.rollback(1)
        for _ in range(3):
            known = await split(client)
            assert known.state == "rolled-back", known
            assert (await gate(client)).contributions == first.contributions
    assert is_kept(home, first.contributions[0])
