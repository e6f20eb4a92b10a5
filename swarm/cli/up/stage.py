"""The stage of `swarm up`: services and nodes, each step a command that a user could have typed.

This process acts as the swarm's founder: it starts services from the founder's folder and speaks to the
coordinator as the operator. What happens on a node happens through commands run in that node's folder.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.cli import places
from swarm.cli.places import Place
from swarm.cli.up.deal import Deal, write_private
from swarm.cli.up.supervisor import Service, Supervisor, free_ports
from swarm.config import LOOPBACK
from swarm.data.dataset import Dataset
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.gating.ridge import RIDGES
from swarm.rpc.clients import CoordinatorClient

COMMAND = "swarm.cli"
CONNECT_SECONDS = 60.0
LARGE_SIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `swarm up` was asked for. `ports` are the join port, the coordinator's and the registry's.

    `sums` and `sums_mb` are `swarm train`'s; without `refine` no expert learns a correction.
    `fedavg_rounds` 0: no federated averaging. `comparisons`: the names of the rows to compare with.
    `listening`: each node has a listener on loopback, so that it answers while the coordinator does not.
    """

    deal: Deal
    net: str
    trunk: str
    steps: int
    seed: int
    ports: tuple[int, int, int]
    import_paths: tuple[str, ...] = ()
    sums: str = "auto"
    sums_mb: float = 4.0
    refine: bool = True
    fedavg_rounds: int = 20
    comparisons: tuple[str, ...] = ()
    listening: bool = False


def trunk_for(trunk: str, input_shape: Sequence[int]) -> str:
    """Return the trunk that is asked for; `auto`: 64 filters for small inputs, 400 for images from 16x16."""
    if trunk != "auto":
        return trunk
    large = len(input_shape) >= 2 and min(input_shape[:2]) >= LARGE_SIDE
    return f"randconv-sqrt:{400 if large else 64}"


def command(words: str, more: Sequence[str] = (), **options: object) -> list[str]:
    """Return the arguments of `swarm WORDS --json ...`, for `python -m`."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [COMMAND, *words.split(), "--json", *flags, *more]


def newest_contribution_mb(listings: Sequence[Mapping[str, Any]]) -> float:
    """Return the megabytes of the newest contribution among the lines of `swarm outbound`; 0 without one.

    Its statement and its arrays are a line each, under one digest; a line that was sent again counts once.
    """
    named = [item["digest"] for item in listings if item["what"] == "contribution"]
    sizes = {item["what"]: item["size_bytes"] for item in listings if named and item["digest"] == named[-1]}
    return float(sum(sizes.values())) / 1e6


def solving_flops(gate: GateStatement, size: int) -> float:
    """Return the FLOPs of solving a gate over `size` features: for each ridge a Cholesky factor (compact
    sums take fewer), and two triangular solves for each column."""
    columns = sum(len(leaf.class_names) for leaf in gate.leaves if leaf.has_columns)
    return len(RIDGES) * (size**3 / 3 + 2 * size**2 * columns) if columns else 0.0


class Stage:
    """The running swarm. `tell` prints progress.

    `train_flops` holds what each node spent in all, `figures` and `said` what its first training said.
    """

    def __init__(self, supervisor: Supervisor, plan: Plan, tell: Callable[[str], None]) -> None:
        self.supervisor, self.plan, self.tell = supervisor, plan, tell
        self.root = supervisor.root
        self.founder = Place(self.root / "founder", is_node=False)
        self.train_flops: dict[str, float] = {}
        self.figures: dict[str, dict[str, float]] = {}
        self.said: dict[str, str] = {}
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
                trunk=trunk_for(plan.trunk, some.input_shape),
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
        listener = {"advertise": f"{LOOPBACK}:{free_ports(1)[0]}"} if self.plan.listening else {}
        await self.supervisor.run(
            f"swarm join ({name})",
            command(
                f"join {line}", self._paths(), name=name, data=private, home=self.node_home(name), **listener
            ),
            cwd=folder,
            on_line=lambda said: self.tell(f"{name}: {said.strip()}"),
        )
        service = await self.supervisor.start(
            f"node-{name}", [COMMAND, "node", "--home", str(self.node_home(name))], cwd=folder
        )
        self._services.append(service)

    async def train(self, name: str, *, borrow: bool = False) -> None:
        """Let a node train its experts and contribute to the gate; with borrow from whom it helps."""
        plan = self.plan
        flags = ["--net", plan.net, "--sums", plan.sums, "--sums-mb", str(plan.sums_mb)]
        flags += [] if borrow else ["--no-borrow"]
        self.figures[name], self.said[name] = await self._order(name, "swarm train", flags)

    async def refine(self, name: str) -> None:
        """Let a node train what its experts add to the root's class scores."""
        await self._order(name, "swarm train --refine", ["--refine"])

    async def _order(self, name: str, title: str, flags: Sequence[str]) -> tuple[dict[str, float], str]:
        """Run `swarm train` on a node; return its figures and everything that it said."""
        folder, plan, heard = self.root / name, self.plan, list[str]()

        def hear(line: str) -> None:
            heard.append(line.strip())
            self.tell(f"{name}: {line.strip()}")

        words = command(
            "train private.npz",
            [*self._paths(), *flags],
            home=self.node_home(name),
            steps=plan.steps,
            seed=plan.seed,
        )
        said = await self.supervisor.run(f"{title} ({name})", words, cwd=folder, on_line=hear)
        done = json.loads(said)
        figures = {key: float(value) for key, value in done["figures"].items()}
        self.train_flops[name] = self.train_flops.get(name, 0.0) + figures["train_flops"]
        self.tell(f"{name}: {done['message']}")
        return figures, "\n".join([*heard, str(done["message"])])

    async def contribution_mb(self, name: str) -> float:
        """Return the megabytes (10^6 bytes) of a node's newest contribution, from its list of what left."""
        said = await self.supervisor.run(
            f"swarm outbound ({name})",
            command("outbound", home=self.node_home(name), limit=1000),
            cwd=self.root / name,
        )
        return newest_contribution_mb(json.loads(said)["listings"])

    async def wait_until_live(self, client: CoordinatorClient, names: Sequence[str]) -> None:
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        while True:
            for service in self._services:
                self.supervisor.check(service)
            live = {node.id for node in (await client.status()).nodes if node.alive}
            if set(names) <= live:
                ports = "each with a listener on loopback" if self.plan.listening else "no port opened"
                self.tell(f"connected: {', '.join(names)} ({ports})")
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

    async def gate(self, client: CoordinatorClient) -> GateStatement:
        """Return the active gate; NotReadyError before the first."""
        return self.founder.identity().keyring().open(await client.gate(), GateStatement).value

    async def gates(self, client: CoordinatorClient) -> list[GateStatement]:
        """Return all gates that became active, oldest first."""
        keyring = self.founder.identity().keyring()
        found = await client.history()
        return [keyring.open(envelope, GateStatement).value for envelope in found.envelopes]

    async def gate_flops(self, client: CoordinatorClient) -> float:
        """Return the FLOPs spent so far on the gates that became active: solving and judging them.

        No record says what candidates cost that were refused.
        """
        envelope = await client.specification()
        trunk = self.founder.identity().keyring().open(envelope, Specification).value.trunk
        gates = await self.gates(client)
        spent = sum(float(gate.evidence.get("flops", 0.0)) for gate in gates)
        for last, gate in zip([None, *gates[:-1]], gates, strict=True):
            # A gate of the same sums as the one before it is tried anew, not solved.
            if last is None or (last.contributions, last.class_names) != (
                gate.contributions,
                gate.class_names,
            ):
                spent += solving_flops(gate, trunk.sum_size)
        return spent

    def expert_flops(self, name: str) -> float:
        """Return what a node spent on training its experts: without features, clusters and sums."""
        figures = self.figures[name]
        beside = ("features_flops", "clustering_flops", "sums_flops")
        return figures["train_flops"] - sum(figures.get(part, 0.0) for part in beside)

    async def total_flops(self, client: CoordinatorClient) -> float:
        """Return all FLOPs spent so far: the nodes' own and those of the gates."""
        return sum(self.train_flops.values()) + await self.gate_flops(client)

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
