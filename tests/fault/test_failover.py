"""An owner dies, hangs, comes back: others answer and say so, and nobody else notices."""

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from swarm.domain.errors import SwarmError
from tests.support.garden import Garden, accuracy, garden, owners, same_answers
from tests.support.rpc import eventually
from tests.support.whole_swarm import until

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garden]:
    with garden(tmp_path_factory.mktemp("failover")) as running:
        yield running


async def test_killing_an_owner_changes_the_answering_expert_and_nothing_else(swarm: Garden) -> None:
    before, untouched = await swarm.ask(0, 1), await swarm.ask(2, 3)
    assert owners(before) == {"rose"} and owners(untouched) == {"tulip"}
    swarm.kill("rose")
    killed = time.monotonic()
    now = await swarm.ask(0, 1)
    assert owners(now) == {"tulip"} and all(now.degraded) and now.gate_version == before.gate_version
    assert "rose.e1" in now.missing_experts
    other = await swarm.ask(2, 3)
    assert same_answers(other, untouched) and not any(other.degraded)
    mixed = await swarm.ask()
    assert 0 < sum(mixed.degraded) < len(mixed.degraded)

    async def lease_is_gone() -> bool:
        async with swarm.swarm.coordinator() as client:
            return any([e.kind == "node.lost" async for e in client.events(limit=1000)])

    await until(lease_is_gone, 15 - (time.monotonic() - killed))
    assert not await swarm.alive("rose")
    await swarm.restart("rose")
    assert same_answers(await back_to(swarm, 0, 1), before)


async def test_queries_under_way_while_an_owner_dies_are_all_answered(swarm: Garden) -> None:
    finite: list[bool] = []

    async def asking() -> None:
        for _ in range(8):
            finite.append(bool(np.isfinite((await swarm.ask()).probabilities).all()))

    many = [asyncio.create_task(asking()) for _ in range(6)]
    await eventually(lambda: finite, 20)
    swarm.kill("rose")
    assert len(finite) < 6 * 8
    await asyncio.gather(*many)
    assert all(finite) and len(finite) == 6 * 8
    await swarm.restart("rose")
    await swarm.settled()


async def test_a_killed_expert_server_is_started_again_and_answers_as_before(swarm: Garden) -> None:
    before, agent = await swarm.ask(0, 1), swarm.agents["rose"].pid
    server = await swarm.expert_server("rose")
    server.kill()
    psutil.wait_procs([server], timeout=10)
    meanwhile = await swarm.ask(0, 1)  # the relay waits for the new one, or another owner answers
    assert len(meanwhile.degraded) == len(before.degraded)
    assert same_answers(await back_to(swarm, 0, 1), before)
    assert swarm.agents["rose"].pid == agent and (await swarm.expert_server("rose")).pid != server.pid


async def test_a_hanging_owner_costs_time_but_no_answer(swarm: Garden) -> None:
    before = await swarm.ask(0, 1)
    agent = psutil.Process(swarm.agents["rose"].pid)
    with swarm.stopped(agent, *agent.children(recursive=True)):
        began = time.monotonic()
        now = await swarm.ask(0, 1, timeout_s=20)
        assert time.monotonic() - began < 20
        assert owners(now) == {"tulip"} and all(now.degraded)
        assert not any((await swarm.ask(2, 3)).degraded)
        began = time.monotonic()
        again = [await swarm.ask(0, 1) for _ in range(5)]
        assert all(owners(one) == {"tulip"} for one in again)
        assert time.monotonic() - began < 20, "a node that hangs is not waited for by every query"
        await until(lambda: gone(swarm, "rose"), 15)
    assert same_answers(await back_to(swarm, 0, 1), before)


async def test_an_expert_server_that_hangs_leaves_its_agent_connected_and_recovers(swarm: Garden) -> None:
    before = await swarm.ask(0, 1)
    with swarm.stopped(await swarm.expert_server("rose")):
        now = await swarm.ask(0, 1)
        assert owners(now) == {"tulip"} and all(now.degraded)
        assert await swarm.alive("rose")
    assert same_answers(await back_to(swarm, 0, 1), before)


async def test_a_query_under_way_ends_on_the_gate_that_it_began_with(swarm: Garden) -> None:
    before = await swarm.ask(0, 1)
    with swarm.stopped(await swarm.expert_server("rose")):
        slow = asyncio.create_task(swarm.ask(0, 1))
        await asyncio.sleep(1.0)
        async with swarm.swarm.coordinator() as client:
            await client.rollback(before.gate_version)
            newest = (await client.status()).gate_version
        assert newest == before.gate_version + 1 and not slow.done()
    answer = await slow
    assert answer.gate_version == before.gate_version and owners(answer) == {"rose"}
    assert np.array_equal(answer.probabilities, before.probabilities)
    assert (await swarm.ask(0, 1)).gate_version == newest


async def test_with_nobody_left_the_refusal_says_so_and_all_is_well_when_they_return(swarm: Garden) -> None:
    before = await swarm.ask()
    swarm.kill("rose")
    swarm.kill("tulip")
    with pytest.raises(SwarmError, match="swarm status") as refused:
        await swarm.ask()
    assert refused.value.code == "not_ready"
    status = await swarm.status()
    assert len(status.leaves_without_owner) == 2 and not any(node.alive for node in status.nodes)
    swarm.start("rose")
    swarm.start("tulip")
    assert same_answers(await swarm.settled(), before)
    assert accuracy(await swarm.ask()) > 0.9


async def gone(swarm: Garden, name: str) -> bool:
    return not await swarm.alive(name)


async def back_to(swarm: Garden, *classes: int):  # type: ignore[no-untyped-def]
    """Return the answer about some classes once it is not degraded."""

    async def whole() -> bool:
        return not any((await swarm.ask(*classes)).degraded)

    await until(whole, 40)
    return await swarm.ask(*classes)
