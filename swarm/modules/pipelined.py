"""Bytes that come one way and go another: a thread hashes and writes some while the next ones come.

One hop to a thread for several messages, and at most two batches in memory; of a sender that pauses, none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from swarm.fault_points import reached

BATCH_BYTES: Final = 4 << 20
BATCH_CHUNKS: Final = 4096
PAUSE_S: Final = 1.0
"""What came is written after this, though it is no whole batch."""


async def write_pipelined(
    chunks: AsyncIterator[bytes], write: Callable[[bytes], None], batch_bytes: int = BATCH_BYTES
) -> None:
    """Hand every chunk to `write`, in order, in another thread. Raises what either of them raises; when this
    ends, however it ends, no thread is writing any more."""
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    gathered = 0
    pause: asyncio.TimerHandle | None = None

    def hand_over() -> None:
        nonlocal writing, batch, gathered
        writing = loop.run_in_executor(None, _write_all, write, batch)
        batch, gathered = [], 0

    def paused() -> None:
        nonlocal pause
        pause = None
        if writing is None or (writing.done() and writing.exception() is None):
            hand_over()
        else:
            pause = loop.call_later(PAUSE_S, paused)

    def go_on() -> None:
        nonlocal pause
        if pause is not None:
            pause.cancel()
            pause = None

    try:
        async for chunk in chunks:
            batch.append(chunk)
            gathered += len(chunk)
            if gathered >= batch_bytes or len(batch) >= BATCH_CHUNKS:
                go_on()
                await _ended(writing)
                hand_over()
            elif pause is None:
                pause = loop.call_later(PAUSE_S, paused)
        go_on()
        await _ended(writing)
        hand_over()
        await _ended(writing)
    finally:
        go_on()
        if writing is not None and not writing.done():
            await asyncio.wait({writing})


async def _ended(writing: asyncio.Future[None] | None) -> None:
    """Wait for a batch and raise what it raised; being cancelled does not cancel the thread."""
    if writing is not None:
        await asyncio.wait({writing})
        writing.result()


def _write_all(write: Callable[[bytes], None], batch: Sequence[bytes]) -> None:
    for chunk in batch:
        write(chunk)
    reached("registry.blob.written")
