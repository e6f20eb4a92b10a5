"""Turns: how many at once, how fairly, how long at most, and what ends them."""

import asyncio
from collections import Counter
from contextlib import ExitStack

import pytest

from swarm.answering.query_queue import QUERY_COST, QueryQueue, QueueLimits
from swarm.domain.errors import DeadlineError, ExhaustedError, NotReadyError


class Work:
    """Queries that hold their turn until they are let go; `order` is whose turn came when."""

    def __init__(self, **limits: float) -> None:
        self.now = 0.0
        self.queue = QueryQueue(QueueLimits(**limits), lambda: self.now)  # type: ignore[arg-type]
        self.order: list[str] = []
        self.holding: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, caller: str, rows: int = 1, timeout_s: float = 60.0) -> asyncio.Task[None]:
        async def one() -> None:
            async with self.queue.turn(caller, rows, timeout_s):
                self.order.append(caller)
                done = asyncio.Event()
                self.holding.append(done)
                await done.wait()

        task = asyncio.create_task(one())
        self.tasks.append(task)
        await settle()
        return task

    async def end_one(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.holding.pop(0).set()
        await settle()

    async def end_all(self) -> None:
        while self.holding:
            await self.end_one()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def a_line_of_eight_seconds() -> Work:
    """One query after the other, of which each takes a second, and eight that have not ended."""
    work = Work(working_queries=1, longest_wait_s=100.0)
    for _ in range(12):
        await work.ask("client/ada")
    for _ in range(4):
        await work.end_one(1.0)
    return work


async def test_a_lone_query_has_its_turn_at_once() -> None:
    work = Work(working_queries=1)
    await work.ask("client/ada")
    assert work.order == ["client/ada"] and work.queue.working == 1 and work.queue.waiting == 0
    await work.end_all()
    assert work.queue.working == 0


async def test_a_query_of_more_rows_than_are_worked_on_at_once_goes_alone() -> None:
    work = Work(working_rows=10)
    await work.ask("client/ada", 4)
    large = await work.ask("client/bob", 50)
    assert work.order == ["client/ada"]
    await work.end_one()
    assert work.order == ["client/ada", "client/bob"] and not large.done()
    await work.ask("client/ada", 4)
    assert work.queue.waiting == 1
    await work.end_all()
    assert work.order == ["client/ada", "client/bob", "client/ada"]


async def test_who_sends_many_does_not_hold_up_who_sends_few() -> None:
    work = Work(working_queries=1)
    await work.ask("client/flood")
    for _ in range(200):
        await work.ask("client/flood", 100)
    for _ in range(3):
        await work.ask("client/ada", 100)
    for _ in range(8):
        await work.end_one()
    assert Counter(work.order[1:9])["client/ada"] == 3
    await work.end_all()


async def test_rows_are_shared_alike_whatever_the_size_of_queries() -> None:
    work = Work(working_queries=1, longest_wait_s=1e9)
    await work.ask("client/ada")
    for _ in range(40):
        await work.ask("client/large", 1000)
    for _ in range(400):
        await work.ask("client/small", 84)
    for _ in range(220):
        await work.end_one(0.0)
    rows = Counter[str]()
    for caller in work.order[1:]:
        rows[caller] += (1000 if caller == "client/large" else 84) + QUERY_COST
    assert 0.8 < rows["client/large"] / rows["client/small"] < 1.25
    await work.end_all()


async def test_what_would_come_after_its_deadline_is_refused_with_when_to_ask_again() -> None:
    work = await a_line_of_eight_seconds()
    with pytest.raises(ExhaustedError) as caught:
        async with work.queue.turn("client/ada", 1, 5.0):
            pass
    assert 6.0 < caught.value.retry_after_s < 10.0
    patient = await work.ask("client/ada", 1, 60.0)
    other = await work.ask("client/bob", 1, 5.0)
    assert not patient.done() and not other.done(), "who has nothing waiting waits for one turn of each other"
    await work.end_all()


async def test_what_has_too_little_time_left_is_refused_before_it_is_read() -> None:
    work = await a_line_of_eight_seconds()
    with pytest.raises(ExhaustedError) as caught:
        work.queue.arrive("client/ada", 5.0)
    assert 6.0 < caught.value.retry_after_s < 10.0
    work.queue.arrive("client/ada", 60.0)
    work.queue.arrive("client/bob", 5.0)
    await work.end_all()


async def test_what_is_being_read_counts_as_waiting() -> None:
    work = await a_line_of_eight_seconds()
    with ExitStack() as reading:
        for _ in range(8):
            reading.enter_context(work.queue.arrive("client/ada", 40.0))
        with pytest.raises(ExhaustedError):
            work.queue.arrive("client/ada", 30.0)
        work.queue.arrive("client/bob", 5.0)
    work.queue.arrive("client/ada", 30.0)
    await work.end_all()


async def test_who_opens_calls_and_sends_nothing_keeps_nobody_else_out() -> None:
    work = await a_line_of_eight_seconds()
    await work.end_all()
    with ExitStack() as reading:
        for _ in range(40):
            reading.enter_context(work.queue.arrive("client/mallory"))
        with pytest.raises(ExhaustedError):
            work.queue.arrive("client/mallory", 1.0)
        work.queue.arrive("client/ada", 1.0)
    work.queue.arrive("client/mallory", 1.0)


async def test_no_more_large_queries_are_worked_on_at_once_than_a_newcomer_can_wait_for() -> None:
    work = Work(longest_wait_s=1e6)
    for _ in range(64):
        await work.ask("client/greedy", 1024, 1e6)
    assert len(work.holding) == 16  # nothing is known yet of how long they take
    for _ in range(30):
        await work.end_one(0.2)
    assert len(work.holding) == 4
    await work.ask("client/polite", 1, 1e6)
    await work.end_one(0.2)
    assert work.order[-1] == "client/polite"
    await work.end_all()


async def test_beyond_the_longest_wait_nobody_waits() -> None:
    work = Work(working_queries=1, longest_wait_s=3.0)
    for _ in range(6):
        await work.ask("client/ada")
    for _ in range(2):
        await work.end_one(1.0)
    with pytest.raises(ExhaustedError):
        async with work.queue.turn("client/ada", 1, 1e6):
            pass
    await work.end_all()


async def test_a_full_waiting_room_makes_room_for_who_has_less_in_it() -> None:
    work = Work(working_queries=1, waiting_queries=4)
    flood = [await work.ask("client/flood") for _ in range(5)]
    with pytest.raises(ExhaustedError) as caught:
        work.queue.arrive("client/flood")
    assert caught.value.retry_after_s > 0
    work.queue.arrive("client/ada")
    ada = await work.ask("client/ada")
    assert isinstance(flood[-1].exception(), ExhaustedError) and not ada.done()
    assert work.queue.waiting == 4
    await work.end_all()
    assert Counter(work.order) == {"client/flood": 4, "client/ada": 1}


async def test_a_full_waiting_room_of_equals_refuses_whoever_comes_next() -> None:
    work = Work(working_queries=1, waiting_queries=3)
    for name in ("a", "b", "c", "d"):
        await work.ask(f"client/{name}")
    with pytest.raises(ExhaustedError):
        work.queue.arrive("client/e")
    with pytest.raises(ExhaustedError):
        async with work.queue.turn("client/e", 1, 60.0):
            pass
    await work.end_all()
    assert len(work.order) == 4


async def test_who_goes_away_leaves_its_place_to_the_next() -> None:
    work = Work(working_queries=1)
    await work.ask("client/ada")
    gone = await work.ask("client/bob")
    await work.ask("client/eve")
    gone.cancel()
    await settle()
    assert work.queue.waiting == 1
    await work.end_one()
    assert work.order == ["client/ada", "client/eve"]
    await work.end_all()


async def test_a_turn_that_comes_as_its_query_is_cancelled_goes_on() -> None:
    work = Work(working_queries=1)
    await work.ask("client/ada")
    gone = await work.ask("client/bob")
    await work.ask("client/eve")
    work.holding.pop(0).set()
    await asyncio.sleep(0)  # ada ends: bob has the turn, and has not taken it up
    gone.cancel()
    await settle()
    assert work.order == ["client/ada", "client/eve"] and work.queue.working == 1
    await work.end_all()
    assert work.queue.working == 0 and await work.queue.drain("it", 1.0)


async def test_a_turn_that_does_not_come_in_time_is_said_so() -> None:
    work = Work(working_queries=1)
    await work.ask("client/ada")
    with pytest.raises(DeadlineError):
        async with work.queue.turn("client/bob", 1, 0.01):
            pass
    assert work.queue.waiting == 0
    await work.end_all()


async def test_at_the_end_what_was_taken_up_ends_and_nothing_more_is() -> None:
    work = Work(working_queries=1)
    for name in ("ada", "bob"):
        await work.ask(f"client/{name}")
    draining = asyncio.create_task(work.queue.drain("this coordinator", 60.0))
    await settle()
    assert work.queue.is_closing
    with pytest.raises(NotReadyError, match="this coordinator"):
        work.queue.arrive("client/eve")
    await work.end_one()
    assert not draining.done() and work.order == ["client/ada", "client/bob"]
    await work.end_all()
    assert await draining


async def test_what_does_not_end_within_the_grace_is_told() -> None:
    work = Work()
    await work.ask("client/ada")
    assert not await work.queue.drain("this coordinator", 0.01)
    await work.end_all()


async def test_whatever_comes_and_goes_nothing_is_counted_in_the_end() -> None:
    import random

    chance = random.Random(7)
    work = Work(working_queries=3, working_rows=40, waiting_queries=12, waiting_rows=100)
    for _ in range(600):
        doing = chance.random()
        if doing < 0.5:
            await work.ask(f"client/{chance.choice('abcd')}", chance.randint(1, 30))
        elif doing < 0.7 and (open_ones := [task for task in work.tasks if not task.done()]):
            chance.choice(open_ones).cancel()
            await settle()
        elif work.holding:
            await work.end_one(chance.random())
        assert work.queue.working <= 3 and work.queue.waiting <= 12
    while any(not task.done() for task in work.tasks):
        await work.end_all()
        await settle()
    assert (work.queue.working, work.queue.waiting) == (0, 0)
    assert await work.queue.drain("it", 1.0)
