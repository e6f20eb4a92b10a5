"""Who caches a gate learns of the new one by events; a query ends on the gate that it began with."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.gates import GateStatement
from swarm.domain.inference import ExpertAnswer, ExpertRequest, Query
from swarm.rpc.gate_follower import GateFollower
from swarm.trust.identity import Identity
from tests.support.commands import shell
from tests.support.coordinator import BackEnd, SmallNode, back_end, refusal, samples

PATIENCE_S = 20.0
"""Nothing here waits for a time: these are events, and this is when a test gives up."""


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


async def trained(swarm: BackEnd, name: str, classes: str, **options: Any) -> SmallNode:
    node = await swarm.node(name, classes, **options)
    await node.train()
    return node


@asynccontextmanager
async def following(swarm: BackEnd) -> AsyncIterator[GateFollower]:
    """A client that caches the gate."""
    operator = Identity.load(swarm.home.operator / "identity")
    follower = GateFollower(await swarm.operator(), operator.keyring())
    running = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield follower
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def told_of_gate(node: SmallNode, version: int) -> "asyncio.Future[float]":
    """Return what has the time once a node has heard of that version and verified it."""
    heard: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    on_gate = node.on_gate

    async def listening(envelope: bytes) -> None:
        await on_gate(envelope)
        if node.keyring.open(envelope, GateStatement).value.version == version:
            heard.set_result(time.time())

    node.on_gate = listening  # type: ignore[method-assign]
    return heard


def held(node: SmallNode) -> tuple[asyncio.Event, asyncio.Event]:
    """Let a node's answers wait. The first event says that it was asked, the second lets it go on."""
    asked, release, predict = asyncio.Event(), asyncio.Event(), node.predict

    async def waiting(request: ExpertRequest) -> list[ExpertAnswer]:
        asked.set()
        await release.wait()
        return await predict(request)

    node.predict = waiting  # type: ignore[method-assign]
    return asked, release


async def test_a_node_and_a_client_hear_of_a_new_gate_as_soon_as_it_counts(
    swarm: BackEnd, record_property: Any
) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await swarm.node("bob", "cd")
    await bob.publish()
    async with following(swarm) as follower:
        assert (await follower.newer_than(0)).value.version == 1
        heard = told_of_gate(ada, 2)
        contributing = asyncio.create_task(bob.contribute())
        gate = (await follower.newer_than(1)).value
        client_s = time.time() - gate.created_at
        node_s = await heard - gate.created_at
        assert (await contributing).gate_version == gate.version == 2 and not follower.is_stale
        assert [leaf.owner for leaf in gate.leaves] == ["ada", "bob"]
    record_property("seconds_from_signing_to_node", node_s)
    record_property("seconds_from_signing_to_client", client_s)
    print(f"from its signing: node {node_s:.4f} s, client {client_s:.4f} s")


async def test_a_client_keeps_its_gate_while_the_coordinator_is_away_and_then_has_the_new_one(
    swarm: BackEnd,
) -> None:
    await trained(swarm, "ada", "ab")
    async with following(swarm) as follower:
        await follower.newer_than(0)
        await swarm.stop_coordinator()
        while not follower.is_stale:
            await asyncio.sleep(0.01)
        assert follower.version == 1 and follower.stale_since is not None
        await swarm.start_coordinator()
        while follower.is_stale:
            await asyncio.sleep(0.01)
        await trained(swarm, "bob", "cd")
        assert (await follower.newer_than(1)).value.version == 2


async def test_a_query_is_answered_by_the_gate_that_it_began_with(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    asked, release = held(bob)
    under_way = asyncio.create_task(ada.ask("c", top_k=1, timeout_s=120))
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
    eve = await trained(swarm, "eve", "ef")
    assert (await eve.coordinator.status()).gate_version == 3
    assert not under_way.done()
    release.set()
    answer = await under_way
    assert (answer.gate_version, answer.degraded) == (2, (False,))
    assert answer.class_names == ("a", "b", "c", "d") and answer.sources[0][0].owner == "bob"
    assert (await ada.ask("e", top_k=1)).gate_version == 3


async def test_an_older_gate_still_answers_by_its_number_and_says_so(swarm: BackEnd) -> None:
    ada = await trained(swarm, "ada", "ab")
    await trained(swarm, "bob", "cd")
    older = await ada.ask("a", "c", gate_version=1)
    assert older.gate_version == 1
    assert {source.owner for row in older.sources for source in row} == {"ada"}
    present = await ada.ask("c", gate_version=2)
    assert present.gate_version == 2 and "bob" in {source.owner for source in present.sources[0]}
    assert (await ada.ask("c")).gate_version == 2
    unknown = await refusal(ada.ask("a", gate_version=9))
    assert isinstance(unknown, NotFoundError) and "gate 9: found gate 2 as the newest" in str(unknown)
    beside = await refusal(
        ada.coordinator.predict(Query(inputs=samples("a", 1, 0), gate_version=1, profile="0" * 64))
    )
    assert isinstance(beside, InvalidInputError) and "gate_version 1" in str(beside)


async def test_what_was_taken_back_answers_by_no_older_gate_either(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    await bob.coordinator.leave("gone")
    assert (await ada.ask("a")).gate_version == 3
    error = await refusal(ada.ask("a", gate_version=2))
    assert isinstance(error, NotFoundError) and "bob.e0 in it, withdrawn since" in str(error)
    assert (await ada.ask("a", gate_version=1)).gate_version == 1


async def test_a_node_that_knows_an_old_gate_only_is_asked_and_answers(swarm: BackEnd) -> None:
    ada, bob = await trained(swarm, "ada", "ab"), await trained(swarm, "bob", "cd")
    bob.gates.clear()  # its hello and its heartbeats say that it knows none
    requests: list[int] = []
    predict = bob.predict

    async def noting(request: ExpertRequest) -> list[ExpertAnswer]:
        requests.append(request.gate_version)
        return await predict(request)

    bob.predict = noting  # type: ignore[method-assign]
    answer = await ada.ask("d", top_k=1)
    assert requests == [2] and (answer.gate_version, answer.degraded) == (2, (False,))


async def test_the_command_follows_the_gate_and_asks_by_an_older_one(swarm: BackEnd, tmp_path: Path) -> None:
    ada = await trained(swarm, "ada", "ab")
    own = tmp_path / "cli"
    own.mkdir()
    (own / "identity").symlink_to(ada.identity.folder)
    home = ("--home", str(own))
    np.save(tmp_path / "x.npy", samples("a", 2, 0))
    with shell() as sh:
        following = await asyncio.to_thread(sh.start, "gate", "show", "--follow", "--json", *home)
        assert following.stdout is not None
        first = json.loads(await asyncio.to_thread(following.stdout.readline))
        await trained(swarm, "bob", "cd")
        second = json.loads(await asyncio.to_thread(following.stdout.readline))
        following.terminate()
        await asyncio.to_thread(following.wait, 20)
        assert [told["gate"]["version"] for told in (first, second)] == [1, 2]
        assert first["schema"] == "swarm.gate/1"
        assert [region["leaf"] for region in second["tree"]] == ["ada.l0", "bob.l0"]
        source = str(tmp_path / "x.npy")
        told = await asyncio.to_thread(sh.json, "predict", source, "--gate", "1", *home)
        assert told["answer"]["gate_version"] == 1
        history = await asyncio.to_thread(sh.swarm, "gate", "history", *home)
        assert "contribute" in history.stdout and "query FLOPs" in history.stdout
    assert (await ada.ask("a")).gate_version == 2
