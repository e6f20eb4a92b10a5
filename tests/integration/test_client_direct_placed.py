"""A client in direct mode asks whom the coordinator placed an expert on, by whatever it knew last of that."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.answering import call_times
from swarm.client import AsyncClient
from swarm.domain.inference import Answer
from tests.integration.test_client_direct import ROWS, Small, logs_as_before, until_so
from tests.support.coordinator import back_end

__all__ = ["logs_as_before"]
pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOM = 1 << 20


@pytest_asyncio.fixture(loop_scope="module")
async def small(tmp_path: Path) -> AsyncIterator[Small]:
    """ada and bob have leaves and no room for others' experts; zed has room and no leaf: no hash names it."""
    async with back_end(tmp_path) as services, AsyncExitStack() as stack:
        small = Small(services, stack, tmp_path)
        await services.stop_coordinator()
        await services.start_coordinator(replica_grace_s=0.3)
        await small.plant("zed", "ab", trains=False, room_bytes=ROOM)
        await small.plant("ada", "ab")
        await small.plant("bob", "cd")
        experts = [small.nodes[name].served[0] for name in ("ada", "bob")]
        await until_so(lambda: held(small, experts))
        yield small


async def held(small: Small, experts: list[Any]) -> bool:
    return {*experts} <= {*small.nodes["zed"].loaded}


def asked(answer: Answer) -> set[tuple[str, str]]:
    return {(each.owner, each.served_by) for row in answer.sources for each in row}


async def direct_answer(client: AsyncClient) -> Answer:
    return await client.predict(ROWS, explain=True, combination="prototypes", top_k=1)


async def test_a_dead_owners_replica_answers_without_the_coordinator_also_after_a_restart_of_the_client(
    small: Small,
) -> None:
    bobs = small.nodes["bob"].served[0]
    async with small.client("a", direct=True) as client:
        first = await direct_answer(client)
        assert asked(first) == {("ada", "ada"), ("bob", "bob")} and not any(first.degraded)
        assert client._direct is not None
        await until_so(lambda: _true(client._direct.known.placed.get(bobs) == ("zed",)))  # type: ignore[union-attr]
        await small.back_end.stop_coordinator()
        await small.kill("bob")
        second = await direct_answer(client)
        assert asked(second) == {("ada", "ada"), ("bob", "zed")} and not any(second.degraded)
        assert second.probabilities.tobytes() == first.probabilities.tobytes()
    async with small.client("a", direct=True) as client:
        third = await direct_answer(client)
        assert asked(third) == {("ada", "ada"), ("bob", "zed")} and not any(third.degraded)


async def test_an_owner_that_is_slow_is_hedged_by_whom_its_expert_was_placed_on(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        call_times, "ABOUT_AS_GOOD_S", 30.0
    )  # the owner is asked first on a busy machine, too
    bobs = small.nodes["bob"].served[0]
    async with small.client("a", direct=True) as client:
        await direct_answer(client)
        assert client._direct is not None
        await until_so(lambda: _true(bobs in client._direct.known.placed))  # type: ignore[union-attr]
        small.nodes["bob"].hangs = True
        before = small.calls()
        answer = await client.predict(ROWS, explain=True, combination="prototypes", top_k=1, timeout_s=30)
        assert ("bob", "zed") in asked(answer) and not any(answer.degraded)
        assert small.calls()["zed"] > before["zed"] and small.calls()["bob"] > before["bob"]


async def test_what_is_unchanged_is_not_sent_again(small: Small) -> None:
    operator = await small.back_end.operator()
    placed = await operator.placement()
    assert placed is not None
    assert placed.nodes == {small.nodes[name].served[0]: ("zed",) for name in ("ada", "bob")}
    assert await operator.placement(placed.mark) is None
    other = await operator.placement("another")
    assert other == placed


async def _true(value: bool) -> bool:
    return value
