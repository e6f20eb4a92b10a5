"""Exactly once: a node is killed at every step of a delivery, the registry and Redis at any moment of it."""

import asyncio
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Literal

from benchmarks.chaos_registry.node_side import NODE_NEEDS, NODE_SIDE
from benchmarks.chaos_registry.redis_again import redis_started_again
from benchmarks.chaos_registry.site import OWNER, PATIENCE_S, Site, Tally
from swarm.config import NodeHome
from swarm.domain.ids import expert_of, leaf_of
from swarm.fault_points import FAULT_POINTS

NODE_POINTS = tuple(name for name, side in FAULT_POINTS.items() if side == "node")
TRIES = 3
LONGEST_DELIVERY_S = 0.3
Beside = Literal["", "registry", "redis"]


async def outbox_exactly_once(folder: Path, times: int, seed: int, points: tuple[str, ...] = ()) -> Tally:
    """Publish a version for each point, so many times, and count what the registry has afterwards: each
    version once, one event for each, nothing in between, and nothing left in the outbox. Each point has a
    site of its own."""
    tally, chance = Tally(), random.Random(seed)
    for point in points or NODE_POINTS:
        tally.add(await _at(folder / point, point, times, chance))
    return tally


async def _at(folder: Path, point: str, times: int, chance: random.Random) -> Tally:
    tally, site = Tally(), Site(folder)
    await site.start()
    home = NodeHome(folder / "home")
    home.root.mkdir()
    shutil.copytree(site.ada.folder, home.identity)
    version = 0
    try:
        while tally.trials < times and version < TRIES * times:
            beside: Beside = ("", "registry", "redis")[version % 3]  # type: ignore[assignment]
            version += 1
            tally.trials += await _one(site, home, f"{point}:1", beside, version, chance, tally)
        if tally.trials < times:
            tally.missed.append(f"{point}: killed {tally.trials} times, not {times}")
        await _count(site, version, tally)
    finally:
        await site.stop()
    return tally


async def _one(
    site: Site, home: NodeHome, fault: str, beside: Beside, version: int, chance: random.Random, tally: Tally
) -> bool:
    """Say whether the node was killed."""
    status = await _delivered(site, home, version, fault)
    is_killed = status == -signal.SIGKILL
    tally.note(f"{'killed at' if is_killed else 'not reached:'} {fault[:-2]}")
    before = (site.port, site.fence)
    delivery = asyncio.create_task(_delivered(site, home, version, ""))
    await asyncio.sleep(chance.random() * LONGEST_DELIVERY_S)
    if beside == "redis":
        await site.kill_redis()
        await redis_started_again(site, tally)
    if beside == "registry":
        await site.end_registry()
        tally.recoveries.append(await site.start_registry())
    if before != (site.port, site.fence):  # a node knows one address and lease; here it is told the new ones
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        delivery = asyncio.create_task(_delivered(site, home, version, ""))
    if await delivery:
        tally.acked_lost += 1
        tally.note("a delivery that was refused")
    return is_killed


async def _delivered(site: Site, home: NodeHome, version: int, fault: str) -> int:
    words = (str(home.root), str(site.port), str(site.fence), str(version), fault)
    process = await site.forked(NODE_SIDE, words, needs=NODE_NEEDS)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _count(site: Site, versions: int, tally: Tally) -> None:
    """Every version once, in the store and among the events."""
    name = expert_of(leaf_of(OWNER, 1))
    wanted = Counter(range(1, versions + 1))
    events = [dict(event.fields) for event in await site.store.events(limit=10_000)]
    published = Counter(int(each["version"]) for each in events if each.get("expert") == name)
    manifests = await site.store.manifests()
    found = Counter([v for v in wanted if await site.store.manifest_at(name, v)])
    twice = sum((published - wanted).values()) + len(manifests) - versions
    lost = sum((wanted - published).values()) + sum((wanted - found).values())
    tally.note("delivered twice", twice)
    tally.acked_lost += lost + abs(twice)
    tally.acked = versions
