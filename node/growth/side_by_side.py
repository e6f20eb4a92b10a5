"""Work on several leaves: side by side where this machine has room for it, else one after the other."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

import psutil

from swarm.domain.ids import LeafId

_CHILD_BYTES = 3 << 30
"""Children train side by side only where each has so much free memory, and two cores."""


async def each_of(
    leaves: Sequence[LeafId], work: Callable[[LeafId], Awaitable[None]], *, together: bool
) -> None:
    """Do the work for each leaf, all at once or one after the other; the first error ends the rest."""
    if not together:
        for leaf in leaves:
            await work(leaf)
        return
    tasks = [asyncio.ensure_future(work(leaf)) for leaf in leaves]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def have_room(children: int, threads: int) -> bool:
    """Tell whether so many may train side by side: serving and training beside them go on."""
    cores, free = os.cpu_count() or 1, psutil.virtual_memory().available
    return threads >= children and cores >= 2 * children and free >= children * _CHILD_BYTES
