"""The coordinator as a process of its own: ends on a signal, and comes back after kill -9 as it was."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.coordinator import BackEnd, SmallNode, back_end

_RUN = """
import asyncio, sys
from pathlib import Path
from coordinator.app import CoordinatorConfig, serve
from swarm.config import SwarmHome
home, redis_url, registry, join_port, port = sys.argv[1:]
config = CoordinatorConfig(home=SwarmHome(Path(home)), redis_url=redis_url, registry=registry,
                           join_port=int(join_port), port=int(port), http_port=0)
def ready(endpoints):
    print("ready", endpoints.port, endpoints.join_port, flush=True)
asyncio.run(serve(config, ready))
"""


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        await running.stop_coordinator()
        yield running


async def started(swarm: BackEnd) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUN, str(swarm.home.root), swarm.redis_url,
        f"127.0.0.1:{swarm.registry_port}", str(swarm.endpoints.join_port), str(swarm.endpoints.port),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            if line.startswith(b"ready"):
                return process
    raise AssertionError("the coordinator ended")


async def reconnected(*nodes: SmallNode) -> None:
    async with asyncio.timeout(15):
        await asyncio.gather(*(node.welcomed.wait() for node in nodes))


async def test_it_ends_on_a_signal_and_survives_kill_9_in_the_same_state(swarm: BackEnd) -> None:
    process = await started(swarm)
    try:
        ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
        await ada.train()
        await bob.train()
        before = await ada.ask("a", "c")

        process.kill()
        await process.wait()
        began = time.monotonic()
        process = await started(swarm)
        await reconnected(ada, bob)
        after = await ada.ask("a", "c")
        assert time.monotonic() - began < 15
        assert after.sources == before.sources
        assert (after.probabilities == before.probabilities).all() and after.gate_version == 2

        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0

        process = await started(swarm)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
