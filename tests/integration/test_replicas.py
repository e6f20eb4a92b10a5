"""Placement by the coordinator over real streams: who is told to hold what, and what a dead owner's expert
becomes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.observing import describe_status
from tests.support.coordinator import BackEnd, SmallNode, back_end

ROOM = 1 << 20


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


async def restarted(swarm: BackEnd, **options: Any) -> None:
    await swarm.stop_coordinator()
    await swarm.start_coordinator(**options)


async def planted(swarm: BackEnd, name: str, classes: str, **options: Any) -> SmallNode:
    node = await swarm.node(name, classes, **{"room_bytes": ROOM} | options)
    await node.train()
    return node


async def until_so(ask: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = ask()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)


async def few(node: SmallNode) -> dict[str, int]:
    return dict((await node.coordinator.status()).under_replicated)


async def test_each_leaf_is_loaded_on_two_nodes_and_a_third_takes_the_place_of_one_that_died(
    swarm: BackEnd,
) -> None:
    await restarted(swarm, replica_grace_s=0.5)
    ada, bob = await planted(swarm, "ada", "ab"), await planted(swarm, "bob", "cd")
    await until_so(lambda: bob.served[0] in ada.loaded and ada.served[0] in bob.loaded)

    async def whole() -> bool:
        return not await few(ada)

    await until_so(whole)
    eve = await planted(swarm, "eve", "ab", share="serve-only")
    assert eve.expert not in [*ada.loaded, *bob.loaded]
    await bob.disconnect()
    await until_so(lambda: {ada.served[0], bob.served[0]} <= {*eve.loaded})
    await until_so(whole)
    answer = await ada.ask("c", top_k=1)
    assert answer.degraded == (False,) and answer.sources[0][0].served_by in ("ada", "eve")
    told = len(ada.placements)
    back = await swarm.connect(
        SmallNode(swarm, bob.identity, bob.classes, room_bytes=ROOM, served=list(bob.served), version=1)
    )
    await until_so(lambda: back.placements)
    assert bob.served[0] in back.placements[-1] and ada.served[0] not in back.placements[-1]
    assert {*ada.placements[-1]} <= {ada.served[0], bob.served[0]} and len(ada.placements) <= told + 1


async def test_an_expert_that_nobody_there_holds_is_fetched_by_another_node_while_answers_are_degraded(
    swarm: BackEnd,
) -> None:
    await restarted(swarm, replicas=1, replica_grace_s=0.2)
    ada, bob = await planted(swarm, "ada", "ab"), await planted(swarm, "bob", "cd", room_bytes=0)
    await until_so(lambda: ada.placements)
    assert bob.served[0] not in ada.served, "one replica is the owner's"
    await bob.disconnect()
    first = await ada.ask("c", top_k=1)
    assert first.degraded == (True,) and first.missing_experts == (bob.expert,)

    async def whole() -> bool:
        answer = await ada.ask("c", top_k=1)
        return answer.degraded == (False,) and answer.sources[0][0].served_by == "ada"

    await until_so(whole)


async def test_a_node_that_can_not_hold_it_is_left_out_and_the_status_names_the_leaf(swarm: BackEnd) -> None:
    await restarted(swarm, replica_grace_s=0.2)
    ada = await planted(swarm, "ada", "ab")
    bob = await swarm.node("bob", "cd", room_bytes=ROOM, declined=(ada.served[0],))
    await swarm.node("eve", "cd", room_bytes=0)

    async def named() -> bool:
        return await few(ada) == {"ada.l0": 1}

    await until_so(named)
    text = describe_status(await ada.coordinator.status())
    assert "leaves loaded on fewer than 2 nodes: ada.l0 (1)" in text
    bob.declined = ()
    await until_so(lambda: ada.served[0] in bob.loaded)
