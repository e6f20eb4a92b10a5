"""A stream that must go on: one that stands still is given up."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from swarm.domain.errors import DeadlineError

PROGRESS_S: Final = 30.0
"""How long a sender may send nothing."""


async def with_progress(chunks: AsyncIterator[bytes], subject: str) -> AsyncIterator[bytes]:
    """Yield chunks as they come; DeadlineError, naming `subject`, where none comes for 30 s."""
    iterator = aiter(chunks)
    while True:
        try:
            async with asyncio.timeout(PROGRESS_S):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineError(
                subject,
                found=f"nothing for {PROGRESS_S:g} s",
                expected="its next bytes",
                remedy="send again",
            ) from None
        yield chunk
