"""From what a job learned to what this node has and sends: weights home, versions signed and queued, told."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.delivery import Courier, Delivery
from node.durable import link_durably, write_json
from node.jobs import VALIDATION_FILE, WAITING_FILE, LearningJob, LearningResult
from node.leaves import LeafBook
from node.order_run import OrderRun, done_step, is_kept_aside
from node.outbox import Intent, Outbox
from node.plan import Plan, make_plan
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import HarmfulContributionError
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.trust.identity import Identity

PATIENCE_S = 20.0
QUEUED = "queued.json"
"""In a job's folder: what it learned is in the book and on its way."""
_KEPT_JOBS = 5


class PresentSwarm(Protocol):
    """What laying down must know of the swarm."""

    @property
    def gate_version(self) -> int: ...
    def specification(self) -> Specification: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobDelivery:
    """Lays down what jobs in the folder `jobs` learned, each once."""

    home: NodeHome
    identity: Identity
    book: LeafBook
    outbox: Outbox
    courier: Courier
    cache: BlobFiles
    knowledge: PresentSwarm
    jobs: Path
    clock: Callable[[], float]
    look_s: float = 1.0
    """How often it is told how far weights are on their way."""

    async def deliver(self, run: OrderRun, folder: Path) -> None:
        """Lay down what a job learned, unless that was done before, and tell what becomes of it."""
        result = LearningResult.read(folder)
        if result.dry_run:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await run.add(done_step(result, "nothing left this machine", {}))
            return
        run.learning = False
        intents: list[Intent] = []
        plan = Plan.read(folder)
        if not (folder / QUEUED).exists():
            await asyncio.to_thread(self._bring_home, folder, run.order)
            if plan is None:
                plan = make_plan(
                    result,
                    folder,
                    self.book,
                    job=folder.name,
                    owner=self.identity.id,
                    signer=self.identity.required_signer(),
                    specification=self.knowledge.specification(),
                    share=run.order.share,
                    gate_version=self.knowledge.gate_version,
                    import_paths=run.order.import_paths,
                    now=self.clock(),
                )
            intents = plan.apply(folder, self.book, self.outbox)
            write_json(folder / QUEUED, {"at": self.clock()})
            self.courier.kick()
            await asyncio.to_thread(self._forget_old_jobs)
        await self._follow_deliveries(run, result, intents, plan.note if plan is not None else "")

    def _bring_home(self, folder: Path, order: TrainOrder) -> None:
        """Move a job's weights into the node's cache, and what the next one needs into the node's state."""
        learned = BlobFiles(folder / "blobs")
        for digest in learned.digests():
            self.cache.put(learned.open_verified(digest))
        if (folder / VALIDATION_FILE).exists():
            link_durably(folder / VALIDATION_FILE, self.home.state / VALIDATION_FILE)
        if order.gathered:
            waiting = self.home.state / "stream" / WAITING_FILE
            if (folder / WAITING_FILE).exists():
                link_durably(folder / WAITING_FILE, waiting)
            else:
                waiting.unlink(missing_ok=True)

    async def _follow_deliveries(
        self, run: OrderRun, result: LearningResult, intents: list[Intent], left_out: str
    ) -> None:
        """Tell what becomes of everything; `left_out`: why what was laid down is not contributed."""
        figures: dict[str, float] = {
            "gate_version": self.knowledge.gate_version,
            "activated": 0.0,
            "forward_flops": float(result.forward_flops),
        }
        message = f"{len(result.leaves)} experts published"
        if run.order.refine:
            message = f"{len(result.refined)} corrections published"
        for place, intent in enumerate(intents):
            stage = "publish" if intent.kind == "publish" else "contribute"
            await run.add(TrainStep(stage=stage, message=intent.subject, fraction=place / len(intents)))
            delivery = await self._outcome_told(run, intent, place, len(intents))
            if delivery is None:
                message = f"{len(self.outbox)} deliveries wait in the outbox: {self.courier.trouble}"
                break
            if isinstance(delivery.error, HarmfulContributionError) and is_kept_aside(intent):
                message += f"; contribution kept aside, no gate has it: {delivery.error.found}"
                continue
            if delivery.error is not None:
                raise delivery.error
            if intent.kind == "contribute":
                figures["activated"] = float(delivery.is_in_the_gate)
                figures["gate_version"] = delivery.gate_version or self.knowledge.gate_version
                message += f"; contribution {delivery.state}"
                message += f" ({delivery.reason})" if delivery.reason else f", gate {delivery.gate_version}"
        if intents and intents[-1].kind == "publish" and not run.order.refine:
            why = left_out or (result.notes[-1] if result.notes else "no leaf has samples enough")
            message += f"; nothing contributed: {why}"
        await run.add(done_step(result, message, {**figures, "outbox": float(len(self.outbox))}))

    async def _outcome_told(self, run: OrderRun, intent: Intent, place: int, count: int) -> Delivery | None:
        """Return what becomes of an intent; tell how far its weights are until then."""
        outcome = asyncio.ensure_future(self.courier.outcome(intent, PATIENCE_S))
        told = 0
        try:
            while not (await asyncio.wait([outcome], timeout=self.look_s))[0]:
                going = self.courier.sending
                if going is None or going.key != intent.key or going.sent_bytes <= told:
                    continue
                told = going.sent_bytes
                of = f"{told / 1e6:.1f} of {going.total_bytes / 1e6:.1f} MB"
                fraction = (place + told / going.total_bytes) / count
                await run.add(
                    TrainStep(stage="publish", message=f"{intent.subject}, {of}", fraction=fraction)
                )
            return outcome.result()
        finally:
            outcome.cancel()

    def _forget_old_jobs(self) -> None:
        """Drop what queued jobs need no more: checkpoints and blobs of all, everything of the oldest."""
        queued = sorted(self.jobs.glob(f"*/{QUEUED}"), key=lambda path: path.stat().st_mtime)
        for marker in queued[:-_KEPT_JOBS]:
            shutil.rmtree(marker.parent, ignore_errors=True)
        for marker in queued[-_KEPT_JOBS:]:
            for path in marker.parent.iterdir():
                if path.name not in (QUEUED, LearningJob.FILE, LearningResult.FILE, "plan.json"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
