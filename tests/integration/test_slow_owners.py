"""Owners that are slow, hang or die while they are asked, over real streams: who answers instead, and how."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.answering import call_times, expert_calls
from swarm.domain.errors import NotReadyError
from swarm.domain.inference import ExpertAnswer, ExpertRequest
from tests.support.coordinator import BackEnd, SmallNode, back_end, until_heard

HALF_MINUTE_S = 30.0


class SlowNode(SmallNode):
    """A node that counts the calls that come, and answers those that find it slow when it is told to."""

    def make_slow(self) -> None:
        self.released, self.calls, self.ended = asyncio.Event(), 0, 0

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        if (released := getattr(self, "released", None)) is not None:
            self.calls += 1
            try:
                await released.wait()
            except asyncio.CancelledError:
                self.ended += 1
                raise
        return await super().predict(request)


class Two:
    """ada of a and b; bob of c and d, whose expert ada holds, too."""

    def __init__(self, ada: SmallNode, bob: SlowNode) -> None:
        self.ada, self.bob = ada, bob

    async def ask(self, *names: str, **options: Any) -> Any:
        return await self.ada.ask(*(names or ("c",)), top_k=1, **options)

    async def also_serves(self) -> None:
        self.ada.served.append(self.bob.served[0])
        self.ada.activity = "serving"
        await until_heard(self.ada)


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


@pytest.fixture
async def two(swarm: BackEnd, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setattr(expert_calls, "PATIENCE_S", HALF_MINUTE_S)
    monkeypatch.setattr(expert_calls, "PATIENCE_SHARE", 1.0)
    ada = await swarm.node("ada", "ab")
    await ada.train()
    bob = SlowNode(swarm, await swarm.join("bob"), tuple("cd"))
    await swarm.connect(bob)
    await bob.train()
    return Two(ada, bob)


@contextmanager
def calm() -> Iterator[None]:
    """Nobody is found slow meanwhile, however busy this machine is: whoever comes first is asked, alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ABOUT_AS_GOOD_S", "FIRST_HEDGE_S", "LEAST_HEDGE_S"):
            patch.setattr(call_times, name, HALF_MINUTE_S)
        yield


def served_by(answer: Any) -> str:
    return str(answer.sources[0][0].served_by)


async def test_a_call_that_takes_too_long_is_asked_of_another_holder_and_ended(two: Two) -> None:
    await two.also_serves()
    with calm():
        assert served_by(await two.ask()) == "bob"
    two.bob.make_slow()
    answer = await two.ask()
    assert (served_by(answer), answer.degraded) == ("ada", (False,))
    async with asyncio.timeout(10):
        while not two.bob.ended:
            await asyncio.sleep(0.02)
    assert two.bob.calls == 1


async def test_a_slow_owner_is_left_after_a_few_calls_and_comes_back_when_it_is_well(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.also_serves()
    with calm():
        for _ in range(10):
            assert served_by(await two.ask()) == "bob"
    two.bob.make_slow()
    by = Counter([served_by(await two.ask()) for _ in range(60)])
    assert by == {"ada": 60}
    assert 1 <= two.bob.calls <= 15, "asked until it was seen that it is slow, and hedged each time"
    two.bob.released.set()
    monkeypatch.setattr(call_times, "STALE_S", 0.0)
    async with asyncio.timeout(20):
        while served_by(await two.ask()) != "bob":
            await asyncio.sleep(0.01)


async def test_an_expert_that_nobody_else_holds_is_waited_for(two: Two) -> None:
    for _ in range(10):
        assert served_by(await two.ask()) == "bob"
    two.bob.make_slow()
    asked = asyncio.create_task(two.ask())
    async with asyncio.timeout(10):
        while not two.bob.calls:
            await asyncio.sleep(0.02)
    for _ in range(10):
        assert served_by(await two.ask("a")) == "ada"
    assert not asked.done()
    two.bob.released.set()
    answer = await asked
    assert (served_by(answer), answer.degraded, two.bob.calls) == ("bob", (False,), 1)


async def test_a_replayable_query_is_not_hedged(two: Two) -> None:
    await two.also_serves()
    with calm():
        for _ in range(10):
            await two.ask()
        two.bob.make_slow()
        asked = asyncio.create_task(two.ask(replayable=True))
        async with asyncio.timeout(10):
            while not two.bob.calls:
                await asyncio.sleep(0.02)
    for _ in range(10):
        assert served_by(await two.ask("a")) == "ada"
    two.bob.released.set()
    assert served_by(await asked) == "bob"


async def test_an_owner_that_dies_while_it_is_asked_is_replaced_at_once(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_times, "FIRST_HEDGE_S", HALF_MINUTE_S)
    await two.also_serves()
    two.bob.make_slow()
    asked = asyncio.create_task(two.ask("c", "a"))
    async with asyncio.timeout(10):
        while not two.bob.calls:
            await asyncio.sleep(0.02)
    await two.bob.disconnect()
    answer = await asked
    assert [row[0].served_by for row in answer.sources] == ["ada", "ada"]
    assert answer.degraded == (False, False)


async def test_what_fails_is_asked_of_others_before_the_rest_has_answered(swarm: BackEnd, two: Two) -> None:
    await two.also_serves()
    two.bob.fails = NotReadyError("expert server", found="starting")
    eve = SlowNode(swarm, await swarm.join("eve"), tuple("ac"))
    await swarm.connect(eve)
    await eve.train()
    eve.make_slow()
    asked = asyncio.create_task(two.ada.ask("c", uniform=True))
    before = two.bob.served[0]
    held: list[str] = []
    predict = two.ada.predict

    async def noted(request: ExpertRequest) -> list[ExpertAnswer]:
        held.extend(task.manifest for task in request.tasks)
        return await predict(request)

    two.ada.predict = noted  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        while before not in held or not eve.calls:
            await asyncio.sleep(0.02)
    assert not asked.done()
    eve.released.set()
    answer = await asked
    by = {str(source.owner): str(source.served_by) for source in answer.sources[0]}
    assert by == {"ada": "ada", "bob": "ada", "eve": "eve"} and answer.degraded == (False,)
