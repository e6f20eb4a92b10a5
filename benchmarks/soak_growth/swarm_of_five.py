"""The swarm that the day is played to: real processes, each started by a command that a user could type."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak_growth.story import Story
from node.stream.ledger import LEDGER_FILE, StreamLedger
from swarm.cli.places import Place
from swarm.cli.up.stage import command
from swarm.cli.up.supervisor import Service, Supervisor
from swarm.config import NodeHome, SwarmHome
from swarm.data.dataset import Dataset
from swarm.data.sources import save_npz
from swarm.domain.errors import NotReadyError
from swarm.domain.gates import GateStatement
from swarm.rpc.clients import CoordinatorClient

CONNECT_SECONDS = 60.0
KEEPERS = ("coordinator", "registry", "nodes")
"""Whose disks are looked at: the fields of `Disk`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes of files: of the coordinator, the registry, and the homes of all nodes that ever joined."""

    coordinator: int
    registry: int
    nodes: int


class SwarmOfFive:
    """Services and nodes under one supervisor. `tell` prints progress."""

    def __init__(
        self,
        supervisor: Supervisor,
        story: Story,
        *,
        trunk: str,
        net: str,
        steps: int,
        growth: str,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.supervisor, self.story, self.tell = supervisor, story, tell
        self._trunk, self._net, self._steps, self._seed = trunk, net, steps, seed
        self._growth = growth
        self.founder = Place(supervisor.root / "founder", is_node=False)
        self._nodes: dict[str, Service] = {}

    async def found(self) -> None:
        """Found the swarm on the founders' classes and start its services."""
        some = self.story.domains["mnist"].training
        await self.supervisor.run(
            "swarm init",
            command(
                "init soak",
                home=self.founder.root,
                seed=self._seed,
                input_shape=",".join(map(str, some.input_shape)),
                input_dtype=some.inputs.dtype,
                scale=some.scale,
                trunk=self._trunk,
                classes=",".join(self.story.founding_classes),
            ),
        )
        home = ["--home", str(self.founder.root)]
        redis = await self._start("redis", [], home)
        await self.supervisor.wait_for_line(redis, "redis.ready")
        await self.supervisor.wait_for_line(await self._start("registry", [], home), "registry.ready")
        coordinator = await self._start("coordinator", ["--growth", self._growth], home)
        await self.supervisor.wait_for_line(coordinator, "coordinator.ready")

    async def join(self, client: CoordinatorClient, name: str) -> None:
        """Let a node join, run, and learn from its inbox."""
        line, _ = await client.create_token()
        folder, first = self.folder(name), self._first_samples(name)
        folder.mkdir(parents=True, exist_ok=True)
        self.inbox(name).mkdir(exist_ok=True)
        save_npz(folder / "first.npz", first)
        words = command(f"join {line.removeprefix('swarm join ')}", name=name, data=folder / "first.npz")
        await self.supervisor.run(f"swarm join ({name})", [*words, "--home", str(self.home(name))])
        await self.start(client, name)

    async def start(self, client: CoordinatorClient, name: str) -> None:
        """Start a node that has joined, and let it learn from its inbox (a stream that it had goes on)."""
        home = ["--home", str(self.home(name))]
        self._nodes[name] = await self._start("node", [], home, f"node-{name}")
        await self._wait_until_live(client, name)
        flags = ["--watch", str(self.inbox(name)), "--net", self._net, "--sums", "compact", "--no-borrow"]
        words = command("train", [*flags, *home], steps=self._steps, seed=self._seed)
        await self.supervisor.start(f"stream-{name}", words)

    async def _wait_until_live(self, client: CoordinatorClient, name: str) -> None:
        deadline = time.monotonic() + CONNECT_SECONDS
        while name not in {node.id for node in (await client.status()).nodes if node.alive}:
            self.supervisor.check(self._nodes[name])
            if time.monotonic() > deadline:
                raise NotReadyError(f"node {name}", found=f"not connected after {CONNECT_SECONDS:g} s")
            await asyncio.sleep(0.2)

    async def end(self, name: str, *, by_force: bool) -> None:
        """End a node: killed at once, or asked to stop."""
        process = self._nodes.pop(name).process
        process.send_signal(signal.SIGKILL if by_force else signal.SIGTERM)
        await process.wait()  # whoever followed its stream ends with it

    def feed(self, name: str, number: int, samples: Dataset) -> None:
        """Put a mega-batch into a node's inbox: written beside, then renamed into place."""
        beside = self.folder(name) / f"{number:05d}.npz"
        save_npz(beside, samples)
        beside.replace(self.inbox(name) / beside.name)

    def learned(self, name: str) -> int:
        """Return how many mega-batches a node has learned, by its own ledger."""
        path = NodeHome(self.home(name)).state / LEDGER_FILE
        return len(StreamLedger(path).recorded) if path.exists() else 0

    async def gate(self, client: CoordinatorClient) -> GateStatement:
        """Return the active gate, its signature checked."""
        return self.founder.identity().keyring().open(await client.gate(), GateStatement).value

    def disk(self) -> Disk:
        """Return what lies on disk now; mega-batches in inboxes are the story's. Reads folders."""
        founder = SwarmHome(self.founder.root)
        names = dict.fromkeys(feeding.node for feeding in self.story.feedings)
        return Disk(
            coordinator=bytes_of([founder.coordinator]),
            registry=bytes_of([founder.registry]),
            nodes=bytes_of(map(self.home, names)),
        )

    def folder(self, name: str) -> Path:
        return self.supervisor.root / name

    def home(self, name: str) -> Path:
        return self.folder(name) / "home"

    def inbox(self, name: str) -> Path:
        return self.folder(name) / "inbox"

    async def _start(self, service: str, more: Sequence[str], home: Sequence[str], name: str = "") -> Service:
        return await self.supervisor.start(name or service, ["swarm.cli", service, *more, *home])

    def _first_samples(self, name: str) -> Dataset:
        """Return a node's first mega-batch: what a joiner checks against the specification."""
        own = [feeding for feeding in self.story.feedings if feeding.node == name]
        first = (own or self.story.feedings)[0]
        return self.story.domains[first.domain].training.subset(first.rows)


def bytes_of(folders: Iterable[Path]) -> int:
    """Return the bytes of all files under these folders; what goes meanwhile counts for nothing."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(place, name)).st_size
                except FileNotFoundError:
                    continue
    return total
