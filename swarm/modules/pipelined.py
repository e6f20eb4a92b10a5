"""Bytes that come one way and go another: a thread hashes and writes some while the next ones come.

One hop to a thread for several messages, and at most two batches in memory.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from swarm.freed_memory import FreedMemory

BATCH_BYTES: Final = 4 << 20


async def write_pipelined(
    chunks: AsyncIterator[bytes], write: Callable[[bytes], None], batch_bytes: int = BATCH_BYTES
) -> None:
    """Hand every chunk to `write`, in order, in another thread. Raises what either of them raises; when this
    ends, however it ends, no thread is writing any more."""
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    gathered, freed = 0, FreedMemory()
    try:
        async for chunk in chunks:
            batch.append(chunk)
            gathered += len(chunk)
            if gathered >= batch_bytes:
                await _ended(writing)
                writing = loop.run_in_executor(None, _write_all, write, batch, freed)
                batch, gathered = [], 0
        await _ended(writing)
        writing = loop.run_in_executor(None, _write_all, write, batch, freed)
        await _ended(writing)
    finally:
        if writing is not None and not writing.done():
            await asyncio.wait({writing})


async def _ended(writing: asyncio.Future[None] | None) -> None:
    """Wait for a batch and raise what it raised; being cancelled does not cancel the thread."""
    if writing is not None:
        await asyncio.wait({writing})
        writing.result()


def _write_all(write: Callable[[bytes], None], batch: Sequence[bytes], freed: FreedMemory) -> None:
    for chunk in batch:
        write(chunk)
    freed.passed(sum(map(len, batch)))
