"""The one stream of a node: begun, followed, ended, and taken up again when the agent starts.

The agent runs it, whoever looks on, until it ends by itself or is ended. One that fails is tried again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from node.stream.following import StreamRun
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.parts import StreamParts
from node.stream.ports import Knowledge, Learner, StreamOrder
from node.stream.sources import Source, opened
from node.stream.stream import Stream, refusals_told
from node.stream.trouble import Trouble, in_words, said
from node.stream.watching import SETTLE_S
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, NotReadyError, SwarmError

FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 600.0
"""A stream that failed is tried again after so long, doubled each time while it takes nothing."""
_SHORT = 60
"""A heartbeat's activity has room for so much of a reason beside all else that it says."""
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
        self._unread: Trouble | None = None
        """Why the stream that ran when the agent ended is not known."""

    @property
    def is_running(self) -> bool:
        return self._run is not None and not self._run.ended

    @property
    def trouble(self) -> Trouble | None:
        """What keeps the stream from going on, None where nothing does."""
        return self._run.trouble if self._run is not None and not self._run.ended else self._unread

    @property
    def activity(self) -> str:
        """What to say of it in a heartbeat, empty where none runs."""
        if self.trouble is not None:
            return f"stream in trouble: {self.trouble.reason[:_SHORT]}"
        return "stream, waiting" if self.is_running else ""

    async def follow(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        """Begin the stream that an order asks for, or go along with it where it runs already; tell its news.

        Whoever goes away ends nothing. ConflictError while a stream of other data runs.
        """
        run = self._run
        if run is None or run.ended:
            last = StreamLedger(self._home.state / LEDGER_FILE).last
            kept = StreamOrder(order=replace(order, idempotency_key=""), first=last + 1)
            self._opened(kept)  # what cannot be is refused at once
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            kept.write(self._folder)
            run = self._begin(kept, is_new=True)
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
        if self._unread is not None:
            (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
            self._unread = None
            return TrainStep(stage="done", message="the stream has ended", fraction=1.0)
        if not self.is_running:
            raise NotReadyError(
                "stream", found="none that runs", expected="one", remedy="swarm train --watch DIR"
            )
        run = self._run
        assert run is not None
        await self._let_go(run)
        (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
        ledger = StreamLedger(self._home.state / LEDGER_FILE)
        first = self._order.first if self._order is not None else 1
        told = [f"{len(ledger.waiting)} mega-batches wait for the next one"] if ledger.waiting else []
        told += [refused] if (refused := refusals_told(ledger.trainings(first))) else []
        message = "; ".join(["the stream has ended", *told])
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
        except (SwarmError, OSError) as error:
            self._unread = Trouble.of(error, f"the stream is not taken up again: {said(error)}")
            _log.error("stream.not_resumed", because=said(error))
            return
        self._begin(kept, is_new=False)
        _log.info("stream.resumed", data=kept.order.data)

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

    def _begin(self, kept: StreamOrder, *, is_new: bool) -> StreamRun:
        run, self._order, self._unread = StreamRun(), kept, None
        self._run = run
        run.task = asyncio.create_task(self._carry_out(run, kept, is_new=is_new), name="stream")
        return run

    async def _carry_out(self, run: StreamRun, kept: StreamOrder, *, is_new: bool) -> None:
        """Carry the stream out, again and again where it fails; a new one whose source cannot even begin is
        refused, and one that has nothing for as long as its order allows has ended."""
        taken, since, failures = 0, time.monotonic(), 0
        while True:
            source: Source | None = None
            try:
                ledger = StreamLedger(self._home.state / LEDGER_FILE)
                source = self._opened(kept)
                stream = self._stream(run, kept, ledger, source)
                await stream.go()
            except Exception as error:
                if (now_taken := _taken(self._home)) > taken:
                    taken, since, failures = now_taken, time.monotonic(), 0
                failures += 1
                idle_s = kept.options.idle_s
                is_refused = is_new and taken < kept.first and _is_its_own(source, error)
                if is_refused or 0 < idle_s <= time.monotonic() - since:
                    await self._end(run, error)
                    return
                await self._wait_for_next(run, error, failures)
            else:
                await self._end(run, stream.refusal)
                return

    async def _wait_for_next(self, run: StreamRun, error: Exception, failures: int) -> None:
        pause_s = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 30), LONGEST_RETRY_S)
        told = f"the stream failed and is tried again in {in_words(pause_s)}: {said(error)}"
        run.trouble = Trouble.of(error, told)
        _log.error("stream.failed", because=said(error), failures=failures, exc_info=_is_a_bug(error))
        await run.tell("trouble", told)
        await asyncio.sleep(pause_s)

    async def _end(self, run: StreamRun, error: Exception | None) -> None:
        with suppress(OSError):
            (self._folder / StreamOrder.FILE).unlink(missing_ok=True)
        if error is not None and not isinstance(error, SwarmError):
            error = SwarmError("stream", found=said(error))
        await run.end(error)

    def _stream(self, run: StreamRun, kept: StreamOrder, ledger: StreamLedger, source: Source) -> Stream:
        parts = StreamParts(
            kept=kept,
            run=run,
            ledger=ledger,
            home=self._home,
            learner=self._learner,
            knowledge=self._knowledge,
            threads=self._threads,
            clock=self._clock,
        )
        return Stream(parts=parts, source=source)


def _taken(home: NodeHome) -> int:
    """Return how many mega-batches the node has taken, 0 where its ledger cannot be read."""
    try:
        return StreamLedger(home.state / LEDGER_FILE).last
    except (SwarmError, OSError):
        return 0


def _is_its_own(source: Source | None, error: Exception) -> bool:
    """Say whether it is the source that cannot be, as its name or its code says."""
    return (
        source is not None and source.error is error and isinstance(error, (InvalidInputError, NotFoundError))
    )


def _is_a_bug(error: Exception) -> bool:
    return not isinstance(error, (SwarmError, OSError))
