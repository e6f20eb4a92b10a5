"""Answers while a node is slow or dies: `python -m benchmarks.serving.failures [--rounds 6] [--queries 300]`.

Redis, registry, coordinator and two nodes run as processes of this machine, over mutual TLS; each leaf's
modules are kept loaded on both nodes. One client asks for rows of one owner's classes, one after the other.
Rounds are interleaved: as it is; with the owner's expert server made ten times slower (held still for nine
tenths of the time, SIGSTOP and SIGCONT); and at the end the owner is killed in the middle of a round.

Writes `results/serving-failures.json` and prints it: p50 and p99 of each, what they are of the baseline's,
errors, the share of degraded answers, and of those that the owner gave.

With `--no-replicas` the same with one replica and no stand-ins shows what a slow owner costs that nobody
can replace; nothing of it is written.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.results_file import write_result
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import SwarmError
from swarm.domain.inference import Query
from swarm.rpc.clients import CoordinatorClient
from tests.support.forked_processes import ForkedProcess
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

NAME = "serving-failures"
PERIOD_S = 0.05
SLOWER = 10
"""Held still for all but a tenth of each period, a process does a tenth of what it did."""
IMAGES, LABELS = digits_like(40, 4, seed=77)
OWNED = {"rose": (0, 1), "tulip": (2, 3)}
SLOW = "tulip"
DEADLINE_S = 10.0
AGAIN, PATIENCE_S = 20, 120.0
"""Before a round the owner has answered so many queries again; so long may that take."""


@dataclass
class Seen:
    """What one kind of round has shown."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    degraded: int = 0
    by_owner: int = 0

    def figures(self, name: str) -> dict[str, float]:
        """Return times in ms, and shares of all queries."""
        count = max(len(self.seconds), 1)
        p50, p99 = np.quantile(self.seconds or [float("nan")], (0.5, 0.99)) * 1000
        return {
            f"{name}_p50_ms": float(p50),
            f"{name}_p99_ms": float(p99),
            f"{name}_errors": float(self.errors),
            f"{name}_degraded_share": self.degraded / count,
            f"{name}_by_owner_share": self.by_owner / count,
            f"{name}_queries": float(count + self.errors),
        }


class Site:
    """The swarm that is measured."""

    def __init__(self, swarm: WholeSwarm, *, has_replicas: bool) -> None:
        self.swarm, self.has_replicas = swarm, has_replicas
        self.homes: dict[str, NodeHome] = {}
        self.agents: dict[str, ForkedProcess] = {}

    async def plant(self, name: str) -> None:
        """Let a node join, start and train."""
        self.homes[name] = home = self.swarm.joined(name)
        if not self.has_replicas:
            home.settings.write_text("stand_ins = 0\n")
        self.agents[name] = self.swarm.agent(home)
        data = write_digits(self.swarm.folder / f"{name}.npz", count=300, seed=0, only=OWNED[name])
        order = TrainOrder(data=str(data), net="mlp:16x1", steps=100, seed=0, sums="none")
        async with agent_of(home) as client:
            await carried_out(client, order)

    async def is_whole(self) -> bool:
        """Say whether all nodes are there, and each leaf is on as many as is wanted."""
        async with self.swarm.coordinator() as client:
            seen = await client.status()
        alive = all(node.alive for node in seen.nodes)
        return alive and (not self.has_replicas or not seen.under_replicated)

    async def expert_server(self, name: str) -> int:
        """Return the process that answers for a node, once it runs."""
        while True:
            async with agent_of(self.homes[name]) as client:
                if pid := (await client.state()).expert_server_pid:
                    return pid
            await asyncio.sleep(0.1)

    async def killed(self, name: str) -> None:
        """Kill a node's agent; its children end with it."""
        self.agents[name].kill()
        await asyncio.to_thread(self.agents[name].wait)


@asynccontextmanager
async def slowed(pid: int) -> AsyncIterator[None]:
    """Hold a process still for nine tenths of the time of the block."""

    async def hold() -> None:
        try:
            while True:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(PERIOD_S * (1 - 1 / SLOWER))
                os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(PERIOD_S / SLOWER)
        finally:
            os.kill(pid, signal.SIGCONT)

    holding = asyncio.create_task(hold())
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def ask(client: CoordinatorClient, queries: int, seen: Seen) -> None:
    """Ask so many queries of one row, one after the other."""
    rows = IMAGES[np.isin(LABELS, OWNED[SLOW])]
    for number in range(queries):
        query = Query(inputs=rows[number % len(rows)][None], explain=True, top_k=1)
        began = time.perf_counter()
        try:
            answer = await client.predict(query, DEADLINE_S)
        except SwarmError:
            seen.errors += 1
            continue
        seen.seconds.append(time.perf_counter() - began)
        seen.degraded += any(answer.degraded)
        seen.by_owner += answer.sources[0][0].served_by == SLOW


async def ask_until_owner(client: CoordinatorClient) -> None:
    """Ask until the owner answers again: who was slow is tried again after a while only."""
    async with asyncio.timeout(PATIENCE_S):
        seen = Seen()
        while seen.by_owner < AGAIN:
            await ask(client, 1, seen)


async def measured(site: Site, rounds: int, queries: int) -> dict[str, Seen]:
    """Return what was seen, by kind of round."""
    for name in OWNED:
        await site.plant(name)
    await until(site.is_whole, 120)
    seen = {"baseline": Seen(), "slow": Seen(), "killed": Seen()}
    async with site.swarm.coordinator() as client:
        await ask(client, queries, Seen())  # nothing is cold any more
        for _ in range(rounds):
            await ask_until_owner(client)
            await ask(client, queries, seen["baseline"])
            async with slowed(await site.expert_server(SLOW)):
                await ask(client, queries, seen["slow"])
        await ask_until_owner(client)
        await ask(client, queries // 3, seen["killed"])
        asking = asyncio.create_task(ask(client, queries, seen["killed"]))
        await asyncio.sleep(seen["baseline"].seconds[-1] / 2)
        await site.killed(SLOW)
        await asking
    return seen


def figures_of(seen: dict[str, Seen]) -> dict[str, float]:
    """Return all figures, with the ratios that are promised."""
    found = {key: value for name, each in seen.items() for key, value in each.figures(name).items()}
    base50, base99 = found["baseline_p50_ms"], found["baseline_p99_ms"]
    return found | {
        "slow_node_p50_over_baseline": found["slow_p50_ms"] / base50,
        "slow_node_p99_over_baseline": found["slow_p99_ms"] / base99,
        "killed_owner_p99_over_baseline": found["killed_p99_ms"] / base99,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="so many of each kind")
    parser.add_argument("--queries", type=int, default=300, help="in each round")
    parser.add_argument("--replicas", action=argparse.BooleanOptionalAction, default=True)
    request = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="swarm-failures-") as folder,
        whole_swarm(Path(folder), settings="replica_grace_s = 5\n") as swarm,
    ):
        site = Site(swarm, has_replicas=request.replicas)
        found = figures_of(asyncio.run(measured(site, request.rounds, request.queries)))
    print("\n".join(f"{key}: {value:.4g}" for key, value in found.items()))
    if request.replicas:
        print(f"{write_result(NAME, found)} is written")


if __name__ == "__main__":
    main()
