"""The one stream of a node: begun, followed, ended, and taken up again when the agent starts.

The agent runs it, whoever looks on, until it ends by itself or is ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import structlog

from node.stream.following import StreamRun
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.ports import HaltedError, Knowledge, Learner, StreamOrder
from node.stream.sources import Source, opened
from node.stream.stream import Stream
from node.stream.watching import SETTLE_S
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, NotReadyError, SwarmError

_log = structlog.get_logger(__name__)


class StreamKeeper:
    """Runs the node's one stream."""

    def __init__(
        self,
        *,
        home: NodeHome,
        learner: Learner,
        knowledge: Knowledge,
        threads: int,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._learner, self._knowledge = home, learner, knowledge
        self._threads, self._settle_s, self._clock = threads, settle_s, clock
        self._folder = home.state / "stream"
        self._run: StreamRun | None = None
        self._order: StreamOrder | None = None

    @property
    def is_running(self) -> bool:
        return self._run is not None and not self._run.ended

    async def follow(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        """Begin the stream that an order asks for, or go along with it where it runs already; tell its news.

        Whoever goes away ends nothing. ConflictError while a stream of other data runs.
        """
        run = self._run
        if run is None or run.ended:
            ledger = StreamLedger(self._home.state / LEDGER_FILE)
            kept = StreamOrder(order=replace(order, idempotency_key=""), first=ledger.last + 1)
            source = self._opened(kept)
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            kept.write(self._folder)
            run = self._begin(kept, ledger, source)
        elif self._order is not None and self._order.order.data != order.data:
            raise ConflictError(
                "stream",
                found=f"one of {self._order.order.data} that runs",
                expected="one stream for each node",
                remedy="end it first: swarm train --stop",
            )
        async for step in run.follow():
            yield step

    async def end(self) -> TrainStep:
        """End the stream that runs. What waits is kept for the next one; NotReadyError where none runs."""
        if not self.is_running:
            raise NotReadyError(
                "stream", found="none that runs", expected="one", remedy="swarm train --watch DIR"
            )
        run = self._run
        assert run is not None
        await self._let_go(run)
        (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
        waiting = len(StreamLedger(self._home.state / LEDGER_FILE).waiting)
        message = "the stream has ended" + (
            f"; {waiting} mega-batches wait for the next one" if waiting else ""
        )
        step = TrainStep(stage="done", message=message, fraction=1.0)
        await run.add(step)
        await run.end()
        return step

    def resume(self) -> None:
        """Go on with the stream that ran when the agent ended, if there was one."""
        if not (self._folder / StreamOrder.FILE).exists():
            return
        try:
            kept = StreamOrder.read(self._folder)
            ledger = StreamLedger(self._home.state / LEDGER_FILE)
            self._begin(kept, ledger, self._opened(kept))
            _log.info("stream.resumed", data=kept.order.data)
        except SwarmError as error:
            _log.error("stream.not_resumed", because=str(error))

    async def stop(self) -> None:
        """Let go of the stream; the next start of the agent goes on with it."""
        run = self._run
        if run is not None and not run.ended:
            await self._let_go(run)
            await run.end(NotReadyError("stream", found="the agent ends", remedy="swarm train --watch DIR"))

    async def _let_go(self, run: StreamRun) -> None:
        if run.task is not None:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)

    def _opened(self, kept: StreamOrder) -> Source:
        return opened(
            kept.order.data,
            kept.order.import_paths,
            items=self._folder / "items",
            keep_mb=kept.options.keep_mb,
            log=self._home.run / "stream.log",
            settle_s=self._settle_s,
        )

    def _begin(self, kept: StreamOrder, ledger: StreamLedger, source: Source) -> StreamRun:
        run, self._order = StreamRun(), kept
        self._run = run
        work = Stream(
            kept=kept,
            run=run,
            ledger=ledger,
            source=source,
            home=self._home,
            learner=self._learner,
            knowledge=self._knowledge,
            threads=self._threads,
            clock=self._clock,
        )
        run.task = asyncio.create_task(self._carry_out(run, work), name="stream")
        return run

    async def _carry_out(self, run: StreamRun, work: Stream) -> None:
        try:
            await work.go()
        except HaltedError as error:
            await run.end(error)
        except SwarmError as error:
            (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
            await run.end(error)
        except Exception as error:
            _log.exception("stream.failed")
            await run.end(SwarmError("stream", found=f"{type(error).__name__}: {error}"))
        else:
            (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
            await run.end()
