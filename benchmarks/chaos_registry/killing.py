"""kill -9 at every named step of publish, announcement, removal and collection; and of Redis under load."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.chaos_registry.redis_again import redis_started_again
from benchmarks.chaos_registry.site import OWNER, PATIENCE_S, Site, Tally
from swarm.domain.errors import SwarmError
from swarm.fault_points import FAULT_POINTS

REBUILT = ("registry.announce.", "registry.bring_back.")
REGISTRY_POINTS = tuple(name for name, side in FAULT_POINTS.items() if side == "registry")
ONCE = ("registry.withdraw.", "registry.collect.marked", "registry.collect.removed", *REBUILT)
"""What one scenario passes once, by the beginning of a point's name; it passes the others twice and more."""
TRIES = 3
"""So many times as often as it is to be killed a point is tried."""


async def at_every_point(folder: Path, times: int, seed: int, points: tuple[str, ...] = ()) -> Tally:
    """Kill the registry at each point so many times, each amid publishes, a withdrawal and a collection, or
    an announcement and what is brought back. Each point has a site of its own."""
    tally, chance = Tally(), random.Random(seed)
    for point in points or REGISTRY_POINTS:
        tally.add(await _at(folder / point, point, times, chance))
    return tally


async def _at(folder: Path, point: str, times: int, chance: random.Random) -> Tally:
    tally, site = Tally(), Site(folder)
    await site.start()
    try:
        for number in range(2, 2 * TRIES * times + 2, 2):
            if await _one(site, point, number, chance, tally):
                tally.trials += 1
            if tally.trials == times:
                break
        else:
            tally.missed.append(f"{point}: killed {tally.trials} times, not {times}")
        await site.count_orphans(tally)
        await site.check(tally)
    finally:
        await site.stop()
    return tally


async def _one(site: Site, point: str, number: int, chance: random.Random, tally: Tally) -> bool:
    """Say whether the registry died at the point."""
    await site.end_registry()
    passes = 1 if point.startswith(ONCE) else chance.choice((1, 1, 2))
    await site.start_registry(fault=f"{point}:{passes}")
    made = site.version(number, 1)
    died = await _scenario(site, point, number, made)
    tally.note(f"killed at {point}" if died else f"not reached: {point}")
    await site.end_registry()
    tally.recoveries.append(await site.start_registry())
    await site.check(tally, number, number + 1)
    if chance.random() < 0.5:  # the other half gives up, as a client may
        async with site.client() as client:
            await site.publish(client, number, 1, made)
        await site.check(tally, number, number + 1)
    async with site.client() as client:
        for head in await client.heads(OWNER):
            await site.withdraw(client, int(head.expert.rpartition(".e")[2]))
    return died


async def _scenario(site: Site, point: str, number: int, made: object) -> bool:
    """Publish two experts, withdraw one and collect; say whether the registry died of it."""
    async with site.client() as client, site.client(site.operator) as operator:
        try:
            await site.publish(client, number + 1, 1)
            await site.publish(client, number, 1, made)
            if point.startswith(REBUILT):
                await site.announce(client, number, 2)
                await site.bring_back(client, number, 3)
                return False
            await site.publish(client, number + 1, 2)
            await site.withdraw(client, number + 1)
            await operator.collect(dry_run=False)
            await site.publish(client, number, 2)
        except SwarmError:
            assert site.process is not None
            async with asyncio.timeout(PATIENCE_S):
                return await site.process.wait() == -signal.SIGKILL
    return False


async def redis_under_load(folder: Path, times: int, seed: int) -> Tally:
    """Kill Redis so many times while three publishers go on; each sends again what was not acknowledged.

    Under load Redis may lose what it acknowledged within two seconds: it does not write while it syncs.
    """
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    ending = asyncio.Event()
    load = Load([asyncio.create_task(_publish_on(site, number, ending)) for number in (1, 2, 3)])
    try:
        for _ in range(times):
            before = len(site.acked)
            await load.until(lambda: len(site.acked) >= before + 2)  # noqa: B023 - awaited here
            await asyncio.sleep(chance.random() * 0.02)
            await site.kill_redis()
            began, before = time.monotonic(), len(site.acked)
            await redis_started_again(site, tally)
            await load.until(lambda: len(site.acked) > before)  # noqa: B023
            tally.recoveries.append(time.monotonic() - began)
            tally.trials += 1
        ending.set()
        await asyncio.gather(*load.publishers)
        await site.check(tally)
        await site.count_orphans(tally)
    finally:
        ending.set()
        await asyncio.gather(*load.publishers, return_exceptions=True)
        await site.stop()
    return tally


class Load:
    """Publishers at work."""

    def __init__(self, publishers: Sequence[asyncio.Task[None]]) -> None:
        self.publishers = publishers

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what publishers bring about; raises what ends one of them, and TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                for each in self.publishers:
                    if each.done():
                        each.result()
                await asyncio.sleep(0.005)


async def _publish_on(site: Site, number: int, ending: asyncio.Event) -> None:
    version, made, began = 1, site.version(number, 1), time.monotonic()
    async with site.client() as client:
        while not ending.is_set():
            try:
                await site.publish(client, number, version, made)
            except SwarmError:
                if time.monotonic() - began > PATIENCE_S / 2:  # this one tells why; a wait would not
                    raise
                await asyncio.sleep(0.02)
                continue
            version, began = version + 1, time.monotonic()
            made = site.version(number, version)
