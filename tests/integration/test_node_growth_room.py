"""Growth that never ends never jams: what did not pay makes room in a registry that holds 32 experts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.leaves import LeafBook
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement, sign_statement
from tests.support.growing import two_kinds
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

pytestmark = pytest.mark.growth
LIMIT = 32
E1 = ExpertId("rose.e1")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("room"), max_leaves=2) as running:
        yield running


@pytest.fixture(scope="module")
def home(swarm: WholeSwarm, tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    """A node whose expert has nothing to gain, and whose registry holds 26 experts already."""
    home = swarm.joined("rose")
    swarm.agent(home)
    data = two_kinds(tmp_path_factory.mktemp("data") / "rose.npz")

    async def prepare() -> None:
        await train(home, data)
        await fill(home, range(101, 126))

    asyncio.run(prepare())
    return home


async def train(home: NodeHome, data: str) -> None:
    async with agent_of(home) as client:
        done = await carried_out(client, TrainOrder(data=data, net="mlp:16x1", steps=300, borrow=False))
    assert done.figures["activated"] == 1.0, done


@asynccontextmanager
async def registry_of(home: NodeHome) -> AsyncIterator[RegistryClient]:
    """Open the registry as the node itself does."""
    identity = Identity.load(home.identity)
    async with open_channel(identity, identity.registry, "registry", NodeId("registry")) as channel:
        yield RegistryClient(channel)


async def fence_of(home: NodeHome) -> int:
    async with agent_of(home) as client:
        return (await client.state()).fence


async def fill(home: NodeHome, numbers: range) -> None:
    """Publish experts of the node that growth knows nothing of, and so never touches."""
    signer, fence = Identity.load(home.identity).required_signer(), await fence_of(home)
    async with registry_of(home) as registry:
        made = read_statement(await registry.manifest(expert=E1, version=1), Manifest).value
        for number in numbers:
            other = replace(
                made, expert=ExpertId(f"rose.e{number}"), leaf=LeafId(f"rose.l{number}"), parents=()
            )
            await registry.commit(sign_statement(other, signer), fence)


async def heads(swarm: WholeSwarm) -> set[str]:
    async with swarm.registry() as registry:
        return {head.expert for head in await registry.heads("rose")}


async def split(client: CoordinatorClient) -> Proposal:
    """Propose a split that gains nothing; return it once it has ended."""
    found = await client.propose("split", [E1], {"steps": "1"})

    async def has_ended() -> bool:
        nonlocal found
        (found,) = await client.proposals(found.id)
        return found.has_ended

    await until(has_ended, 120)
    return found


async def put_back(home: NodeHome) -> None:
    """Wait until the node has closed its proposal."""

    def is_closed() -> bool:
        folder = home.state / "growth"
        return not list(folder.glob("p*")) and [leaf.expert for leaf in LeafBook(home.state).leaves()] == [E1]

    await until(is_closed, 60)


def sizes(swarm: WholeSwarm, home: NodeHome) -> dict[str, int]:
    def of(folder: Path) -> int:
        seen = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        return sum(seen.values())

    return {
        "owner's state": of(home.state),
        "owner's cache": of(home.cache),
        "registry's blobs": of(swarm.home.registry),
        "coordinator": of(swarm.home.coordinator),
        "redis": of(swarm.home.redis),
    }


async def test_more_splits_fail_than_the_registry_holds_and_the_owner_goes_on(
    swarm: WholeSwarm, home: NodeHome, tmp_path: Path
) -> None:
    await until(lambda: LeafBook(home.state).published(), 20)
    before = sizes(swarm, home)
    async with swarm.coordinator() as client:
        for number in range(1, 7):
            known = await split(client)
            assert known.state == "rolled-back", known
            await put_back(home)
            assert len(await heads(swarm)) == min(LIMIT, 26 + 2 * number)
            now = sizes(swarm, home)
            print(number, {name: now[name] - before[name] for name in now})
            before = now
        told = [event async for event in client.events(limit=1000) if event.kind == "growth.withdrew_unused"]
    assert [dict(event.fields)["proposal"] for event in told] == ["p4", "p5", "p6"]
    assert "withdrew rose.e2 rose.e3, which no gate has" in dict(told[0].fields)["reason"]
    left = await heads(swarm)
    assert not left & {f"rose.e{number}" for number in range(2, 8)}
    assert {f"rose.e{number}" for number in range(8, 14)} <= left
    known_here = {leaf.expert for leaf in LeafBook(home.state).everything()}
    assert known_here == {E1, *(f"rose.e{number}" for number in range(8, 14))}
    await train(home, two_kinds(tmp_path / "more.npz", seed=1))
    async with agent_of(home) as agent:
        assert (await agent.state()).outbox == 0


async def test_where_nothing_may_go_a_split_fails_at_once_by_name_and_training_goes_on(
    swarm: WholeSwarm, home: NodeHome, tmp_path: Path
) -> None:
    identity, fence = Identity.load(home.identity), await fence_of(home)
    async with registry_of(home) as registry:
        for number in range(8, 14):
            stone = Tombstone(
                swarm=identity.swarm, kind="expert", id=f"rose.e{number}", reason="mine", created_at=1.0
            )
            await registry.withdraw(sign_statement(stone, identity.required_signer()), fence)
    await fill(home, range(126, 132))
    assert len(await heads(swarm)) == LIMIT
    async with swarm.coordinator() as client:
        async with asyncio.timeout(30):
            known = await split(client)
    assert known.state == "failed"
    assert "experts of rose: found 32 in the registry, none of which may be withdrawn" in known.reason
    assert "expected at most 30" in known.reason and "swarm expert remove EXPERT" in known.reason
    await put_back(home)
    await train(home, two_kinds(tmp_path / "yet-more.npz", seed=2))
    assert len(await heads(swarm)) == LIMIT


async def test_what_was_withdrawn_stays_away_when_the_node_comes_back(
    swarm: WholeSwarm, home: NodeHome
) -> None:
    before = await heads(swarm)
    agent = swarm.agents[-1]
    agent.kill()
    await asyncio.to_thread(agent.wait, 20)
    swarm.agent(home)
    async with agent_of(home) as client:
        await until(lambda: client.state(), 20)
    assert await heads(swarm) == before
    assert all(Digest(leaf.head) for leaf in LeafBook(home.state).published())
