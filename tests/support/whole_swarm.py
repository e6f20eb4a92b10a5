"""A whole swarm in real processes: Redis, registry, coordinator, and as many nodes as a test wants."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coordinator.founding import found_swarm
from node.control import agent_socket
from node.enrol import join
from swarm.cli.up.supervisor import free_ports
from swarm.config import NodeHome, SwarmHome
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.ids import NodeId
from swarm.registry.redis_server import RedisServer
from swarm.rpc.channel import open_channel, open_local
from swarm.rpc.clients import AgentClient, CoordinatorClient, RegistryClient
from swarm.trust.identity import Identity
from tests.support.forked_processes import ForkedProcess, start_service
from tests.support.node_homes import start_agent


class WholeSwarm:
    """The services of one swarm, each started, stopped and killed by name."""

    def __init__(
        self, folder: Path, class_names: Sequence[str] = tuple("0123"), *, max_leaves: int = 8
    ) -> None:
        self.folder, self.home = folder, SwarmHome(folder / "founder")
        join, port, registry, http = free_ports(4)
        self._ports = {
            "registry": {"--port": registry},
            "coordinator": {"--join-port": join, "--port": port, "--http-port": http},
        }
        self.line = found_swarm(
            self.home,
            swarm="garden",
            input_shape=(8, 8),
            input_dtype="uint8",
            scale=1 / 16,
            offset=0.0,
            class_names=class_names,
            trunk="randconv-sqrt:8",
            join_port=join,
            port=port,
            registry_port=registry,
            token_uses=20,
            max_leaves_per_owner=max_leaves,
            now=datetime.now(UTC),
        )
        self.redis = RedisServer(self.home.redis)
        self.processes: dict[str, ForkedProcess] = {}
        self.agents: list[ForkedProcess] = []

    def start(self) -> None:
        """Start Redis, registry and coordinator, and wait until they answer."""
        asyncio.run(self.redis.start())
        self._start("registry", "coordinator")

    def start_registry(self) -> None:
        self._start("registry")

    def start_coordinator(self) -> None:
        self._start("coordinator")

    def kill(self, name: str) -> None:
        """Kill a service as a power cut would."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def joined(self, name: str, **changes: str) -> NodeHome:
        """Return the home of a node that has just joined."""
        home = NodeHome(self.folder / name)
        join(self.line, home, name=name, **changes)
        return home

    def agent(self, home: NodeHome) -> ForkedProcess:
        """Start a node's agent."""
        self.agents.append(start_agent(home))
        return self.agents[-1]

    def end(self) -> None:
        """End everything, agents first."""
        for process in (*self.agents, *self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (*self.agents, *self.processes.values()):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        asyncio.run(self.redis.stop())

    def port(self, name: str) -> int:
        """Return a service's gRPC port."""
        return self._ports[name]["--port"]

    @property
    def http_port(self) -> int:
        """The coordinator's HTTP port."""
        return self._ports["coordinator"]["--http-port"]

    def log(self, name: str) -> str:
        """Return a service's log."""
        return (self.folder / f"{name}.log").read_text()

    @asynccontextmanager
    async def coordinator(self) -> AsyncIterator[CoordinatorClient]:
        """Open the coordinator as the operator."""
        identity = Identity.load(self.home.operator / "identity")
        async with open_channel(
            identity, identity.coordinator, "coordinator", NodeId("coordinator")
        ) as channel:
            yield CoordinatorClient(channel)

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[RegistryClient]:
        """Open the registry as the operator."""
        identity = Identity.load(self.home.operator / "identity")
        async with open_channel(identity, identity.registry, "registry", NodeId("registry")) as channel:
            yield RegistryClient(channel)

    def _said_ready(self, name: str) -> int:
        return self.log(name).count(f"{name}.ready")

    def _start(self, *names: str) -> None:
        """Start services, then wait until they answer."""
        before = {name: self._launch(name) for name in names}
        deadline = time.monotonic() + 60
        for name in names:
            # Ports listen a moment before their servers answer.
            while self._said_ready(name) == before[name] or not all(
                map(_listens, self._ports[name].values())
            ):
                assert self.processes[name].poll() is None, self.log(name)
                assert time.monotonic() < deadline, self.log(name)
                time.sleep(0.05)

    def _launch(self, name: str) -> int:
        """Start a service's process; return how often its log said before that it was ready."""
        flags = [str(word) for flag in self._ports[name].items() for word in flag]
        command = [name, "--home", str(self.home.root), "--redis-url", self.redis.url, *flags]
        with (self.folder / f"{name}.log").open("ab") as log:
            before = self._said_ready(name)
            self.processes[name] = start_service("swarm.cli", command, log)
        return before


@contextmanager
def whole_swarm(folder: Path, *, max_leaves: int = 8, settings: str = "") -> Iterator[WholeSwarm]:
    """Run a swarm without nodes for as long as the block lasts; `settings` are TOML, for its services."""
    swarm = WholeSwarm(folder, max_leaves=max_leaves)
    if settings:
        swarm.home.settings.write_text(settings)
    try:
        swarm.start()
        yield swarm
    finally:
        swarm.end()


@asynccontextmanager
async def agent_of(home: NodeHome, within_s: float = 30.0) -> AsyncIterator[AgentClient]:
    """Open the agent of a home once it answers."""
    deadline = time.monotonic() + within_s
    while (path := agent_socket(home)) is None:
        assert time.monotonic() < deadline, (home.run / "agent.log").read_text()
        await asyncio.sleep(0.05)
    async with open_local(path) as connection:
        yield AgentClient(connection)


async def carried_out(client: AgentClient, order: TrainOrder) -> TrainStep:
    """Let a node carry out an order; return the last step."""
    last = None
    async for step in client.train(order):
        last = step
    assert last is not None and last.stage == "done"
    return last


async def until(happened: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait until happened() (a coroutine function too) is true."""
    deadline = time.monotonic() + within_s
    while True:
        found = happened()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"{happened} never came true"
        await asyncio.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
