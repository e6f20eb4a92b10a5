"""What comes is written in order, in bounded memory, and no thread outlives the call."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.modules.pipelined import BATCH_CHUNKS, write_pipelined


async def each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.binary(max_size=9), max_size=30), st.integers(1, 20))
def test_every_chunk_is_written_in_order(chunks: list[bytes], batch_bytes: int) -> None:
    written: list[bytes] = []
    asyncio.run(write_pipelined(each(chunks), written.append, batch_bytes))
    assert written == chunks


async def test_it_holds_two_batches_at_most() -> None:
    come, gone, most = 0, 0, 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal come, most
        for _ in range(100):
            come += 1
            most = max(most, come - gone)
            yield bytes(10)

    def write(chunk: bytes) -> None:
        nonlocal gone
        gone += 1

    await write_pipelined(counted(), write, 30)
    assert gone == 100 and most <= 7


async def test_a_writer_that_fails_is_heard_and_what_comes_is_left() -> None:
    come = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal come
        while True:
            come += 1
            yield b"x"

    def write(chunk: bytes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await write_pipelined(endless(), write, 5)
    assert come <= 10


async def test_a_sender_that_fails_is_heard_after_what_it_sent_was_written() -> None:
    written: list[bytes] = []

    async def breaks() -> AsyncIterator[bytes]:
        for number in range(7):
            yield bytes([number])
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await write_pipelined(breaks(), written.append, 3)
    assert written == [bytes([number]) for number in range(6)]


async def test_nobody_writes_after_a_cancellation() -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop, writing = asyncio.get_running_loop(), 0

    def write(chunk: bytes) -> None:
        nonlocal writing
        writing += 1
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)
        writing -= 1

    async def stalls() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    task = asyncio.create_task(write_pipelined(stalls(), write, 1))
    await begun.wait()
    task.cancel()
    loop.call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writing == 0


async def test_what_a_pausing_sender_sent_is_written_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.modules.pipelined.PAUSE_S", 0.01)
    loop, come, written = asyncio.get_running_loop(), asyncio.Event(), list[bytes]()

    def write(chunk: bytes) -> None:
        written.append(chunk)
        loop.call_soon_threadsafe(come.set)

    async def pauses() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            come.clear()
            yield chunk
            await come.wait()

    async with asyncio.timeout(20):
        await write_pipelined(pauses(), write)
    assert written == [b"a", b"b", b"c"]


async def test_tiny_chunks_are_written_before_many_have_gathered() -> None:
    come, most, gone = 0, 0, 0

    async def tiny() -> AsyncIterator[bytes]:
        nonlocal come, most
        for _ in range(20_000):
            come += 1
            most = max(most, come - gone)
            yield b"x"

    def write(chunk: bytes) -> None:
        nonlocal gone
        gone += 1

    await write_pipelined(tiny(), write)
    assert gone == 20_000 and most <= 3 * BATCH_CHUNKS
