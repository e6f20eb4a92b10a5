"""A whole swarm in real processes: Redis, registry, coordinator, and as many nodes as a test wants."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coordinator.founding import found_swarm
from node.control import agent_socket
from node.enrol import join
from swarm.config import NodeHome, SwarmHome
from swarm.domain.ids import NodeId
from swarm.registry.redis_server import RedisServer
from swarm.rpc.channel import open_channel, open_local
from swarm.rpc.clients import AgentClient, CoordinatorClient, RegistryClient
from swarm.trust.identity import Identity
from tests.support.node_homes import ENVIRONMENT, start_agent

Process = subprocess.Popen[bytes]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class WholeSwarm:
    """The services of one swarm, each started, stopped and killed by name."""

    def __init__(self, folder: Path, class_names: Sequence[str] = tuple("0123")) -> None:
        self.folder, self.home = folder, SwarmHome(folder / "founder")
        self._join, self._port, self._registry = free_ports(3)
        self.line = found_swarm(
            self.home,
            swarm="garden",
            input_shape=(8, 8),
            input_dtype="uint8",
            scale=1 / 16,
            offset=0.0,
            class_names=class_names,
            trunk="randconv-sqrt:8",
            join_port=self._join,
            port=self._port,
            registry_port=self._registry,
            token_uses=20,
            now=datetime.now(UTC),
        )
        self.redis = RedisServer(self.home.redis)
        self.processes: dict[str, Process] = {}
        self.agents: list[Process] = []

    def start(self) -> None:
        """Start Redis, registry and coordinator, and wait until they answer."""
        asyncio.run(self.redis.start())
        self.start_registry()
        self.start_coordinator()

    def start_registry(self) -> None:
        self._service("registry", ["--port", str(self._registry)], [self._registry])

    def start_coordinator(self) -> None:
        ports = [self._join, self._port]
        flags = ["--join-port", str(self._join), "--port", str(self._port)]
        self._service("coordinator", flags, ports)

    def kill(self, name: str) -> None:
        """Kill a service as a power cut would."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def joined(self, name: str, **changes: str) -> NodeHome:
        """Return the home of a node that has just joined."""
        home = NodeHome(self.folder / name)
        join(self.line, home, name=name, **changes)
        return home

    def agent(self, home: NodeHome) -> Process:
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

    def _service(self, name: str, flags: list[str], ports: list[int]) -> None:
        path = self.folder / f"{name}.log"
        before = self._said_ready(name) if path.exists() else 0
        with path.open("ab") as log:
            command = [sys.executable, "-m", "swarm.cli", name, "--home", str(self.home.root)]
            command += ["--redis-url", self.redis.url, *flags]
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
            )
        for port in ports:
            deadline = time.monotonic() + 60
            # Ports listen a moment before their servers answer.
            while not _listens(port) or self._said_ready(name) == before:
                assert self.processes[name].poll() is None, self.log(name)
                assert time.monotonic() < deadline, self.log(name)
                time.sleep(0.05)


@contextmanager
def whole_swarm(folder: Path) -> Iterator[WholeSwarm]:
    """Run a swarm without nodes for as long as the block lasts."""
    swarm = WholeSwarm(folder)
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
