"""Nodes that meet something new: a leaf is added by the policy and by hand, pays, and is taken back; real
processes throughout."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from node.leaves import LeafBook
from node.shard_source import ShardSource
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.novelty import NOVEL_FILE, fresh_counts
from swarm.config import NodeHome
from swarm.domain.agent import StreamOptions, TrainOrder, TrainStep
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import ExpertId
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.statements import read_statement
from tests.support.commands import Shell
from tests.support.learning import ROOT, digits_like
from tests.support.whole_swarm import WholeSwarm, agent_of, until, whole_swarm

pytestmark = pytest.mark.growth


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path / "swarm") as running:
        yield running


def arrive(folder: Path, name: str, seed: int, *, inverted: bool, count: int = 400) -> None:
    """Let a mega-batch arrive whole, of digits or of inverted ones. What a linear net finds in a digit it
    finds the less in the same digit inverted: one that has learned both kinds knows neither well."""
    folder.mkdir(exist_ok=True)
    images, labels = digits_like(count, 4, seed=seed, noise=3.0)
    hidden = folder / f".{name}.npz"
    np.savez(hidden, x=16 - images if inverted else images, y=labels)
    hidden.rename(folder / f"{name}.npz")


def ledger(home: NodeHome) -> StreamLedger:
    return StreamLedger(home.state / LEDGER_FILE)


@asynccontextmanager
async def streaming(swarm: WholeSwarm, name: str, folder: Path, seed: int) -> AsyncIterator[NodeHome]:
    """A node whose stream has learned a mega-batch."""
    home = swarm.joined(name)
    swarm.agent(home)
    arrive(folder, "a", seed, inverted=False)
    stream = StreamOptions(wait=1)
    what = TrainOrder(data=str(folder), net="linear", steps=400, sums="none", borrow=False, stream=stream)
    async with agent_of(home) as client:

        async def follow() -> list[TrainStep]:
            return [step async for step in client.train(what)]

        following = asyncio.create_task(follow())
        await until(lambda: 1 in ledger(home).recorded, 90)
        try:
            yield home
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def meet_what_is_new(*nodes: tuple[NodeHome, Path, int]) -> None:
    """Let a mega-batch of another kind arrive at all nodes at once: what one has contributed is new to
    nobody."""
    for _, folder, seed in nodes:
        arrive(folder, "b", seed, inverted=True)
    for home, _, _ in nodes:
        await until(lambda home=home: 2 in ledger(home).recorded, 90)


async def gates(client: CoordinatorClient) -> list[GateStatement]:
    envelopes = (await client.history()).envelopes
    statements = [read_statement(envelope, GateStatement).value for envelope in envelopes]
    return sorted(statements, key=lambda gate: gate.version)


async def ended(client: CoordinatorClient, kind: str, count: int = 1) -> list[Proposal]:
    """Return the proposals of a kind, oldest first, once so many of them have ended."""
    found: list[Proposal] = []

    async def have_ended() -> bool:
        nonlocal found
        found = [each for each in reversed(await client.proposals()) if each.kind == kind]
        return sum(each.has_ended for each in found) >= count

    await until(have_ended, 120)
    return found


async def command(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Return how a command ended, with what it said on one line each."""
    shell = Shell(tmp_path)
    return await asyncio.to_thread(shell.swarm, *words, PYTHONPATH=str(ROOT))


def held(home: NodeHome) -> dict[str, dict[str, int]]:
    """Return the class counts of a node's leaves."""
    return {leaf.leaf: dict(leaf.class_counts) for leaf in LeafBook(home.state).leaves()}


async def test_what_a_stream_meets_anew_gets_a_leaf_that_pays_and_can_be_rolled_back(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    incoming, founder = tmp_path / "incoming", str(swarm.home.root)
    async with streaming(swarm, "rose", incoming, 1) as home, swarm.coordinator() as client:
        await meet_what_is_new((home, incoming, 2))
        fresh, novel = fresh_counts(home.state)
        assert ledger(home).taken[2].novel >= novel >= 200
        before, alone = (await gates(client))[-1], held(home)
        assert list(alone) == ["rose.l1"]

        await client.growth_policy("eager")
        (found,) = await ended(client, "add")
        await client.growth_policy("manual")

        assert found.state == "accepted", found
        assert (
            found.why
            == f"{novel} of {fresh} new samples of rose lay beyond every leaf's .99 radius when they came"
        )
        assert found.evidence["tried_z"] > 1 and found.evidence["tried_gained"] >= 5
        after = (await gates(client))[-1]
        assert [leaf.leaf for leaf in after.leaves] == ["rose.l1", "rose.l2"]
        assert (after.change.kind, after.change.proposal) == ("add", found.id)
        await until(lambda: "rose.l2" in held(home))
        assert sum(held(home)["rose.l2"].values()) == novel, "the leaf is of what was new"
        assert sum(held(home)["rose.l1"].values()) == fresh - novel
        await until(lambda: fresh_counts(home.state)[1] == 0)

        done = await command(tmp_path, "gate", "rollback", str(before.version), "--home", founder)
        assert done.returncode == 0, done.stderr
        back = (await gates(client))[-1]
        assert [leaf.leaf for leaf in back.leaves] == ["rose.l1"]
        assert back.contributions == before.contributions
        await until(lambda: held(home) == alone)

        arrive(incoming, "c", 3, inverted=True)
        await until(lambda: 3 in ledger(home).recorded, 90)
        assert ledger(home).recorded[3].learned == (3,), "the stream goes on"


async def test_a_mega_batch_that_comes_while_an_add_is_on_trial_is_as_novel_as_before(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    incoming = tmp_path / "incoming"
    async with streaming(swarm, "rose", incoming, 1) as home, swarm.coordinator() as client:
        await meet_what_is_new((home, incoming, 2))
        rose = str(home.root)
        done = await command(tmp_path, "expert", "add", "--no-wait", "--steps", "2000", "--home", rose)
        assert done.returncode == 0 and "add of rose (p1) is working" in done.stdout, done.stderr
        busy = await command(tmp_path, "expert", "add", "--home", rose)
        assert busy.returncode == 6 and "one proposal at a time" in busy.stderr, busy.stderr
        rng = np.random.default_rng(5)
        noise = rng.integers(0, 17, (200, 8, 8)).astype(np.uint8)
        np.savez(incoming / ".c.npz", x=noise, y=rng.integers(0, 2, 200))
        (incoming / ".c.npz").rename(incoming / "c.npz")
        (found,) = await ended(client, "add")
        assert found.state == "accepted" and found.by == "rose", found
        await until(lambda: 3 in ledger(home).recorded, 90)
        taken = ledger(home).taken[3]
        assert taken.novel >= 100
        if taken.novelty_by == f"gate {found.gate_version}":
            assert fresh_counts(home.state) == (taken.fresh, taken.novel)
        assert len(ShardSource.read(home.state / NOVEL_FILE)) == taken.novel


async def test_two_nodes_add_by_the_regions_that_their_novel_samples_have_in_common(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    founder = str(swarm.home.root)
    async with (
        streaming(swarm, "dan", tmp_path / "dan", 1) as dan,
        swarm.coordinator() as client,
    ):
        done = await command(tmp_path, "expert", "add", "--home", founder)
        assert done.returncode == 2 and "--node" in done.stderr, done.stderr
        done = await command(tmp_path, "expert", "add", "--node", "zoe", "--home", founder)
        assert "node zoe" in done.stderr and "none of that name in the gate" in done.stderr, done.stderr
        nodes = ("--node", "dan", "--node", "eve")
        done = await command(tmp_path, "expert", "add", *nodes, "--home", founder)
        assert done.returncode == 5 and "node eve" in done.stderr, done.stderr
        async with streaming(swarm, "eve", tmp_path / "eve", 3) as eve:
            await meet_what_is_new((dan, tmp_path / "dan", 2), (eve, tmp_path / "eve", 4))
            counts = [fresh_counts(home.state)[1] for home in (dan, eve)]
            assert min(counts) >= 20, counts
            done = await command(tmp_path, "expert", "add", *nodes, "--json", "--home", founder)
            found = await ended(client, "add", 2)
            assert done.returncode == (0 if all(each.state == "accepted" for each in found) else 6), done
            assert [each.owner for each in found] == ["dan", "eve"] and found[0].state == "accepted", found
            assert found[0].evidence["common_regions"] == found[1].evidence["common_regions"] > 0
            if not done.returncode:
                assert [each["owner"] for each in json.loads(done.stdout)["proposals"]] == ["dan", "eve"]
            assert "regions in common: dan, eve" in done.stderr
            newest = (await gates(client))[-1]
            assert {"dan.l1", "dan.l2", "eve.l1"} <= {leaf.leaf for leaf in newest.leaves}
            assert LeafBook(dan.state).leaves()[-1].expert == ExpertId("dan.e2")


async def test_the_policy_looks_for_regions_in_common_where_two_nodes_have_something_new(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    async with (
        streaming(swarm, "dan", tmp_path / "dan", 1) as dan,
        streaming(swarm, "eve", tmp_path / "eve", 3) as eve,
        swarm.coordinator() as client,
    ):
        await meet_what_is_new((dan, tmp_path / "dan", 2), (eve, tmp_path / "eve", 4))
        await client.growth_policy("eager")
        found = await ended(client, "add", 2)
        await client.growth_policy("manual")
    assert {each.owner for each in found[:2]} == {"dan", "eve"} and found[0].state == "accepted", found
    regions = [each.evidence["common_regions"] for each in found[:2]]
    assert regions[0] == regions[1] > 0 and {each.by for each in found} == {"policy"}
