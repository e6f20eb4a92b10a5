"""What waits while the thread works goes together next; a lone job starts at once and alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from node.micro_batches import MOST_ROWS, MicroBatches


class Doubling:
    """Doubles numbers, one below 0 is an error of its own; works only while it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_work, self.working = threading.Event(), threading.Event()
        self.may_work.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.working.set()
        assert self.may_work.wait(30)
        self.batches.append(list(jobs))
        if 13 in jobs:
            raise RuntimeError("thirteen")
        return [2 * job if job >= 0 else ValueError(str(job)) for job in jobs]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
async def batches(doubling: Doubling) -> AsyncIterator[MicroBatches[int, int]]:
    made: MicroBatches[int, int] = MicroBatches(doubling)
    yield made
    doubling.may_work.set()
    made.close()


async def busy(doubling: Doubling, batches: MicroBatches[int, int]) -> "asyncio.Future[int]":
    """Let a job be worked on until `may_work` is set again."""
    doubling.may_work.clear()
    first = batches.submit("first", 1, 1)
    assert await asyncio.to_thread(doubling.working.wait, 30)
    return first


async def test_a_lone_job_is_computed_alone(doubling: Doubling, batches: MicroBatches[int, int]) -> None:
    assert await batches.submit("ada", 21, 1) == 42
    assert await batches.submit("ada", 4, 1) == 8
    assert doubling.batches == [[21], [4]]


async def test_what_waits_goes_together_callers_in_turns_and_each_gets_its_own(
    doubling: Doubling, batches: MicroBatches[int, int]
) -> None:
    first = await busy(doubling, batches)
    asked = [batches.submit("ada", number, 1) for number in (10, 11)] + [batches.submit("bob", 20, 1)]
    doubling.may_work.set()
    assert await asyncio.gather(first, *asked) == [2, 20, 22, 40]
    assert doubling.batches == [[1], [10, 20, 11]]


async def test_an_error_of_one_is_nobody_elses(doubling: Doubling, batches: MicroBatches[int, int]) -> None:
    first = await busy(doubling, batches)
    asked = [batches.submit("ada", number, 1) for number in (5, -1, 6)]
    doubling.may_work.set()
    found = await asyncio.gather(first, *asked, return_exceptions=True)
    assert found[:2] == [2, 10] and isinstance(found[2], ValueError) and found[3] == 12


async def test_who_has_gone_is_not_computed(doubling: Doubling, batches: MicroBatches[int, int]) -> None:
    first = await busy(doubling, batches)
    asked = [batches.submit("ada", number, 1) for number in (5, 6, 7)]
    asked[1].cancel()
    doubling.may_work.set()
    await asyncio.gather(first, asked[0], asked[2])
    assert doubling.batches == [[1], [5, 7]]


async def test_a_batch_ends_before_it_has_too_many_rows(
    doubling: Doubling, batches: MicroBatches[int, int]
) -> None:
    first = await busy(doubling, batches)
    asked = [batches.submit("ada", number, MOST_ROWS // 2) for number in (2, 3, 4)]
    asked.append(batches.submit("ada", 5, 4 * MOST_ROWS))
    doubling.may_work.set()
    await asyncio.gather(first, *asked)
    assert doubling.batches == [[1], [2, 3], [4], [5]]


async def test_one_at_a_time_where_nothing_is_to_go_together(doubling: Doubling) -> None:
    batches: MicroBatches[int, int] = MicroBatches(doubling, together=False)
    first = await busy(doubling, batches)
    asked = [batches.submit("ada", number, 1) for number in (2, 3)]
    doubling.may_work.set()
    await asyncio.gather(first, *asked)
    assert doubling.batches == [[1], [2], [3]]
    batches.close()


async def test_a_batch_that_fails_as_a_whole_ends_its_jobs_and_no_others(
    doubling: Doubling, batches: MicroBatches[int, int]
) -> None:
    with pytest.raises(RuntimeError, match="thirteen"):
        await batches.submit("ada", 13, 1)
    assert await batches.submit("ada", 2, 1) == 4
