"""A coordinator beside the registry of a site, each a process of its own; and what it acknowledged."""

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.chaos_registry.site import PATIENCE_S, Site, until_answered
from coordinator.addresses import Endpoints
from coordinator.config import CoordinatorFolder
from coordinator.founding import found_swarm
from coordinator.solver_process import ROOT_NEEDS, SOLVER_NEEDS, threads
from swarm.config import SwarmHome
from swarm.domain.errors import NotAuthorisedError, SwarmError, UnauthenticatedError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import Head, Welcome
from swarm.forking.forks import Forked, Forks
from swarm.registry.redis_store import connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.trust.identity import Identity, new_key_and_csr, save_identity
from swarm.trust.proofs import join_proof
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement
from swarm.trust.tokens import parse_join_line
from tests.support.coordinator import CLASSES, SIZE, BackEnd, SmallNode
from tests.support.trust import SWARM

SIDE = "benchmarks.chaos_registry.coordinator_side"
OPERATOR = NodeId("operator")
ROOT = Path(__file__).parents[2]
IN_STEP = b"store.in_step"
NEEDS = ("coordinator.app", "swarm.experts.trunk", *SOLVER_NEEDS, *ROOT_NEEDS)
_T = TypeVar("_T")


class CutShortError(Exception):
    """The coordinator was killed amid a call."""


class ToldNode(SmallNode):
    """A small node that remembers for the site what it was told."""

    site: "CoordinatorSite"

    async def on_welcome(self, welcome: Welcome) -> None:
        self.site.told_fence(self.id, welcome.fence)
        if welcome.gate:
            self.site.told_gate(welcome.gate)
        await super().on_welcome(welcome)

    async def on_gate(self, envelope: bytes) -> None:
        self.site.told_gate(envelope)
        await super().on_gate(envelope)

    async def publish(self, *arguments: object) -> Head:
        head = await super().publish(*arguments)  # type: ignore[arg-type]
        self.site.published[self.id] = head
        return head


class CoordinatorSite(Site):
    """`told_gates` by version, `fences` by node, `published` by owner, `gone` and `joined`: acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.home = SwarmHome(folder / "home")
        super().__init__(folder, self.home.registry / "blobs")
        self.kept = CoordinatorFolder(self.home.coordinator)
        self.coordinator: asyncio.subprocess.Process | Forked | None = None
        self.endpoints = Endpoints(advertise="", listen="127.0.0.1", join_port=0, port=0, registry="")
        self.told_gates: dict[int, bytes] = {}
        self.fences: dict[NodeId, list[int]] = defaultdict(list)
        self.given_twice = 0
        self.published: dict[NodeId, Head] = {}
        self.joined: set[NodeId] = set()
        self.gone: set[NodeId] = set()
        self.tried_to_go: set[NodeId] = set()
        self._forks = Forks(folder / "fork_server.log", {**threads(), "PYTHONPATH": str(ROOT)})
        self._clients = contextlib.AsyncExitStack()

    async def start(self) -> None:
        await asyncio.to_thread(
            found_swarm,
            self.home,
            swarm=SWARM,
            input_shape=(SIZE,),
            input_dtype="float32",
            scale=1.0,
            offset=0.0,
            class_names=CLASSES,
            trunk="identity",
            min_leaf_count=10,
            now=datetime.now(UTC),
        )
        self._identity = Identity.load(self.home.registry / "identity")
        self.operator = self.ada = Identity.load(self.home.operator / "identity")
        await self.redis.start()
        self.store = connect_redis(self.redis.url, SWARM)
        await self.store.put_record(OPERATOR, self.operator.record)
        await self.store.put_specification(1, (self.kept.specifications / "1.json").read_bytes())
        await self.start_registry()
        await self.start_coordinator()

    async def stop(self) -> None:
        await self.end_coordinator()
        await super().stop()

    # The process

    async def start_coordinator(self, fault: str = "") -> float:
        """Start the coordinator and return after how many seconds it answered its first call."""
        began = time.monotonic()
        words = [
            str(self.home.root), self.redis.url, f"127.0.0.1:{self.port}",
            str(self.endpoints.join_port), str(self.endpoints.port), fault,
        ]  # fmt: skip
        with (self.folder / "coordinator.log").open("ab") as log:
            self.coordinator = await self._forks.fork(
                SIDE, words, needs=NEEDS, errors=log.fileno()
            ) or await asyncio.create_subprocess_exec(
                sys.executable, "-m", SIDE, *words,
                stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip
        assert self.coordinator.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            said = line = b""
            while not line.startswith(b"ready "):
                said += (line := await self.coordinator.stdout.readline())
                if not line:
                    return time.monotonic() - began  # killed while it started
        in_step = asyncio.Event()
        self._hearing = asyncio.create_task(_heard(self.coordinator.stdout, in_step))
        self.endpoints.join_port, self.endpoints.port = map(int, line.split()[1:])
        self.steering = await self._clients.enter_async_context(self._channel())
        self.running = BackEnd(
            folder=self.folder,
            home=self.home,
            redis=self.redis,
            redis_url=self.redis.url,
            registry_port=self.port,
            token=None,  # type: ignore[arg-type]  # each joins by a token of its own
            endpoints=self.endpoints,
            serving=self._hearing,  # type: ignore[arg-type]
            clients=self._clients,
        )
        if not fault:
            await until_answered(self.client_of_operator.status())
        recovery = time.monotonic() - began
        if not fault and IN_STEP not in said:
            await until_answered(in_step.wait())
        return recovery

    async def end_coordinator(self) -> None:
        """Kill it."""
        if self.coordinator is not None:
            with contextlib.suppress(ProcessLookupError):
                self.coordinator.kill()
            await self.coordinator.wait()
        await self._clients.aclose()

    @property
    def client_of_operator(self) -> CoordinatorClient:
        return CoordinatorClient(self.steering)

    def _channel(self) -> contextlib.AbstractAsyncContextManager[object]:
        return open_channel(
            self.operator, f"127.0.0.1:{self.endpoints.port}", "coordinator", NodeId("coordinator")
        )

    async def answered(self, call: Awaitable[_T]) -> _T:
        """Return a call's answer; CutShortError where the coordinator is killed before."""
        assert self.coordinator is not None
        calling = asyncio.ensure_future(call)
        ending = asyncio.ensure_future(self.coordinator.wait())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait({calling, ending}, return_when=asyncio.FIRST_COMPLETED)
                if calling.done() and calling.exception() is None:
                    return calling.result()
                if not ending.done() and isinstance(calling.exception(), SwarmError):
                    # A refusal is one; the end of a connection is told before the end of its process.
                    await asyncio.wait({ending}, timeout=1)
                if ending.done():
                    raise CutShortError
                return calling.result()
        finally:
            for each in (calling, ending):
                each.cancel()
            await asyncio.gather(calling, ending, return_exceptions=True)

    # Who comes, and what is told

    def told_fence(self, node: NodeId, fence: int) -> None:
        if fence:
            self.given_twice += fence in self.fences[node]
            self.fences[node].append(fence)

    def told_gate(self, envelope: bytes) -> None:
        version = read_statement(envelope, GateStatement).value.version
        known = self.told_gates.setdefault(version, envelope)
        if known != envelope:
            self.told_gates[-version] = envelope  # two truths: found by the next check

    async def token(self, key: str) -> str:
        line, _ = await self.client_of_operator.create_token("node", 1, key=key)
        return parse_join_line(line)[0].text

    def request(self, name: str, token: str) -> tuple[Signer, bytes, dict[str, str]]:
        """Return the keys of one that joins, and the body of its request."""
        signer = Signer.generate()
        key_pem, csr_pem = new_key_and_csr(SWARM, "node", NodeId(name))
        body = {
            "token": token, "node": name, "role": "node", "csr_pem": csr_pem.decode(),
            "signing_key": signer.public_hex, "proof": join_proof(signer, csr_pem),
        }  # fmt: skip
        return signer, key_pem, body

    async def join(self, signer: Signer, key_pem: bytes, body: dict[str, str]) -> ToldNode:
        """Send a request to join, and return the node that it makes."""
        ca_pem, name = self.running.ca_pem, NodeId(body["node"])
        answer = await asyncio.to_thread(self.running.door(ca_pem).join, body)
        self.joined.add(name)
        identity = save_identity(
            self.folder / "nodes" / name,
            swarm=SWARM,
            role="node",
            id=name,
            coordinator="127.0.0.1" + answer["coordinator"],
            registry="127.0.0.1" + answer["registry"],
            join="",
            ca_pem=ca_pem,
            certificate_pem=answer["certificate_pem"].encode(),
            key_pem=key_pem,
            record=answer["record"].encode(),
            coordinator_record=answer["coordinator_record"].encode(),
            signer=signer,
        )
        node = ToldNode(self.running, identity, ("a", "b"), sums="exact")
        node.site = self
        return node

    async def connected(self, node: ToldNode) -> None:
        """Connect a node anew: one more lease."""
        if hasattr(node, "_running"):
            await node.disconnect()
        node.back_end = self.running
        await self.answered(node.__aenter__())

    async def is_locked_out(self, node: ToldNode) -> bool:
        """Say whether the coordinator refuses a member's certificate."""
        port = self.endpoints.port
        async with open_channel(
            node.identity, f"127.0.0.1:{port}", "coordinator", NodeId("coordinator")
        ) as channel:
            try:
                await CoordinatorClient(channel).status()
            except (NotAuthorisedError, UnauthenticatedError):
                return True
        return False

    def contribution_is_here(self, digest: Digest) -> bool:
        return all((self.kept.contributions / f"{digest}{end}").exists() for end in (".json", ".bin"))

    def unfinished(self) -> set[str]:
        """Return what lies in the coordinator's folder as a write that was cut short leaves it."""
        root = self.kept.root
        return {str(path.relative_to(root)) for path in root.rglob(".*") if path.is_file()} | {
            str(path.relative_to(root)) for path in self.kept.solver.glob("*")
        }


async def _heard(stdout: asyncio.StreamReader, in_step: asyncio.Event) -> None:
    """Read what the coordinator says, until it ends."""
    while line := await stdout.readline():
        if IN_STEP in line:
            in_step.set()
