"""Learning the mega-batches that wait, and recording what each of them cost and brought, once."""

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.delivery import REFUSALS
from node.jobs import WAITING_FILE
from node.stream.ledger import Recorded, Taken
from node.stream.parts import StreamParts
from node.stream.ports import HaltedError
from node.stream.taking import TRAINING_FILE, Answering, Intake, carried_out, parameters_of
from swarm.digests import digest_of
from swarm.domain.errors import SwarmError
from swarm.domain.streams import MegaBatchRecord

LOOK_AGAIN_S = 0.5
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """What became of a job. `figures` None: nothing was learned. `is_refused`: it was, and registry or
    gate refused it for good. `seconds` is what learning took, without waiting for its turn."""

    figures: Mapping[str, float] | None
    note: str = ""
    is_refused: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MegaBatchLearning:
    """Learns and records. `settle` brings the ledger's mega-batches home and forgets what is learned."""

    parts: StreamParts
    settle: Callable[[], None] = field(repr=False)

    async def catch_up(self) -> None:
        """Record the newest mega-batch if that was not done yet, after learning where it is time to."""
        parts, ledger, wait = self.parts, self.parts.ledger, self.parts.kept.options.wait
        last = ledger.last
        if not last or last in ledger.recorded:
            return
        if parts.has_all or len(ledger.waiting) >= wait:
            await self.learn_and_record(last)
            return
        taken = ledger.taken[last]
        self._record(last, taken, (), _Learned(figures=None), parts.learner.answering())
        waits = f"{len(ledger.waiting)} of {wait} mega-batches wait; the old experts answer"
        await parts.tell(f"mega-batch {last}: error {taken.error:.4f}; {waits}")

    async def learn_and_record(self, last: int) -> None:
        """Learn all that waits, measure, and record it with the mega-batch `last`.

        Raises HaltedError for a result that could not be laid down, OSError for a record that could not.
        """
        parts = self.parts
        numbers = parts.ledger.waiting
        found = await self._learn(numbers)
        answering = parts.learner.answering()
        measured: Taken | Intake = parts.ledger.taken[last]
        if found.figures is not None:
            try:
                measured = await self._judged(last)
            except SwarmError as trouble:
                note = f"{found.note}; error not measured: {trouble}".removeprefix("; ")
                found = replace(found, note=note)
        learned = numbers if found.figures is not None else ()
        self._record(last, measured, learned, found, answering)
        self.settle()
        what = f"learned {len(numbers)} mega-batches" if learned else f"not learned: {found.note}"
        if learned and found.note:
            what += f", refused: {found.note}" if found.is_refused else f"; {found.note}"
        await parts.tell(f"mega-batch {last}: error {measured.error:.4f}; {what}")

    async def _judged(self, last: int) -> Intake:
        folder = self.parts.folder / "judging"
        job = replace(await self.parts.job(last, self.parts.ledger.taken[last].file), judge_only=True)
        for attempt in range(_ATTEMPTS):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                return await carried_out(job, folder, self.parts.log)
            except SwarmError:
                if attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError("one attempt returns or raises")

    async def _learn(self, numbers: Sequence[int]) -> _Learned:
        parts, order = self.parts, self.parts.kept.order
        digests = "".join(parts.ledger.taken[number].digest for number in numbers)
        key = f"stream-{digest_of(digests.encode())[:24]}"
        files = [parts.waiting_folder(number) / TRAINING_FILE for number in numbers]
        files += [path for path in (parts.folder / WAITING_FILE,) if path.exists()]
        named = (
            f"mega-batches {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"mega-batch {numbers[0]}"
        )
        job = replace(
            order,
            data=f"{order.data}, {named}",
            stream=None,
            gathered=tuple(map(str, files)),
            accumulate=True,
            idempotency_key=key,
        )
        while parts.learner.is_busy_besides(key):  # noqa: ASYNC110 - it ends when a person's order does
            await asyncio.sleep(LOOK_AGAIN_S)
        started = time.monotonic()
        figures: dict[str, float] = {}
        note = ""
        try:
            async for step in parts.learner.train(job):
                if step.stage == "done":
                    figures = dict(step.figures)
                    note = "" if figures.get("activated", 1.0) else f"not in the gate: {step.message}"
                else:
                    await parts.run.add(replace(step, message=f"{named}: {step.message}"))
        except SwarmError as error:
            # What is laid down is in the book, and must not be learned again, whatever became of it since.
            match parts.learner.progress_of(key):
                case "laid down":
                    return _Learned(
                        figures={},
                        note=str(error),
                        is_refused=isinstance(error, REFUSALS),
                        seconds=time.monotonic() - started,
                    )
                case "nothing":
                    return _Learned(figures=None, note=str(error))
                case "learned":
                    raise HaltedError(
                        f"stream, {named}",
                        found=f"learned, but not laid down: {error}",
                        expected="room on the disk, and files that can be written",
                        remedy="mend that; it is tried again by itself",
                    ) from error
        return _Learned(figures=figures, note=note, seconds=time.monotonic() - started)

    def _record(
        self,
        number: int,
        measured: Taken | Intake,
        learned: Sequence[int],
        found: _Learned,
        answering: Sequence[Answering],
    ) -> None:
        taken, figures = self.parts.ledger.taken[number], found.figures or {}
        forward, total = figures.get("forward_flops", 0.0), figures.get("train_flops", 0.0)
        record = MegaBatchRecord(
            number=number,
            samples=taken.samples,
            error=measured.error,
            waited=not learned,
            parameters=parameters_of([one.manifest for one in answering]),
            flops_forward=int(min(forward, total)) + taken.flops_forward,
            flops_total=int(total) + taken.flops_total,
            seconds=found.seconds + taken.seconds,
        )
        self.parts.ledger.note_recorded(
            Recorded(
                record=record,
                learned=tuple(learned),
                measured_on=measured.measured_on,
                judged=measured.judged,
                experts=tuple(f"{one.manifest.expert}@{one.manifest.version}" for one in answering),
                gate_version=self.parts.knowledge.gate_version,
                note=found.note,
                is_refused=found.is_refused,
            )
        )
