"""A training order's way: learn -> publish -> contribute. Learning is a child process; its job's folder lets
it go on after any crash, and what it made goes out through the outbox.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from node.children import Child
from node.delivery import Courier
from node.durable import link_durably
from node.existing import answering, existing_branches, existing_leaves
from node.job_delivery import QUEUED, JobDelivery
from node.jobs import (
    VALIDATION_FILE,
    LearningJob,
    LearningResult,
    Lender,
)
from node.leaves import LeafBook
from node.loans import Lending, Loans, Wanted
from node.order_run import OrderRun
from node.outbox import Outbox
from node.starts import Starts
from node.stream.keeper import StreamKeeper
from node.stream.ports import Progress
from node.stream.taking import Answering
from node.stream.trouble import Trouble
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, NotReadyError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import digest
from swarm.domain.problems import Problem
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.trust.identity import Identity
from swarm.trust.statements import Statement

_ATTEMPTS = 3
_log = structlog.get_logger(__name__)


class SwarmKnowledge(Protocol):
    """What the trainer must know of the swarm; the agent keeps it, also while nobody can be reached."""

    @property
    def gate_version(self) -> int: ...
    @property
    def gate(self) -> GateStatement | None: ...
    def specification(self) -> Specification: ...
    async def provide_trunk(self, specification: Specification) -> None: ...
    async def provide_root(self) -> Statement[GateStatement]: ...
    async def provide_regions(self) -> GateStatement | None: ...


class Trainer:
    """Carries out training orders, one at a time, and keeps the stream, whose orders are among them."""

    def __init__(
        self,
        *,
        home: NodeHome,
        identity: Identity,
        book: LeafBook,
        outbox: Outbox,
        courier: Courier,
        cache: BlobFiles,
        knowledge: SwarmKnowledge,
        default_net: str,
        threads: int,
        lending: Lending | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._identity, self._book, self._knowledge = home, identity, book, knowledge
        self._default_net, self._threads, self._lending = default_net, threads, lending
        self._jobs = home.state / "jobs"
        self._delivery = JobDelivery(
            home=home,
            identity=identity,
            book=book,
            outbox=outbox,
            courier=courier,
            cache=cache,
            knowledge=knowledge,
            jobs=self._jobs,
            clock=clock,
        )
        self._run: OrderRun | None = None
        self.is_growing: Callable[[], bool] = lambda: False
        """Whether a proposal is being carried out beside."""
        self._stopping = False
        self._stream = StreamKeeper(
            home=home, learner=self, knowledge=knowledge, threads=threads, clock=clock
        )

    @property
    def activity(self) -> str:
        """What to say in a heartbeat: `idle`, `train 40%`."""
        run = self._run
        if run is None or run.ended or not run.steps:
            return self._stream.activity or "idle"
        return f"{run.steps[-1].stage} {run.steps[-1].fraction:.0%}"

    @property
    def trouble(self) -> Trouble | None:
        """What keeps the stream from going on, None where nothing does."""
        return self._stream.trouble

    async def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        """Carry out an order and tell its steps; the same key again follows the same run.

        Whoever goes away while the node learns ends the learning (what is signed already still goes out).
        A stream goes on without followers, until an order with `stop`. Raises ConflictError while another
        order is being carried out, and whatever the data deserve.
        """
        if order.stop:
            yield await self._stream.end()
            return
        if order.stream is not None:
            async for step in self._stream.follow(order):
                yield step
            return
        run = self._started(order)
        async for step in run.follow():
            yield step

    def resume(self) -> None:
        """Take up the order that a crash interrupted, if there is one, and the stream."""
        self._resume_order()
        self._stream.resume()

    def _resume_order(self) -> None:
        if not self._jobs.exists():
            return
        for folder in sorted(self._jobs.iterdir(), key=lambda path: path.stat().st_mtime):
            if (folder / QUEUED).exists():
                continue
            with suppress(SwarmError):
                order = LearningJob.read(folder).order
                if not order.dry_run and self._run is None:
                    _log.info("training.resumed", data=order.data)
                    self._started(order)
                    continue
            shutil.rmtree(folder, ignore_errors=True)

    async def stop(self) -> None:
        """End what runs; an interrupted order is taken up by the next start."""
        self._stopping = True
        await self._stream.stop()
        run = self._run
        if run is not None and run.task is not None:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)

    def is_busy_besides(self, key: str) -> bool:
        """Say whether another order than the one with this key is being carried out, or growth is on trial:
        what is learned meanwhile would stay out of the gate."""
        is_other = self._run is not None and not self._run.ended and self._run.key != key
        grows = bool(self._book.tree.on_trial) or self.is_growing()
        return is_other or (grows and self.progress_of(key) == "nothing")

    @property
    def learns_mega_batches(self) -> bool:
        """Whether an order of the stream's is being carried out."""
        run = self._run
        return run is not None and not run.ended and run.order.accumulate

    def progress_of(self, key: str) -> Progress:
        """Say how far the order with this key came: whether there is a result, and whether that is in the
        book and on its way."""
        folder = self._folder_of(key)
        if (folder / QUEUED).exists():
            return "laid down"
        return "learned" if (folder / LearningResult.FILE).exists() else "nothing"

    def answering(self) -> list[Answering]:
        """Return the experts of this node's leaves, as it signed them last."""
        return answering(self._book)

    def _folder_of(self, key: str) -> Path:
        return self._jobs / digest_of(key.encode())[:16]

    def _started(self, order: TrainOrder) -> OrderRun:
        run = self._run
        is_same = run is not None and order.idempotency_key and run.key == order.idempotency_key
        # A stream asks again with its key to have done what failed, not to hear of it again.
        has_failed = run is not None and run.error is not None and order.accumulate
        if run is not None and is_same and not has_failed:
            return run
        if run is not None and not run.ended:
            raise ConflictError(
                "training",
                found=f"an order on {run.order.data} that is not done yet",
                expected="one order at a time",
                remedy="wait for it, or stop it with Ctrl-C where it runs",
            )
        run = self._run = OrderRun(key=order.idempotency_key or uuid.uuid4().hex, order=order)
        run.task = asyncio.create_task(self._carry_out(run), name="training")
        return run

    async def _carry_out(self, run: OrderRun) -> None:
        folder = self._folder_of(run.key)
        try:
            await self._learn(run, folder)
            await self._delivery.deliver(run, folder)
            await run.end()
        except SwarmError as error:
            if run.learning:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await run.end(error)
        except asyncio.CancelledError:
            if run.learning and not self._stopping:
                shutil.rmtree(folder, ignore_errors=True)
            await run.end(NotReadyError("training", found="stopped before it was done"))
            raise
        except Exception as error:
            _log.exception("training.failed")
            await run.end(SwarmError("training", found=f"{type(error).__name__}: {error}"))

    async def _learn(self, run: OrderRun, folder: Path) -> None:
        if (folder / LearningResult.FILE).exists():
            return
        if not (folder / LearningJob.FILE).exists():
            specification = self._knowledge.specification()
            gate = await self._root_to_correct() if run.order.refine else None
            await self._knowledge.provide_trunk(specification)
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            if run.order.gathered:
                link_durably(self._home.state / VALIDATION_FILE, folder / VALIDATION_FILE)
            LearningJob(
                node=self._identity.id,
                order=run.order,
                specification=specification,
                blob_folder=str(self._home.cache),
                existing=existing_leaves(self._book),
                branches=existing_branches(self._book),
                first_free_leaf=self._book.first_free,
                default_net=self._default_net,
                threads=self._threads,
                gate=gate.value if gate is not None else None,
                gate_digest=gate.digest if gate is not None else "",
                lenders=await self._lenders(run.order),
                start=Starts(self._home).weights(digest(run.order.start)) if run.order.start else None,
            ).write(folder)
        for attempt in range(_ATTEMPTS):
            status, words = await self._learn_once(run, folder)
            if status == 0:
                return
            _log.warning("learner.ended", status=status, attempt=attempt + 1, last_words=words)
        raise SwarmError(
            "training process",
            found=f"exit status {status}, {_ATTEMPTS} times ({words})",
            expected="0",
            remedy=f"read {self._home.run / 'learner.log'}",
        )

    async def _learn_once(self, run: OrderRun, folder: Path) -> tuple[int, str]:
        """Run the child once, telling its steps; return its exit status and last words. It goes on from
        checkpoints."""
        child = await Child.start("node.learner", [str(folder)], log=self._home.run / "learner.log")
        try:
            async for said in child.lines():
                if "problem" in said:
                    raise Problem(**said["problem"]).as_error()
                if said.get("stage") not in (None, "done"):
                    await run.add(
                        TrainStep(stage=said["stage"], message=said["message"], fraction=said["fraction"])
                    )
                if said.get("stage") == "borrow":
                    await self._lend(run.order, folder)
            return await child.wait(), child.last_words()
        finally:
            await child.stop()

    async def _lenders(self, order: TrainOrder) -> tuple[Lender, ...]:
        if not order.borrow or order.refine or order.dry_run or order.start or self._lending is None:
            return ()
        if self._knowledge.gate is None:
            await self._lending.until_settled()
        return await self._lending.lenders(self._knowledge.gate)

    async def _lend(self, order: TrainOrder, folder: Path) -> None:
        """Bring what the learner wants, once."""
        if self._lending is None or not (folder / Wanted.FILE).exists() or (folder / Loans.FILE).exists():
            return
        loans = await self._lending.lend(Wanted.read(folder).experts, order.import_paths)
        await asyncio.to_thread(loans.write, folder)

    async def _root_to_correct(self) -> Statement[GateStatement]:
        if not self._book.leaves():
            raise NotReadyError(
                "refining",
                found="no leaves on this node yet",
                expected="experts to refine",
                remedy="train some first: swarm train DATA",
            )
        return await self._knowledge.provide_root()
