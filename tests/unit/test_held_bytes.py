"""Bytes on their way: counted by member, room in turn, nothing left behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from swarm.domain.errors import ExhaustedError
from swarm.held_bytes import HeldBytes


async def test_beyond_the_most_one_waits_until_others_have_passed_and_other_members_do_not() -> None:
    held = HeldBytes(10, 60)
    await held.take("ada", 8)
    first, second = (asyncio.create_task(held.take("ada", size)) for size in (4, 2))
    await held.take("bob", 10)
    await asyncio.sleep(0)
    assert not first.done() and not second.done() and held.of("ada") == 8
    held.give("ada", 2)
    await first
    assert not second.done() and held.of("ada") == 10
    held.give("ada", 2)
    await second
    assert held.of("ada") == 10


async def test_more_than_fits_comes_alone() -> None:
    held = HeldBytes(10, 60)
    await held.take("ada", 50)
    waits = asyncio.create_task(held.take("ada", 1))
    await asyncio.sleep(0)
    assert not waits.done()
    held.give("ada", 50)
    await waits
    assert held.of("ada") == 1


async def test_who_waits_too_long_is_told_and_counts_nothing() -> None:
    held = HeldBytes(10, 0.01)
    await held.take("ada", 10)
    with pytest.raises(ExhaustedError, match="found 10, and no room"):
        await held.take("ada", 1)
    assert held.of("ada") == 10
    held.give("ada", 10)
    assert held.of("ada") == 0


async def test_a_wait_that_is_cancelled_takes_nobodys_turn() -> None:
    held = HeldBytes(10, 60)
    await held.take("ada", 10)
    gone, stays = (asyncio.create_task(held.take("ada", 6)) for _ in range(2))
    await asyncio.sleep(0)
    held.give("ada", 10)  # the first one's turn has come, and it is cancelled before it runs
    gone.cancel()
    await asyncio.wait({gone})
    await stays
    assert held.of("ada") == 6


async def test_a_stream_that_breaks_off_leaves_nothing_counted() -> None:
    held = HeldBytes(100, 60)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678"
        raise ConnectionError

    with pytest.raises(ConnectionError), held.stream("ada") as stream:
        write = stream.passing(lambda _: None)
        async for chunk in stream.taken(chunks()):
            assert held.of("ada") == stream.held
            if len(chunk) == 5:
                await asyncio.to_thread(write, chunk)
    assert held.of("ada") == 0
