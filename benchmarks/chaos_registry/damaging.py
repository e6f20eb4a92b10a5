"""A cut or flipped append-only file of Redis."""

import random
import signal
from pathlib import Path

from benchmarks.chaos_registry.redis_again import redis_started_again
from benchmarks.chaos_registry.site import Site, Tally

VERSIONS = 12


async def append_only_file(folder: Path, cuts: int, flips: int, seed: int) -> Tally:
    """Cut the file at so many offsets and flip so many bits. Redis refuses, and is repaired by the command
    that it names; or it starts. Either way the registry has to have the very same heads again."""
    tally, site, chance = Tally(), Site(folder), random.Random(seed)
    await site.start()
    async with site.client() as client:
        for version in range(1, VERSIONS + 1):
            await site.publish(client, 1 + version % 3, (version + 2) // 3)
    await site.end_registry(signal.SIGTERM)
    await site.redis.stop()
    (whole,) = [path for path in site.redis.folder.rglob("*.aof") if path.stat().st_size]
    kept = whole.read_bytes()
    try:
        for row in range(cuts + flips):
            data = bytearray(kept)
            at = chance.randrange(1, len(data))
            if row < cuts:
                del data[at:]
            else:
                data[at] ^= 1 << chance.randrange(8)
            whole.write_bytes(bytes(data))
            await _started_over_damage(site, tally)
            tally.trials += 1
            await site.redis.stop()
    finally:
        whole.write_bytes(kept)
        await site.store.close()
    return tally


async def _started_over_damage(site: Site, tally: Tally) -> None:
    await redis_started_again(site, tally)
    tally.recoveries.append(await site.start_registry())
    await site.check(tally)
    await site.end_registry()
