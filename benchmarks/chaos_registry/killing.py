"""kill -9 at every named step of publish, remove and collection; and of Redis under load."""

import asyncio
import random
import time
from pathlib import Path

from benchmarks.chaos_registry.site import OWNER, Site, Tally
from swarm.domain.errors import SwarmError
from swarm.fault_points import FAULT_POINTS

REGISTRY_POINTS = tuple(name for name, side in FAULT_POINTS.items() if side == "registry")


async def at_every_point(folder: Path, times: int, seed: int, points: tuple[str, ...] = ()) -> Tally:
    """Kill the registry at each point so many times, each amid publishes, a withdrawal and a collection."""
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    number = 0
    try:
        for point in points or REGISTRY_POINTS:
            for _ in range(times):
                number += 2
                await _one(site, point, number, chance, tally)
                tally.trials += 1
            await site.count_orphans(tally)
            await site.check(tally)
    finally:
        await site.stop()
    return tally


async def _one(site: Site, point: str, number: int, chance: random.Random, tally: Tally) -> None:
    await site.end_registry()
    await site.start_registry(fault=f"{point}:{chance.choice((1, 1, 2))}")
    made = site.version(number, 1)
    died = await _scenario(site, number, made)
    tally.note(f"killed at {point}" if died else f"not reached: {point}")
    await site.end_registry()
    tally.recoveries.append(await site.start_registry())
    await site.check(tally)
    if chance.random() < 0.5:  # the other half gives up, as a client may
        async with site.client() as client:
            await site.publish(client, number, 1, made)
        await site.check(tally)
    async with site.client() as client:
        for head in await client.heads(OWNER):
            await site.withdraw(client, int(head.expert.rpartition(".e")[2]))


async def _scenario(site: Site, number: int, made: object) -> bool:
    """Publish two experts, withdraw one and collect; say whether the registry died of it."""
    async with site.client() as client, site.client(site.operator) as operator:
        try:
            await site.publish(client, number + 1, 1)
            await site.publish(client, number, 1, made)
            await site.publish(client, number + 1, 2)
            await site.withdraw(client, number + 1)
            await operator.collect(dry_run=False)
            await site.publish(client, number, 2)
        except SwarmError:
            assert site.process is not None
            async with asyncio.timeout(60):
                await site.process.wait()
            return True
    return False


async def redis_under_load(folder: Path, times: int, seed: int) -> Tally:
    """Kill Redis so many times while three publishers go on; each sends again what was not acknowledged."""
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    ending = asyncio.Event()
    publishers = [asyncio.create_task(_publish_on(site, number, ending)) for number in (1, 2, 3)]
    try:
        for _ in range(times):
            before = len(site.acked)
            while len(site.acked) < before + 2:  # noqa: ASYNC110 - publishers only count
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.random() * 0.02)
            await site.kill_redis()
            began, before = time.monotonic(), len(site.acked)
            await site.redis.start()
            while len(site.acked) == before:  # noqa: ASYNC110 - publishers only count
                await asyncio.sleep(0.005)
            tally.recoveries.append(time.monotonic() - began)
            tally.trials += 1
    finally:
        ending.set()
        await asyncio.gather(*publishers)
    await site.check(tally)
    await site.count_orphans(tally)
    await site.stop()
    return tally


async def _publish_on(site: Site, number: int, ending: asyncio.Event) -> None:
    version, made = 1, site.version(number, 1)
    async with site.client() as client:
        while not ending.is_set():
            try:
                await site.publish(client, number, version, made)
            except SwarmError:
                await asyncio.sleep(0.02)
                continue
            version += 1
            made = site.version(number, version)
