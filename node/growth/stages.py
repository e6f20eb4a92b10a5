"""The tasks of a proposal: a child process does one, what it made is signed, sent and awaited."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from node.children import Child
from node.delivery import Courier
from node.durable import write_json
from node.growth.jobs import GrowthJob, GrowthResult
from node.growth.own_contribution import OwnContributions
from node.growth.planning import Signing, make_growth_plan
from node.growth.unused import UnusedExperts
from node.jobs import LearningJob
from node.leaves import LeafBook
from node.outbox import Intent, Outbox
from node.plan import Plan
from swarm.config import NodeHome
from swarm.domain.errors import ConflictError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import LeafId, leaf_of
from swarm.domain.problems import Problem
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import Statement

PATIENCE_S = 20.0
_ATTEMPTS = 3
_DELIVERED = "delivered.json"
_log = structlog.get_logger(__name__)


class SwarmKnowledge(Protocol):
    """What must be known of the swarm; the agent keeps it, also while nobody can be reached."""

    @property
    def gate(self) -> GateStatement | None: ...
    @property
    def gate_version(self) -> int: ...
    def specification(self) -> Specification: ...
    async def provide_trunk(self, specification: Specification) -> None: ...
    async def provide_root(self) -> Statement[GateStatement]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowerParts:
    """What growth on a node works with."""

    home: NodeHome
    identity: Identity
    book: LeafBook
    outbox: Outbox
    courier: Courier
    cache: BlobFiles
    knowledge: SwarmKnowledge
    registry: VerifiedRegistry
    net: str
    threads: int
    unused: UnusedExperts | None = None
    own: OwnContributions | None = None
    clock: Callable[[], float] = time.time

    def new_leaves(self, count: int) -> tuple[LeafId, ...]:
        """Set ids aside, above those that a training order on its way may give to its new leaves."""
        after, most = 0, self.knowledge.specification().max_leaves_per_owner
        for path in (self.home.state / "jobs").glob(f"*/{LearningJob.FILE}"):
            if not (path.parent / "queued.json").exists():
                with suppress(SwarmError):
                    after = max(after, LearningJob.read(path.parent).first_free_leaf + most)
        first = self.book.reserve(count, after)
        return tuple(leaf_of(self.identity.id, first + place) for place in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The tasks of one order. `done` is how far each is, 0..1, by the name of its folder."""

    parts: GrowerParts
    order: GrowthOrder
    done: dict[str, float] = field(default_factory=dict)

    async def go(self, folder: Path, job: Callable[[], Awaitable[GrowthJob]]) -> GrowthResult:
        """Do one task and deliver what it made; return its result. What a crash left done stays done."""
        if (folder / _DELIVERED).exists():
            self.done[folder.name] = 1.0
            return GrowthResult.read(folder)
        self.done[folder.name] = 0.0
        if not (folder / GrowthResult.FILE).exists():
            if not (folder / GrowthJob.FILE).exists():
                made = await job()
                await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
                made.write(folder)
            await self._grow(folder)
        result = GrowthResult.read(folder)
        await asyncio.to_thread(self._bring_home, folder)
        plan = Plan.read(folder) or make_growth_plan(
            result, folder, self.parts.book, self.order, self._signing()
        )
        intents = plan.apply(folder, self.parts.book, self.parts.outbox)
        self.parts.courier.kick()
        await self._delivered(intents)
        for note in result.notes:
            _log.info("growth.note", proposal=self.order.proposal, note=note)
        write_json(folder / _DELIVERED, {"at": self.parts.clock()})
        self.done[folder.name] = 1.0
        return result

    async def _grow(self, folder: Path) -> None:
        """Run the child until its result is there; it goes on from checkpoints."""
        log = self.parts.home.run / "growth.log"
        for attempt in range(_ATTEMPTS):
            child = await Child.start("node.learner", [str(folder)], log=log)
            try:
                async for said in child.lines():
                    if "problem" in said:
                        raise Problem(**said["problem"]).as_error()
                    if "fraction" in said:
                        self.done[folder.name] = 0.95 * float(said["fraction"])
                status = await child.wait()
            finally:
                await child.stop()
            if status == 0:
                return
            words = child.last_words()
            _log.warning("grower.ended", status=status, attempt=attempt + 1, last_words=words)
        raise SwarmError(
            "growing process",
            found=f"exit status {status}, {_ATTEMPTS} times ({words})",
            expected="0",
            remedy=f"read {log}",
        )

    async def _delivered(self, intents: Sequence[Intent]) -> None:
        """Wait until everything has arrived; raise what was refused."""
        for intent in intents:
            delivery = None
            while delivery is None:
                delivery = await self.parts.courier.outcome(intent, PATIENCE_S)
            if delivery.error is not None:
                raise delivery.error
            if intent.kind == "contribute" and not delivery.is_in_the_gate:
                raise ConflictError(intent.subject, found=f"{delivery.state}: {delivery.reason}")

    def _signing(self) -> Signing:
        parts = self.parts
        return Signing(
            owner=parts.identity.id,
            signer=parts.identity.required_signer(),
            specification=parts.knowledge.specification(),
            gate_version=parts.knowledge.gate_version,
            now=parts.clock(),
        )

    def _bring_home(self, folder: Path) -> None:
        made = BlobFiles(folder / "blobs")
        for digest in made.digests():
            self.parts.cache.put(made.open_verified(digest))
