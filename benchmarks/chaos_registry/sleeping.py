"""A writer that slept past its lease: frozen right before its commit, it goes on under an old fence."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from benchmarks.chaos_registry.node_side import NODE_NEEDS, NODE_SIDE
from benchmarks.chaos_registry.site import OWNER, PATIENCE_S, Site, Tally
from swarm.config import NodeHome
from swarm.domain.errors import StaleFenceError
from swarm.domain.ids import expert_of, leaf_of

FROZEN = "node.publish.sent:1:stop"
SLEEPER, OTHER = 2, 1
"""The numbers of the experts that the frozen writer has, and the one who tries the other calls."""


async def a_holder_that_slept(folder: Path, times: int) -> Tally:
    """Freeze a node (SIGSTOP) that has sent its blobs and is about to commit; its lease runs out and another
    one is given; then it goes on. Its own commit has to be refused by its fence, and so have to be all other
    calls that write, made under that fence."""
    tally, site = Tally(), Site(folder)
    await site.start()
    try:
        for row in range(times):
            async with site.client() as client:
                await site.publish(client, OTHER, row + 1)
            stale = (await site.store.grant_lease(OWNER, 0.05)).fence
            await _frozen_amid_a_publish(site, folder / f"home-{row}", stale, tally)
            tally.stale_accepted += await _stale_writes(site, stale, row + 2)
            tally.trials += 1
        await site.check(tally)
    finally:
        await site.stop()
    return tally


async def _frozen_amid_a_publish(site: Site, folder: Path, stale: int, tally: Tally) -> None:
    """Let a node publish under a lease that runs out while it is frozen."""
    home = NodeHome(folder)
    home.root.mkdir()
    shutil.copytree(site.ada.folder, home.identity)
    words = [str(home.root), str(site.port), str(stale), "1", FROZEN, "once"]
    node = await site.forked(NODE_SIDE, words, needs=NODE_NEEDS)
    assert node.stdout is not None
    try:
        await _until_frozen(node.pid)
        async with asyncio.timeout(PATIENCE_S):
            while await site.store.leases():  # noqa: ASYNC110 - of Redis
                await asyncio.sleep(0.01)
        site.fence = (await site.store.grant_lease(OWNER, 86_400)).fence
        os.kill(node.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            said = (await node.stdout.read()).decode()
            await node.wait()
    finally:
        if node.returncode is None:
            os.kill(node.pid, signal.SIGCONT)
            node.kill()
            await node.wait()
    if await site.store.head(expert_of(leaf_of(OWNER, SLEEPER))) is not None or "delivered" in said:
        tally.stale_accepted += 1
    elif f"fence {stale}" not in said:
        tally.missed.append(f"a frozen node was not refused by its fence: {said.strip()}")
    else:
        tally.note("frozen before its commit, refused by its fence")


async def _until_frozen(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not _is_frozen(pid):  # noqa: ASYNC110 - of the kernel
            await asyncio.sleep(0.005)


def _is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def _stale_writes(site: Site, stale: int, version: int) -> int:
    """Try to commit, announce, bring back and withdraw under a stale fence; return what was accepted."""
    fence, site.fence = site.fence, stale
    envelope, blobs = site.version(OTHER, version)
    accepted = 0
    async with site.client() as client:
        for blob, data in blobs.items():
            await client.publish_blob(blob, data)
        for act in (
            client.commit(envelope, stale),
            client.announce([envelope], stale),
            client.bring_back([envelope], stale),
            site.withdraw(client, OTHER),
        ):
            try:
                await act
            except StaleFenceError:
                continue
            accepted += 1
    site.fence = fence
    site.tried_to_withdraw.discard(OTHER)
    return accepted
