"""What an owner has after rollbacks of the gate and after it withdrew an expert: what the gate has, and the
next training goes on from there. Real processes throughout."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.leaves import LeafBook
from swarm.cli.app import build
from swarm.cli.output import run_guarded
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import ExpertId, NodeId
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement
from tests.support.growing import two_kinds, two_puzzles
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

pytestmark = pytest.mark.growth


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("rollbacks")) as running:
        yield running


async def train(home: NodeHome, data: str, net: str = "mlp:3x1", steps: int = 600) -> float:
    """Train, and return whether the gate has it."""
    async with agent_of(home) as client:
        done = await carried_out(client, TrainOrder(data=data, net=net, steps=steps, borrow=False))
    return done.figures["activated"]


async def gate(client: CoordinatorClient) -> GateStatement:
    return read_statement(await client.gate(), GateStatement).value


async def leaves_of(client: CoordinatorClient, owner: str) -> list[str]:
    found = await gate(client)
    return [leaf.leaf for leaf in found.leaves if leaf.owner == owner]


def own_leaves(home: NodeHome) -> list[str]:
    return [leaf.leaf for leaf in LeafBook(home.state).leaves()]


async def accepted(client: CoordinatorClient, proposal: Proposal) -> int:
    """Wait until a proposal was accepted; return the gate by which."""
    found = proposal

    async def has_ended() -> bool:
        nonlocal found
        (found,) = await client.proposals(proposal.id)
        return found.has_ended

    await until(has_ended, 120)
    assert found.state == "accepted", found
    return max(found.gate_versions)


async def removed_as_it_wishes(home: NodeHome, expert: str) -> int:
    """Let a node take an expert out of the gate, without a tombstone; return the gate without it."""
    identity = Identity.load(home.identity)
    async with open_channel(identity, identity.coordinator, "coordinator", NodeId("coordinator")) as channel:
        client = CoordinatorClient(channel)
        return await accepted(client, await client.propose("remove", [ExpertId(expert)]))


async def test_a_rollback_over_two_changes_and_one_while_the_owner_is_away_stay(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = swarm.joined("rose")
    agent = swarm.agent(home)
    data = two_puzzles(tmp_path / "rose.npz", seed=0)
    assert await train(home, data) == 1.0
    async with swarm.coordinator() as client:
        first = (await gate(client)).version
        await accepted(client, await client.propose("split", [ExpertId("rose.e1")], {"steps": "1000"}))
        grown = await removed_as_it_wishes(home, "rose.e2")
        await until(lambda: own_leaves(home) == ["rose.l3"])

        await client.rollback(first)
        await until(lambda: own_leaves(home) == ["rose.l1"])
        assert await train(home, data, steps=20) == 1.0
        assert await leaves_of(client, "rose") == ["rose.l1"]

        await client.rollback(grown)
        await until(lambda: own_leaves(home) == ["rose.l3"])

        agent.kill()
        agent.wait()
        await client.rollback(first)
        swarm.agent(home)
        await until(lambda: own_leaves(home) == ["rose.l1"])
        assert await train(home, data, steps=20) == 1.0
        assert await leaves_of(client, "rose") == ["rose.l1"]


def test_who_withdrew_its_only_expert_learns_another_one(swarm: WholeSwarm, tmp_path: Path) -> None:
    home = swarm.joined("tulip")
    swarm.agent(home)
    data = two_kinds(tmp_path / "tulip.npz")

    async def learned() -> list[str]:
        assert await train(home, data, net="mlp:16x1") == 1.0
        async with swarm.coordinator() as client:
            return await leaves_of(client, "tulip")

    for number, flags in ((1, []), (2, ["--no-wait"])):
        assert asyncio.run(learned()) == [f"tulip.l{number}"]
        line = ["expert", "remove", f"e{number}", "--home", str(home.root), *flags]
        assert run_guarded(build(), line) == 0
        asyncio.run(until(lambda: not own_leaves(home)))
    assert asyncio.run(learned()) == ["tulip.l3"]
