"""One stream under way: take what arrives, learn every so many, record each mega-batch once.

Every step can be repeated after a crash: a mega-batch counts from the moment in which the ledger has it, and
what follows from that is done again until it is done. A full disk makes it wait, not end.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from node.stream.arriving import Arrivals
from node.stream.learning import LOOK_AGAIN_S, MegaBatchLearning
from node.stream.ledger import Recorded
from node.stream.parts import StreamParts
from node.stream.sources import Source
from node.stream.trouble import Trouble, in_words, pause_s, said
from swarm.domain.errors import ConflictError

_log = structlog.get_logger(__name__)


def refusals_told(trainings: Sequence[Recorded]) -> str:
    """Return how many of a stream's trainings were refused and why the newest of them was; empty if none."""
    refused = [one for one in trainings if one.is_refused]
    return (
        f"{len(refused)} of {len(trainings)} trainings refused, the last: {refused[-1].note}"
        if refused
        else ""
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """One stream under way."""

    parts: StreamParts
    source: Source
    _arrivals: Arrivals = field(init=False)
    _learning: MegaBatchLearning = field(init=False)
    _quiet_since: float = field(init=False, default=0.0)
    _failures: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._arrivals = Arrivals(parts=self.parts, source=self.source)
        self._learning = MegaBatchLearning(parts=self.parts, settle=self._arrivals.settle)

    async def go(self) -> None:
        """Take, learn and record until the stream ends. Raises why its source ended before its end, and
        HaltedError where a result could not be laid down."""
        parts = self.parts
        await self.source.start()
        self._quiet_since = time.monotonic()
        try:
            await parts.tell(f"watching {parts.kept.order.data}")
            while await self._waited_out():
                pass
        finally:
            await self.source.stop()
        if self.source.error is not None:
            raise self.source.error
        stretches = parts.ledger.stretches
        error = (
            f"CER {stretches[-1].cer:.3f} over mega-batches {stretches[-1].first} to {stretches[-1].last}"
            if stretches
            else "nothing learned"
        )
        message = f"the stream has ended after {parts.count} mega-batches; {error}"
        if refused := refusals_told(parts.ledger.trainings(parts.kept.first)):
            message += f"; {refused}"
        await parts.run.tell("done", message, 1.0)

    @property
    def refusal(self) -> ConflictError | None:
        """Why nobody has what the stream learned last, None where they have or may have it yet."""
        trainings = self.parts.ledger.trainings(self.parts.kept.first)
        if not trainings or not trainings[-1].is_refused:
            return None
        return ConflictError(
            f"stream, mega-batch {trainings[-1].record.number}",
            found=refusals_told(trainings),
            expected="what was learned last in the registry and in the gate",
            remedy="see each: swarm stream report",
        )

    async def _waited_out(self) -> bool:
        """Go on to the end; return True where the machine failed meanwhile, after a while."""
        try:
            self._arrivals.settle()
            while not await self._is_over():
                self._failures = 0
            if self.parts.ledger.waiting and self.source.error is None:
                await self._learning.learn_and_record(self.parts.ledger.last)
        except (OSError, MemoryError) as error:
            self._failures += 1
            pause = pause_s(self._failures)
            told = f"the stream waits and goes on in {in_words(pause)}: {said(error)}"
            _log.warning("stream.waits", because=said(error))
            self.parts.run.trouble = Trouble.of(error, told)
            await self.parts.tell(told, "trouble")
            await asyncio.sleep(pause)
            return True
        return False

    async def _is_over(self) -> bool:
        """Take one step; return whether nothing more is to come."""
        parts, arrivals = self.parts, self._arrivals
        await self._learning.catch_up()
        if parts.has_all:
            return True
        # What was there before its source said that it had ended was all.
        has_ended = self.source.has_ended
        arrived = await self.source.look(parts.ledger.knows)
        await arrivals.note_refused()
        for arrival in arrived:
            if arrival.fault:
                await arrivals.skip(arrival, arrival.fault)
        complete = [arrival for arrival in arrived if not arrival.fault]
        chosen = arrivals.patience.chosen(complete)
        if chosen is not None:
            await arrivals.take(chosen)
            self._quiet_since = time.monotonic()
            return False
        if not arrivals.patience.is_waiting(complete):
            parts.run.trouble = self.source.trouble
            idle_s = 0.0 if self.source.trouble else parts.kept.options.idle_s
            if has_ended or 0 < idle_s <= time.monotonic() - self._quiet_since:
                return True
        await asyncio.sleep(LOOK_AGAIN_S)
        return False
