"""A sender that hardly sends is given up; one whose receiver is slow is not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from swarm.domain.errors import DeadlineError
from swarm.registry import progress
from swarm.registry.progress import with_progress


@pytest.mark.parametrize("chunk", [b"", b"x"])
async def test_empty_and_tiny_messages_are_no_progress(chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_S", 0.2)

    async def dribble() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield chunk

    with pytest.raises(DeadlineError, match=r"blob x: found .*for 0\.2 s"):
        async for come in with_progress(dribble(), "blob x"):
            assert come


async def test_what_comes_is_handed_on_without_empty_chunks_and_a_slow_receiver_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_S", 0.05)

    async def chunks() -> AsyncIterator[bytes]:
        for each in (b"a", b"", b"b"):
            yield each

    found = []
    async for chunk in with_progress(chunks(), "blob x"):
        found.append(chunk)
        await asyncio.sleep(0.1)
    assert found == [b"a", b"b"]
