"""Turns at making profiles: callers in turn, a bounded queue for each, and who gives up is passed over."""

import asyncio
from collections import Counter

import pytest

from coordinator.profile_turns import Turns
from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import NodeId

ADA, BOB, EVE = NodeId("ada"), NodeId("bob"), NodeId("eve")


class Queue:
    """Callers who take a turn each, and the order in which they had it."""

    def __init__(self, most_waiting: int = 10) -> None:
        self.turns = Turns(most_waiting)
        self.served: list[str] = []
        self.at_once = self.most_at_once = 0

    async def come(self, caller: NodeId) -> asyncio.Task[None]:
        task = asyncio.create_task(self._take(caller))
        await asyncio.sleep(0)
        return task

    async def _take(self, caller: NodeId) -> None:
        async with self.turns.of(caller):
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            for _ in range(20):  # until all who come at once are here
                await asyncio.sleep(0)
            self.served.append(caller)
            self.at_once -= 1


async def test_callers_are_served_in_turn_and_one_at_a_time() -> None:
    queue = Queue()
    tasks = [await queue.come(caller) for caller in (EVE, EVE, EVE, EVE, ADA, ADA, BOB)]
    await asyncio.gather(*tasks)
    assert queue.served == ["eve", "ada", "bob", "eve", "ada", "eve", "eve"]
    assert queue.most_at_once == 1


async def test_only_so_many_of_a_caller_wait_and_others_are_let_in() -> None:
    queue = Queue(most_waiting=2)
    tasks = [await queue.come(EVE) for _ in range(5)] + [await queue.come(ADA)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, ExhaustedError)]
    assert len(refused) == 2 and "2 requests that wait" in refused[0].found
    assert Counter(queue.served) == {"eve": 3, "ada": 1}
    await asyncio.gather(await queue.come(EVE))
    assert queue.served[-1] == "eve"


@pytest.mark.parametrize("place", [1, 2])
async def test_who_gives_up_is_passed_over(place: int) -> None:
    queue = Queue()
    tasks = [await queue.come(caller) for caller in (EVE, ADA, BOB)]
    tasks[place].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert queue.served == [name for number, name in enumerate(("eve", "ada", "bob")) if number != place]


async def test_a_turn_that_comes_as_its_caller_gives_up_goes_to_the_next() -> None:
    turns = Turns()
    released, served = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with turns.of(EVE):
            await released.wait()

    async def other(caller: NodeId) -> None:
        async with turns.of(caller):
            served.set()

    holding = asyncio.create_task(first())
    await asyncio.sleep(0)
    impatient = asyncio.create_task(other(ADA))
    await asyncio.sleep(0)
    patient = asyncio.create_task(other(BOB))
    await asyncio.sleep(0)
    released.set()
    holding.add_done_callback(lambda _: impatient.cancel())
    results = await asyncio.wait_for(asyncio.gather(holding, impatient, patient, return_exceptions=True), 5)
    assert served.is_set() and results[2] is None


async def test_what_fails_passes_its_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no solution"):
        async with turns.of(EVE):
            raise ValueError("no solution")
    async with asyncio.timeout(5), turns.of(ADA):
        pass
