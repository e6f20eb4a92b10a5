"""A stream's items worked on side by side: order, room, errors in their turn, and an end of it all."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from swarm.rpc.open_inference.side_by_side import in_order


async def numbers(count: int, taken: list[int], error: Exception | None = None) -> AsyncIterator[int]:
    for number in range(count):
        taken.append(number)
        yield number
    if error is not None:
        raise error


async def test_the_last_to_be_done_is_still_answered_first() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        await asyncio.sleep(0.05 * (4 - number))
        ended.append(number)
        return number

    assert [found async for found in in_order(numbers(4, []), work, room=4)] == [0, 1, 2, 3]
    assert ended == [3, 2, 1, 0]


@pytest.mark.parametrize(("size", "at_once"), [(1, 6), (2, 3), (4, 1), (100, 1)])
async def test_no_more_is_read_than_there_is_room_for(size: int, at_once: int) -> None:
    taken, begun = list[int](), list[int]()

    async def work(number: int) -> int:
        begun.append(number)
        return number

    answers = in_order(numbers(20, taken), work, room=6, size=lambda _: size)
    found = [await anext(answers)]
    for _ in range(50):
        await asyncio.sleep(0)
    # The first is not taken before the second is asked for; of what has no room one is read.
    assert len(begun) == at_once and len(taken) <= at_once + 1
    found += [each async for each in answers]
    assert found == begun == list(range(20))


async def test_what_ends_the_items_or_a_work_is_raised_in_its_turn() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.01)
        if number == 2:
            raise ValueError("two")
        return number

    found = []
    with pytest.raises(KeyError):
        async for each in in_order(numbers(2, [], KeyError()), work, room=8):
            found.append(each)
    assert found == [0, 1]
    with pytest.raises(ValueError, match="two"):
        async for each in in_order(numbers(8, []), work, room=8):
            found.append(each)
    assert found == [0, 1, 0, 1]


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_an_end_ends_all_that_is_under_way(how: str) -> None:
    begun, ended = list[int](), list[int]()

    async def work(number: int) -> int:
        begun.append(number)
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        finally:
            ended.append(number)
        return number

    answers = in_order(numbers(9, []), work, room=4)
    assert await anext(answers) == 0
    if how == "closed":
        await asyncio.sleep(0.01)
        await answers.aclose()
    else:
        asked = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert sorted(ended) == sorted(begun) and 4 <= len(begun) <= 5
