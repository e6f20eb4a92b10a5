"""A node that grows in a running swarm: split, removed, interrupted; real processes throughout."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.leaves import LeafBook
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Proposal
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.inference import Query
from swarm.domain.manifests import Manifest
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement
from tests.support.growing import two_puzzles
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

pytestmark = pytest.mark.growth


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("growth")) as running:
        yield running


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    with np.load(two_puzzles(tmp_path_factory.mktemp("queries") / "held-out.npz", 60, seed=7)) as file:
        return np.asarray(file["x"])


async def trained(swarm: WholeSwarm, name: str, folder: Path, seed: int = 0) -> NodeHome:
    """Return the home of a node that has learned four classes with a net that is too small for them."""
    home = swarm.joined(name)
    swarm.agent(home)
    data = two_puzzles(folder / f"{name}.npz", seed=seed)
    async with agent_of(home) as client:
        done = await carried_out(client, TrainOrder(data=data, net="mlp:3x1", steps=600, borrow=False))
    assert done.figures["activated"] == 1.0
    return home


async def ended(client: CoordinatorClient, proposal: Proposal) -> Proposal:
    found = proposal

    async def has_ended() -> bool:
        nonlocal found
        (found,) = await client.proposals(proposal.id)
        return found.has_ended

    await until(has_ended, 120)
    return found


async def gates(client: CoordinatorClient) -> list[GateStatement]:
    envelopes = (await client.history()).envelopes
    statements = [read_statement(envelope, GateStatement).value for envelope in envelopes]
    return sorted(statements, key=lambda gate: gate.version)


async def test_a_split_changes_no_answer_is_trained_apart_and_decided_by_evidence(
    swarm: WholeSwarm, tmp_path: Path, queries: np.ndarray
) -> None:
    home = await trained(swarm, "rose", tmp_path)
    async with swarm.coordinator() as client:
        before = (await gates(client))[-1]
        proposal = await client.propose("split", [ExpertId("rose.e1")], {"steps": "1000"})
        known = await ended(client, proposal)
        history = await gates(client)
        copies = next(gate for gate in history if gate.change.kind == "split")
        answers = [
            await client.predict(Query(inputs=queries, combination=name, gate_version=version))
            for name in ("root", "gate", "poe")
            for version in (before.version, copies.version)
        ]
    for was, now in zip(answers[::2], answers[1::2], strict=True):
        assert np.abs(was.probabilities - now.probabilities).max() < 1e-6
    assert all(leaf.manifest for leaf in copies.leaves) and copies.change.proposal == proposal.id
    assert known.state == "accepted" and known.evidence["tried_gained"] > 0, known
    book = LeafBook(home.state)
    assert {leaf.leaf for leaf in history[-1].leaves} == {leaf.leaf for leaf in book.leaves()}
    assert {(leaf.leaf, leaf.parent) for leaf in history[-1].leaves} == {
        ("rose.l2", "rose.l1"),
        ("rose.l3", "rose.l1"),
    }
    assert not any(leaf.manifest for leaf in history[-1].leaves)
    sent = [line for line in OutboundLog(home.outbound).read() if line.what == "contribution"]
    assert len(sent) == 3


async def test_a_merge_that_does_not_pay_leaves_the_gate_as_it_was_and_its_work_in_the_registry(
    swarm: WholeSwarm,
) -> None:
    home = NodeHome(swarm.folder / "rose")
    async with swarm.coordinator() as client:
        before = (await gates(client))[-1]
        proposal = await client.propose("merge", [ExpertId("rose.e2"), ExpertId("rose.e3")])
        known = await ended(client, proposal)
        newest = (await gates(client))[-1]
    assert known.state == "refused" and "standard errors" in known.reason, known
    assert newest.leaves == before.leaves
    async with swarm.registry() as registry:
        merged = read_statement(await registry.manifest(expert="rose.e4"), Manifest).value
    assert [each.kind for each in merged.parents] == ["merged-from", "merged-from"]

    async def follows() -> bool:
        return [leaf.leaf for leaf in LeafBook(home.state).leaves()] == ["rose.l2", "rose.l3"]

    await until(follows)


async def test_a_leaf_is_trained_afresh_and_has_no_ancestor_then(swarm: WholeSwarm) -> None:
    async with swarm.coordinator() as client:
        proposal = await client.propose("retrain", [ExpertId("rose.e3")], {"steps": "500"})
        known = await ended(client, proposal)
    assert known.state == "accepted", known
    async with swarm.registry() as registry:
        head = read_statement(await registry.manifest(expert="rose.e3"), Manifest).value
    assert (head.version, head.parents) == (3, ())


async def test_several_leaves_of_one_owner_are_trained_afresh_in_one_proposal(swarm: WholeSwarm) -> None:
    both = [ExpertId("rose.e2"), ExpertId("rose.e3")]
    async with swarm.registry() as registry:
        before = {head.expert: head.version for head in await registry.heads("rose")}
    async with swarm.coordinator() as client:
        proposal = await client.propose("retrain", both, {"steps": "300"})
        known = await ended(client, proposal)
    assert (known.state, known.reason) == ("accepted", "each of 2 experts was trained anew"), known
    async with swarm.registry() as registry:
        for expert in both:
            head = read_statement(await registry.manifest(expert=expert), Manifest).value
            assert (head.version, head.parents) == (before[expert] + 1, ())


async def test_an_owner_removes_a_child_and_its_sibling_takes_the_place(
    swarm: WholeSwarm, queries: np.ndarray
) -> None:
    home = NodeHome(swarm.folder / "rose")
    identity = Identity.load(home.identity)
    async with open_channel(identity, identity.coordinator, "coordinator", NodeId("coordinator")) as channel:
        client = CoordinatorClient(channel)
        proposal = await client.propose("remove", [ExpertId("rose.e2")])
        known = await ended(client, proposal)
    assert known.state == "accepted", known
    async with swarm.coordinator() as operator:
        newest = (await gates(operator))[-1]
        assert [(leaf.leaf, leaf.parent) for leaf in newest.leaves] == [("rose.l3", "")]
        assert newest.branches == ()
        answer = await operator.predict(Query(inputs=queries, combination="gate"))
    assert np.isfinite(answer.probabilities).all()

    async def follows() -> bool:
        return [leaf.leaf for leaf in LeafBook(home.state).leaves()] == ["rose.l3"]

    await until(follows)


async def test_an_agent_that_is_killed_in_the_middle_of_a_split_takes_it_up_again(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = await trained(swarm, "tulip", tmp_path, seed=3)
    agent = swarm.agents[-1]
    async with swarm.coordinator() as client:
        proposal = await client.propose("split", [ExpertId("tulip.e1")], {"steps": "400"})

        async def answers_by_copies() -> bool:
            return any(gate.change.proposal == proposal.id for gate in await gates(client))

        await until(answers_by_copies, 60)
        agent.kill()
        await asyncio.to_thread(agent.wait, 20)
        swarm.agent(home)
        known = await ended(client, proposal)
        assert known.state in ("accepted", "rolled-back", "refused"), known
        newest = (await gates(client))[-1]

    async def follows() -> bool:
        own = {leaf.leaf for leaf in newest.leaves if leaf.owner == "tulip"}
        return {leaf.leaf for leaf in LeafBook(home.state).leaves()} == own

    await until(follows)
