"""The agent's side of the expert server: keeps the child running and passes calls on to it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from node.children import KeptChild
from swarm.config import NodeHome
from swarm.domain.agent import ExpertMemory
from swarm.domain.combination import TrialOption
from swarm.domain.errors import NotReadyError
from swarm.domain.growth import Survey
from swarm.domain.ids import Digest
from swarm.domain.inference import ExpertAnswer, ExpertRequest, GateTrial, SocketBytes
from swarm.rpc.channel import open_local
from swarm.rpc.clients import ExpertClient

START_PATIENCE_S = 20.0
TRIAL_TIMEOUT_S = 120.0
_log = structlog.get_logger(__name__)


class ExpertRelay:
    """ExpertPort over the expert server child. A call that comes while the child starts waits for it."""

    def __init__(self, home: NodeHome, configuration: Path, socket: Path) -> None:
        self._kept = KeptChild(
            "node.expert_server",
            lambda: [str(configuration)],
            log=home.run / "experts.log",
            on_line=self._said,
            on_end=self._ended,
        )
        self._socket = socket
        self._client = ExpertClient(open_local(socket, "expert server"))
        self._ready = asyncio.Event()
        self._past = (0, 0)
        self._present = (0, 0)
        self.memory = ExpertMemory()
        """What the expert server has in memory, as of the last second."""
        self.in_memory: frozenset[Digest] = frozenset()
        """The manifests of which it has the experts in memory, as of its last report."""
        self.reports = 0
        """How many such reports came, from all expert servers of this agent."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called with each child that answers; must not block."""

    @property
    def pid(self) -> int:
        """The child's process id, 0 while there is none."""
        return self._kept.child.pid if self._kept.child is not None else 0

    @property
    def socket_bytes(self) -> SocketBytes:
        """What all expert servers of this agent have sent and received so far."""
        return SocketBytes(sent=self._past[0] + self._present[0], received=self._past[1] + self._present[1])

    async def run(self) -> None:
        """Keep the expert server running until cancelled."""
        try:
            await self._kept.run()
        finally:
            await self._client.close()

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        """Ask this node's experts."""
        await self._started()
        return await self._client.predict(request)

    async def pass_on(self, query: bytes) -> bytes:
        """Ask this node's experts what came encoded; the reply is encoded, too."""
        await self._started()
        return await self._client.pass_on(query)

    async def try_gate(
        self, candidate: bytes, incumbent: bytes, options: Sequence[TrialOption], specification: bytes
    ) -> GateTrial:
        """Try a gate on this node's validation data."""
        await self._started()
        return await self._client.try_gate(
            candidate, incumbent, options, specification, timeout_s=TRIAL_TIMEOUT_S
        )

    async def survey(self, gate: bytes, specification: bytes) -> Survey:
        """Ask how a gate's leaves do on this node's validation data."""
        await self._started()
        return await self._client.survey(gate, specification, timeout_s=TRIAL_TIMEOUT_S)

    async def _started(self) -> None:
        try:
            async with asyncio.timeout(START_PATIENCE_S):
                await self._ready.wait()
        except TimeoutError:
            raise NotReadyError(
                "expert server of this node",
                found=f"process {self.pid} that is not ready" if self.pid else "no running process",
                expected="a running one",
                remedy="it starts again by itself; read run/experts.log in the node's home",
            ) from None

    def _said(self, said: dict[str, Any]) -> None:
        if said.get("ready"):
            self._ready.set()
            self.on_ready()
        elif "sent" in said:
            self._present = (int(said["sent"]), int(said["received"]))
            self.memory = ExpertMemory(**said["memory"])
            self.in_memory = frozenset(Digest(digest) for digest in said["loaded"])
            self.reports += 1
        elif "problem" in said:
            _log.error("experts.failed", problem=said["problem"])

    def _ended(self) -> None:
        self._ready.clear()
        self._past = (self._past[0] + self._present[0], self._past[1] + self._present[1])
        self._present = (0, 0)
        self.memory, self.in_memory = ExpertMemory(), frozenset()
        self._socket.unlink(missing_ok=True)
