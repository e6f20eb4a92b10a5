"""The stage of `swarm up`: services and nodes, each step a command that a user could have typed.

This process acts as the swarm's founder: it starts services from the founder's folder and speaks to the
coordinator as the operator. What happens on a node happens through commands run in that node's folder.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.cli import places
from swarm.cli.places import Place
from swarm.cli.up.deal import Deal, write_private
from swarm.cli.up.supervisor import Service, Supervisor
from swarm.data.dataset import Dataset
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.manifests import GateStatement, Manifest
from swarm.rpc.clients import CoordinatorClient

COMMAND = "swarm.cli"
CONNECT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `swarm up` was asked for. `ports` are the join port, the coordinator's and the registry's."""

    deal: Deal
    net: str
    trunk: str
    steps: int
    seed: int
    ports: tuple[int, int, int]
    import_paths: tuple[str, ...] = ()


def command(words: str, more: Sequence[str] = (), **options: object) -> list[str]:
    """Return the arguments of `swarm WORDS --json ...`, for `python -m`."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [COMMAND, *words.split(), "--json", *flags, *more]


class Stage:
    """The running swarm. `tell` prints progress; `train_flops` holds what each node spent."""

    def __init__(self, supervisor: Supervisor, plan: Plan, tell: Callable[[str], None]) -> None:
        self.supervisor, self.plan, self.tell = supervisor, plan, tell
        self.root = supervisor.root
        self.founder = Place(self.root / "founder", is_node=False)
        self.train_flops: dict[str, float] = {}
        self._services: list[Service] = []

    def node_home(self, name: str) -> Path:
        """Return a node's home: inside its own folder, which only its own commands read."""
        return self.root / name / "home"

    async def found(self) -> str:
        """Found the swarm, start its services, and return the first join line."""
        plan, join_port, port, registry_port = self.plan, *self.plan.ports
        some = next(iter(plan.deal.nodes.values()))
        self.tell("founding a swarm: CA, identities, signed specification, trunk")
        said = await self.supervisor.run(
            "swarm init",
            command(
                "init demo",
                self._paths(),
                home=self.founder.root,
                seed=plan.seed,
                input_shape=",".join(map(str, some.input_shape)),
                input_dtype=some.inputs.dtype,
                scale=some.scale,
                offset=some.offset,
                trunk=plan.trunk,
                classes=",".join(plan.deal.class_names),
            ),
        )
        home = ["--home", str(self.founder.root)]
        redis = await self.supervisor.start("redis", [COMMAND, "redis", *home])
        await self.supervisor.wait_for_line(redis, "redis.ready")
        registry = await self.supervisor.start("registry", [COMMAND, "registry", *home])
        coordinator = await self.supervisor.start("coordinator", [COMMAND, "coordinator", *home])
        # Ports listen a moment before their servers answer; the services say when they do.
        await self.supervisor.wait_for_line(registry, "registry.ready")
        await self.supervisor.wait_for_line(coordinator, "coordinator.ready")
        await self.supervisor.wait_for_port(coordinator, join_port)
        self._services = [redis, registry, coordinator]
        self.tell(
            f"redis, registry (port {registry_port}) and coordinator (ports {join_port}, {port})"
            f" run as processes {', '.join(str(service.process.pid) for service in self._services)}"
        )
        return str(json.loads(said)["join_line"])

    async def join(self, name: str, data: Dataset, line: str) -> None:
        folder = self.root / name
        private = write_private(data, folder)
        classes = " ".join(data.class_names)
        self.tell(f"{name}: {len(data)} private samples of classes {classes}")
        await self.supervisor.run(
            f"swarm join ({name})",
            command(f"join {line}", self._paths(), name=name, data=private, home=self.node_home(name)),
            cwd=folder,
            on_line=lambda said: self.tell(f"{name}: {said.strip()}"),
        )
        service = await self.supervisor.start(
            f"node-{name}", [COMMAND, "node", "--home", str(self.node_home(name))], cwd=folder
        )
        self._services.append(service)

    async def train(self, name: str) -> None:
        folder = self.root / name
        said = await self.supervisor.run(
            f"swarm train ({name})",
            command(
                "train private.npz",
                self._paths(),
                home=self.node_home(name),
                net=self.plan.net,
                steps=self.plan.steps,
                seed=self.plan.seed,
            ),
            cwd=folder,
            on_line=lambda line: self.tell(f"{name}: {line.strip()}"),
        )
        done = json.loads(said)
        self.train_flops[name] = float(done["figures"]["train_flops"])
        self.tell(f"{name}: {done['message']}")

    async def wait_until_live(self, client: CoordinatorClient, names: Sequence[str]) -> None:
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        while True:
            for service in self._services:
                self.supervisor.check(service)
            live = {node.id for node in (await client.status()).nodes if node.alive}
            if set(names) <= live:
                self.tell(f"connected: {', '.join(names)} (no port opened)")
                return
            if asyncio.get_running_loop().time() > deadline:
                missing = ", ".join(sorted(set(names) - live))
                raise NotReadyError(f"nodes {missing}", found=f"not connected after {CONNECT_SECONDS:g} s")
            await asyncio.sleep(0.2)

    async def bytes_sent(self, client: CoordinatorClient) -> int:
        """Return the bytes that all processes sent so far, once every node has told its newest count."""
        asked = (await client.status()).server_time
        while True:
            seen = await client.status()
            if all(node.last_seen > asked for node in seen.nodes if node.alive):
                break
            await asyncio.sleep(0.2)
        async with places.registry(self.founder) as registry:
            stored = (await registry.health()).socket_bytes.sent
        return seen.socket_bytes.sent + stored + sum(node.socket_bytes.sent for node in seen.nodes)

    async def judging_flops(self, client: CoordinatorClient) -> float:
        """Return the FLOPs that nodes spent so far on judging the gates that became active."""
        keyring = self.founder.identity().keyring()
        envelopes, _ = await client.history()
        gates = [keyring.open(envelope, GateStatement).value for envelope in envelopes]
        return sum(float(gate.evidence.get("flops", 0.0)) for gate in gates)

    async def own_flops(self, client: CoordinatorClient, name: str) -> float | None:
        """Return the FLOPs of a node's only expert; None where it has several and needs a gate itself."""
        identity = self.founder.identity()
        async with places.registry(self.founder) as registry:
            heads = await registry.heads(name)
            if len(heads) != 1:
                return None
            keyring = identity.keyring()
            keyring.add_record(await client.record(NodeId(name)))
            envelope = await registry.manifest(digest=heads[0].manifest)
        return float(keyring.open(envelope, Manifest).value.cost.inference_flops)

    def _paths(self) -> list[str]:
        return [word for path in self.plan.import_paths for word in ("--import-path", path)]


async def run_all(work: Iterable[Coroutine[object, object, None]]) -> None:
    """Run coroutines together; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        first = next((e for e in failures.exceptions if isinstance(e, SwarmError)), failures.exceptions[0])
        raise first from None
