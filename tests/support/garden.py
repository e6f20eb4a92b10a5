"""A swarm whose nodes rose (classes 0, 1) and tulip (2, 3) have trained: what the fault tests break."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from node.outbox import Outbox
from swarm.cli.up.supervisor import free_ports
from swarm.config import NodeHome
from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.errors import SwarmError
from swarm.domain.inference import Answer, Query
from swarm.domain.membership import SwarmStatus
from tests.support.forked_processes import ForkedProcess
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

IMAGES, LABELS = digits_like(40, 4, seed=77)
OWNED = {"rose": (0, 1), "tulip": (2, 3)}


class Garden:
    """The swarm, and its nodes by name."""

    def __init__(self, swarm: WholeSwarm, *, listens: bool = False) -> None:
        """`listens`: its nodes advertise an address of their own."""
        self.swarm, self.listens = swarm, listens
        self.homes: dict[str, NodeHome] = {}
        self.agents: dict[str, ForkedProcess] = {}

    async def plant(self, name: str, only: tuple[int, ...]) -> None:
        """Let a node join, train, and be routed to; nobody else holds its expert, so its loss is seen."""
        self.homes[name] = self.swarm.joined(name)
        listens = f'advertise = "127.0.0.1:{free_ports(1)[0]}"\n' if self.listens else ""
        self.homes[name].settings.write_text(f"stand_ins = 0\n{listens}")
        self.start(name)
        assert (await self.train(name, only)).figures["activated"] == 1.0

    def start(self, name: str) -> None:
        self.agents[name] = self.swarm.agent(self.homes[name])

    async def restart(self, name: str) -> None:
        """Start a node's agent again and wait until it is connected."""
        self.start(name)
        await until(lambda: self.connected(name))

    def kill(self, name: str) -> None:
        """Kill an agent with SIGKILL; the kernel ends its children."""
        self.agents[name].kill()
        self.agents[name].wait()

    def order(self, name: str, only: tuple[int, ...], seed: int = 0) -> TrainOrder:
        folder = self.swarm.folder / "data"
        folder.mkdir(exist_ok=True)
        data = write_digits(folder / f"{name}-{only}-{seed}.npz", count=300, seed=seed, only=only)
        # Without sums there is no root: who answers is always an owner.
        return TrainOrder(data=str(data), net="mlp:16x1", steps=100, seed=seed, sums="none")

    async def train(self, name: str, only: tuple[int, ...], seed: int = 0) -> TrainStep:
        """Train and return the last step."""
        async with agent_of(self.homes[name]) as client:
            return await carried_out(client, self.order(name, only, seed))

    async def state(self, name: str) -> AgentState:
        async with agent_of(self.homes[name]) as client:
            return await client.state()

    async def connected(self, name: str) -> bool:
        return (await self.state(name)).connected

    async def expert_server(self, name: str) -> psutil.Process:
        """Return the process that answers for a node, once it runs."""
        await until(lambda: self._has_expert_server(name))
        return psutil.Process((await self.state(name)).expert_server_pid)

    def outbox(self, name: str) -> Outbox:
        return Outbox(self.homes[name].outbox)

    async def ask(self, *classes: int, timeout_s: float = 20.0, top_k: int = 1) -> Answer:
        """Ask about held-out samples of some classes (none: of all)."""
        kept = np.isin(LABELS, classes or range(4))
        async with self.swarm.coordinator() as client:
            return await client.predict(
                Query(inputs=IMAGES[kept], explain=True, top_k=top_k), timeout_s=timeout_s
            )

    async def settled(self) -> Answer:
        """Return the answer about all samples once every owner answers for its own."""

        async def whole() -> bool:
            try:
                return not any((await self.ask()).degraded)
            except SwarmError:
                return False

        await until(whole, 40)
        return await self.ask()

    async def status(self) -> SwarmStatus:
        async with self.swarm.coordinator() as client:
            return await client.status()

    async def alive(self, name: str) -> bool:
        return next(node.alive for node in (await self.status()).nodes if node.id == name)

    def pids(self) -> dict[str, int]:
        """Return every process of the swarm by name."""
        services = {name: process.pid for name, process in self.swarm.processes.items()}
        return {**services, **{name: process.pid for name, process in self.agents.items()}}

    def kill_redis(self) -> None:
        os.kill(self.swarm.redis.pid, signal.SIGKILL)

    async def start_redis(self) -> None:
        """Start Redis again over what its disk kept."""
        await self.swarm.redis.stop()
        await self.swarm.redis.start()

    @contextmanager
    def stopped(self, *processes: psutil.Process | int) -> Iterator[None]:
        """Hold processes still (SIGSTOP) for the time of the block."""
        pids = [one if isinstance(one, int) else one.pid for one in processes]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGCONT)

    async def _has_expert_server(self, name: str) -> bool:
        return (await self.state(name)).expert_server_pid > 0


def owners(answer: Answer) -> set[str]:
    """Return who gave the answers."""
    return {source.served_by for row in answer.sources for source in row}


def accuracy(answer: Answer, *classes: int) -> float:
    """Return the share of right answers to `Garden.ask(*classes)`."""
    names = np.array(answer.class_names)[answer.probabilities.argmax(axis=1)]
    return float((names == LABELS[np.isin(LABELS, classes or range(4))].astype(str)).mean())


def same_answers(one: Answer, other: Answer) -> bool:
    """Say whether two answers agree to the last bit, sources included."""
    return (
        one.gate_version == other.gate_version
        and one.sources == other.sources
        and np.array_equal(one.probabilities, other.probabilities)
    )


@contextmanager
def garden(folder: Path, *, listens: bool = False, settings: str = "") -> Iterator[Garden]:
    """Run the swarm with both nodes trained; `settings` are TOML, for its services."""
    with whole_swarm(folder, settings=settings) as swarm:
        running = Garden(swarm, listens=listens)

        async def plant_all() -> None:
            for name, only in OWNED.items():
                await running.plant(name, only)

        asyncio.run(plant_all())
        asyncio.run(running.settled())
        yield running


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180, check=False
    )
