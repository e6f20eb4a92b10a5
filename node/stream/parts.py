"""What the parts of one stream share: its order, its ledger, its folders, and the node around it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.stream.following import StreamRun
from node.stream.ledger import StreamLedger
from node.stream.ports import Knowledge, Learner, StreamOrder
from node.stream.taking import IntakeJob
from swarm.config import NodeHome


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamParts:
    """One stream's parts. `clock` gives the time of day in seconds."""

    kept: StreamOrder
    run: StreamRun
    ledger: StreamLedger
    home: NodeHome
    learner: Learner
    knowledge: Knowledge
    threads: int
    clock: Callable[[], float]

    @property
    def folder(self) -> Path:
        return self.home.state / "stream"

    @property
    def log(self) -> Path:
        return self.home.run / "stream.log"

    @property
    def count(self) -> int:
        """How many mega-batches this stream has taken."""
        return self.ledger.last - self.kept.first + 1

    @property
    def has_all(self) -> bool:
        """It was asked for no more than these."""
        most = self.kept.options.most
        return 0 < most <= self.count

    def waiting_folder(self, number: int) -> Path:
        """Return where a mega-batch lies that was taken and is not learned yet."""
        return self.folder / "waiting" / f"{number:06d}"

    async def job(self, number: int, source: str) -> IntakeJob:
        """Return what to ask of the process that takes a mega-batch; raises where the swarm's specification
        or gate is not at hand."""
        order, specification = self.kept.order, self.knowledge.specification()
        await self.knowledge.provide_trunk(specification)
        return IntakeJob(
            number=number,
            source=source,
            import_paths=order.import_paths,
            specification=specification,
            blob_folder=str(self.home.cache),
            state=str(self.home.state),
            answering=tuple(self.learner.answering()),
            test=self.kept.options.test,
            seed=order.seed,
            gate=await self.knowledge.provide_regions(),
            threads=self.threads,
        )

    async def tell(self, message: str, stage: str = "stream") -> None:
        """Tell news to whoever looks on."""
        most = self.kept.options.most
        await self.run.tell(stage, message, min(1.0, self.count / most) if most else 0.0)
