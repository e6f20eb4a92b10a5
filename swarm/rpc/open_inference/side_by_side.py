"""What comes in a stream worked on side by side, and answered in its order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

Item = TypeVar("Item")
Reply = TypeVar("Reply")


async def in_order(
    items: AsyncIterable[Item],
    work: Callable[[Item], Awaitable[Reply]],
    *,
    room: int,
    size: Callable[[Item], int] = lambda _: 1,
) -> AsyncGenerator[Reply, None]:
    """Yield work(item) for each item, in the items' order, while those after it are worked on already.

    What is under way, or done and not taken yet, has sizes of at most `room` in sum, but for one item alone:
    nothing more is read before. What ends the items or a work is raised in its turn; whoever closes the
    iterator ends all that is under way.
    """
    free = asyncio.Semaphore(room)
    begun: asyncio.Queue[tuple[asyncio.Future[Reply], int] | None] = asyncio.Queue()
    under_way: set[asyncio.Future[Reply]] = set()

    async def begin() -> None:
        source = aiter(items)
        try:
            while True:
                await free.acquire()
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
                taken = min(max(size(item), 1), room)
                for _ in range(taken - 1):
                    await free.acquire()
                task = asyncio.ensure_future(work(item))
                under_way.add(task)
                begun.put_nowait((task, taken))
        finally:
            begun.put_nowait(None)

    reading = asyncio.create_task(begin())
    try:
        while (first := await begun.get()) is not None:
            task, taken = first
            yield await task
            under_way.discard(task)
            for _ in range(taken):
                free.release()
        await reading
    finally:
        reading.cancel()
        for task in under_way:
            task.cancel()
        await asyncio.gather(reading, *under_way, return_exceptions=True)
