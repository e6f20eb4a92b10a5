"""A stream that must go on: one that stands still, or hardly moves, is given up."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from swarm.domain.errors import DeadlineError

PROGRESS_S: Final = 30.0
"""How long a sender may send next to nothing."""

LEAST_BYTES: Final = 1024
"""What is more than next to nothing."""


async def with_progress(chunks: AsyncIterator[bytes], subject: str) -> AsyncIterator[bytes]:
    """Yield chunks as they come, but for empty ones; DeadlineError, naming `subject`, where this has waited
    for 30 s in all and less than 1 KiB came. What the receiver needs for them does not count."""
    iterator, loop = aiter(chunks), asyncio.get_running_loop()
    left_s, came = PROGRESS_S, 0
    while True:
        asked_at = loop.time()
        try:
            async with asyncio.timeout(left_s):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineError(
                subject,
                found=f"{came or 'nothing'}{' bytes' if came else ''} for {PROGRESS_S:g} s",
                expected="its next bytes",
                remedy="send again",
            ) from None
        left_s, came = left_s - (loop.time() - asked_at), came + len(chunk)
        if came >= LEAST_BYTES:
            left_s, came = PROGRESS_S, 0
        if chunk:
            yield chunk
