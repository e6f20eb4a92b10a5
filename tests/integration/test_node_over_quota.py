"""A node whose delivery the quota refuses: everybody is told why, and it arrives once there is room."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.domain.agent import TrainOrder
from tests.support.forked_processes import ENVIRONMENT
from tests.support.growing import two_kinds
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until

WHY = "bytes of rose in the registry"


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[WholeSwarm]:
    swarm = WholeSwarm(tmp_path)
    try:
        set_quota(swarm, "2kB")
        swarm.start()
        yield swarm
    finally:
        swarm.end()


def set_quota(swarm: WholeSwarm, size: str) -> None:
    file = swarm.home.root / "swarm.toml"
    before = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in before if not line.startswith("registry_node_quota")]
    file.write_text("\n".join([f'registry_node_quota = "{size}"', *kept, ""]))


def told(home: Path, *words: str) -> str:
    """Return what a command says in a home."""
    command = [sys.executable, "-m", "swarm.cli", *words, "--home", os.fspath(home)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.chaos
async def test_a_delivery_that_the_quota_refuses_is_told_everywhere_and_arrives_once_there_is_room(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = swarm.joined("rose")
    swarm.agent(home)
    data = two_kinds(tmp_path / "rose.npz")
    async with agent_of(home) as client:
        done = await carried_out(client, TrainOrder(data=data, net="mlp:16x1", steps=50, borrow=False))
        assert done.figures["outbox"] >= 1 and WHY in done.message

        async def is_told() -> bool:
            own = await client.state()
            return WHY in own.outbox_trouble and f"waiting to be sent ({WHY})" in own.activity

        await until(is_told, 60)
        assert WHY in told(home.root, "status") and WHY in told(home.root, "doctor")

        async def is_told_to_the_operator() -> bool:
            async with swarm.coordinator() as coordinator:
                return WHY in (await coordinator.status()).nodes[0].activity

        await until(is_told_to_the_operator, 60)
        operators = swarm.home.root
        assert WHY in told(operators, "status")
        doctor = told(operators, "doctor")
        assert "rose fills" in doctor and "more are refused" in doctor and "NODE_QUOTA" in doctor
        assert "more refused" in told(operators, "experts")

        swarm.kill("registry")
        set_quota(swarm, "1GB")
        swarm.start_registry()

        async def has_arrived() -> bool:
            own = await client.state()
            return not own.outbox and not own.outbox_trouble and own.activity == "idle"

        await until(has_arrived, 120)

    async def is_over() -> bool:  # the coordinator hears of it by a heartbeat
        return WHY not in await asyncio.to_thread(told, home.root, "status")

    await until(is_over, 60)
    async with swarm.registry() as registry:
        assert await registry.heads("rose")
