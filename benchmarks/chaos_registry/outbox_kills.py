"""Exactly once: a node is killed at every step of a delivery, the registry and Redis at any moment of it."""

import asyncio
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from benchmarks.chaos_registry.site import OWNER, Site, Tally
from swarm.config import NodeHome
from swarm.domain.ids import expert_of, leaf_of
from swarm.fault_points import FAULT_POINTS, VARIABLE

NODE_POINTS = tuple(name for name, side in FAULT_POINTS.items() if side == "node")
Beside = Literal["", "registry", "redis"]


async def outbox_exactly_once(folder: Path, times: int, seed: int, points: tuple[str, ...] = ()) -> Tally:
    """Publish a version for each point, so many times, and count what the registry has afterwards: each
    version once, one event for each, nothing in between, and nothing left in the outbox."""
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    home = NodeHome(folder / "home")
    home.root.mkdir()
    shutil.copytree(site.ada.folder, home.identity)
    version = 0
    try:
        for row in range(times):
            for point in points or NODE_POINTS:
                version += 1
                beside: Beside = ("", "registry", "redis")[row % 3]  # type: ignore[assignment]
                await _one(site, home, f"{point}:1", beside, version, chance, tally)
                tally.trials += 1
        await _count(site, version, tally)
    finally:
        await site.stop()
    return tally


async def _one(
    site: Site, home: NodeHome, fault: str, beside: Beside, version: int, chance: random.Random, tally: Tally
) -> None:
    status = await _delivered(site, home, version, fault)
    tally.note(f"{'killed at' if status == -9 else 'not reached:'} {fault[:-2]}")
    delivery = asyncio.create_task(_delivered(site, home, version, ""))
    await asyncio.sleep(chance.random())
    if beside == "redis":
        await site.kill_redis()
        await site.redis.start()
    if beside == "registry":
        port = site.port
        await site.end_registry()
        tally.recoveries.append(await site.start_registry())
        if port != site.port:  # a node knows one address; here it is told the new one
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
            delivery = asyncio.create_task(_delivered(site, home, version, ""))
    if await delivery:
        tally.acked_lost += 1


async def _delivered(site: Site, home: NodeHome, version: int, fault: str) -> int:
    words = (str(home.root), str(site.port), str(site.fence), str(version))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.chaos_registry.node_side", *words,
        env={**os.environ, VARIABLE: fault}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
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
