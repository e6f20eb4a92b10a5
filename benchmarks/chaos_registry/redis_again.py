"""A Redis that was killed, or whose file was damaged, started again as an operator would."""

import asyncio
import shutil
import subprocess
from pathlib import Path

from benchmarks.chaos_registry.site import Site, Tally
from swarm.domain.errors import SwarmError, VerificationError


async def redis_started_again(site: Site, tally: Tally) -> None:
    """Start it, repaired by the command that it names where it refuses its file, begun anew where nothing
    else is left; then do as the coordinator does for what it lost."""
    redis = site.redis
    try:
        await redis.start()
    except VerificationError:
        tally.note("refused by name, then repaired")
        command = ["bash", "-c", f"yes | {redis.repair_command}"]
        await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        try:
            await redis.start()
        except SwarmError:
            tally.note("beyond repair: begun anew")
            await _begun_anew(site)
    except SwarmError:
        tally.note("Redis did not start")
        await _begun_anew(site)
    else:
        tally.note("started without a word")
    await site.put_back_members()


async def _begun_anew(site: Site) -> None:
    for file in list(site.redis.folder.rglob("*.aof")):
        _removed(file)
    await site.redis.start()


def _removed(file: Path) -> None:
    """Remove an append-only file, with its folder where Redis 7 keeps several."""
    if file.parent.name == "appendonlydir":
        shutil.rmtree(file.parent, ignore_errors=True)
    else:
        file.unlink(missing_ok=True)
