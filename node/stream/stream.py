"""One stream under way: take what arrives, learn every so many, record each mega-batch once.

Every step can be repeated after a crash: a mega-batch counts from the moment in which the ledger has it, and
what follows from that is done again until it is done.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.durable import link_durably
from node.jobs import VALIDATION_FILE, WAITING_FILE
from node.stream.following import StreamRun
from node.stream.ledger import Recorded, Skipped, StreamLedger, Taken
from node.stream.novelty import FRESH_FILE, NOVEL_FILE, drop_added
from node.stream.ports import HaltedError, Knowledge, Learner, StreamOrder
from node.stream.sources import Source
from node.stream.taking import (
    TRAINING_FILE,
    Answering,
    BadMegaBatchError,
    Intake,
    IntakeJob,
    carried_out,
    parameters_of,
)
from node.stream.watching import Arrival, content_digest, signature_of
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.errors import SwarmError
from swarm.domain.streams import MegaBatchRecord, cumulative_error

_LOOK_AGAIN_S = 0.5
_TRY_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """One stream under way."""

    kept: StreamOrder
    run: StreamRun
    ledger: StreamLedger
    source: Source
    home: NodeHome
    learner: Learner
    knowledge: Knowledge
    threads: int
    clock: Callable[[], float]

    @property
    def _folder(self) -> Path:
        return self.home.state / "stream"

    async def go(self) -> None:
        """Take, learn and record until the stream ends."""
        options = self.kept.options
        self._settle()
        await self.source.start()
        quiet_since = time.monotonic()
        try:
            await self.run.tell("stream", f"watching {self.kept.order.data}")
            while True:
                await self._catch_up()
                if options.most and self.ledger.last - self.kept.first + 1 >= options.most:
                    break
                # What was there before its source said that it had ended was all.
                has_ended = self.source.has_ended
                arrived = await self.source.look(self.ledger.knows)
                self._note_refused()
                if arrived:
                    await self._take(arrived[0])
                    quiet_since = time.monotonic()
                elif has_ended or 0 < options.idle_s <= time.monotonic() - quiet_since:
                    break
                else:
                    await asyncio.sleep(_LOOK_AGAIN_S)
        finally:
            await self.source.stop()
        if self.ledger.waiting:
            await self._learn_and_record(self.ledger.last)
        if self.source.error is not None:
            raise self.source.error
        taken = self.ledger.last - self.kept.first + 1
        error = (
            f"CER {cumulative_error(self.ledger.records):.3f}" if self.ledger.records else "nothing learned"
        )
        message = f"the stream has ended after {taken} mega-batches; {error}"
        await self.run.tell("done", message, 1.0)

    async def _catch_up(self) -> None:
        """Record the newest mega-batch if that was not done yet, after learning where it is time to."""
        last, options = self.ledger.last, self.kept.options
        if not last or last in self.ledger.recorded:
            return
        is_last = options.most > 0 and last - self.kept.first + 1 >= options.most
        if is_last or len(self.ledger.waiting) >= options.wait:
            await self._learn_and_record(last)
        else:
            taken = self.ledger.taken[last]
            answering = self.learner.answering()
            self._record(last, taken.error, taken.judged, (), (0.0, 0.0, 0.0), answering, "")
            waits = f"{len(self.ledger.waiting)} of {options.wait} mega-batches wait; the old experts answer"
            await self.run.tell(
                "stream", f"mega-batch {last}: error {taken.error:.4f}; {waits}", self._done()
            )

    async def _take(self, arrival: Arrival) -> None:
        """Take one mega-batch, or note why it is none."""
        if arrival.fault:
            await self._skip(arrival, arrival.fault)
            return
        digest = await asyncio.to_thread(content_digest, arrival.path)
        if number := self.ledger.number_of(digest):
            await self._skip(arrival, f"the same as mega-batch {number}")
            self.source.note_taken(arrival)
            return
        folder = self._folder / "taking" / digest[:16]
        number = self.ledger.last + 1
        await self.run.tell("stream", f"taking mega-batch {number}: {arrival.path.name}", self._done())
        if (folder / Intake.FILE).exists() and IntakeJob.read(folder).number != number:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            job = await self._job(number, str(arrival.path))
        except SwarmError as error:
            await self.run.tell("stream", f"mega-batch {number} has to wait: {error}", self._done())
            await asyncio.sleep(_TRY_AGAIN_S)
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            intake = await carried_out(job, folder, self.home.run / "stream.log")
        except BadMegaBatchError as error:
            shutil.rmtree(folder, ignore_errors=True)
            await self._skip(arrival, str(error))
            self.source.note_taken(arrival)
            return
        if signature_of(arrival.path) != arrival.signature:
            shutil.rmtree(folder, ignore_errors=True)  # written to meanwhile: it is looked at again
            return
        self.ledger.note_taken(
            Taken(
                number=number,
                file=str(arrival.path),
                signature=arrival.signature,
                digest=digest,
                samples=intake.samples,
                held_out=intake.held_out,
                error_before=intake.error_before,
                error=intake.error,
                judged=intake.judged,
                measured_on=intake.measured_on,
                fresh=intake.fresh,
                novel=intake.novel,
                novelty_by=intake.novelty_by,
                flops_forward=intake.flops_forward,
                flops_total=intake.flops_total,
                seconds=intake.seconds,
                at=self.clock(),
            )
        )
        self._settle()
        self.source.note_taken(arrival)

    def _settle(self) -> None:
        """Bring home what the ledger's mega-batches laid down, and forget what it does not have."""
        for folder in sorted((self._folder / "taking").glob("*")):
            number = next((t.number for t in self.ledger.taken.values() if t.digest[:16] == folder.name), 0)
            if number and (folder / Intake.FILE).exists():
                for name in (VALIDATION_FILE, NOVEL_FILE, FRESH_FILE):
                    link_durably(folder / name, self.home.state / name)
                drop_added(self.home.state)
                target = self._waiting_folder(number)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
            elif not (folder / Intake.FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self._folder / "waiting").glob("*"):
            if int(folder.name) not in self.ledger.waiting:
                shutil.rmtree(folder, ignore_errors=True)

    async def _learn_and_record(self, last: int) -> None:
        """Learn all that waits, measure, and record it with the mega-batch `last`."""
        numbers = self.ledger.waiting
        started = time.monotonic()
        figures, note = await self._learn(numbers)
        answering = self.learner.answering()
        taken = self.ledger.taken[last]
        error, judged = taken.error, taken.judged
        if figures is not None:
            folder = self._folder / "judging"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                job = replace(await self._job(last, taken.file), judge_only=True)
                found = await carried_out(job, folder, self.home.run / "stream.log")
                error, judged = found.error, found.judged
            except SwarmError as trouble:
                note = f"{note}; error not measured: {trouble}".removeprefix("; ")
        costs = (0.0, 0.0, 0.0)
        if figures is not None:
            seconds = time.monotonic() - started
            costs = (figures.get("forward_flops", 0.0), figures.get("train_flops", 0.0), seconds)
        learned = numbers if figures is not None else ()
        self._record(last, error, judged, learned, costs, answering, note)
        self._settle()
        what = f"learned {len(numbers)} mega-batches" if learned else f"not learned: {note}"
        await self.run.tell("stream", f"mega-batch {last}: error {error:.4f}; {what}", self._done())

    async def _learn(self, numbers: Sequence[int]) -> tuple[dict[str, float] | None, str]:
        """Learn mega-batches; return the figures of the job (None: not learned) and what went wrong."""
        order = self.kept.order
        digests = "".join(self.ledger.taken[number].digest for number in numbers)
        key = f"stream-{digest_of(digests.encode())[:24]}"
        files = [self._waiting_folder(number) / TRAINING_FILE for number in numbers]
        files += [path for path in (self._folder / WAITING_FILE,) if path.exists()]
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
        while self.learner.is_busy_besides(key):  # noqa: ASYNC110 - it ends when a person's order does
            await asyncio.sleep(_LOOK_AGAIN_S)
        figures: dict[str, float] = {}
        try:
            async for step in self.learner.train(job):
                if step.stage == "done":
                    figures = dict(step.figures)
                else:
                    await self.run.add(replace(step, message=f"{named}: {step.message}"))
        except SwarmError as error:
            # What is laid down is in the book, and must not be learned again, whatever became of it since.
            match self.learner.progress_of(key):
                case "laid down":
                    return {}, str(error)
                case "nothing":
                    return None, str(error)
                case "learned":
                    raise HaltedError(
                        f"stream, {named}",
                        found=f"learned, but not laid down: {error}",
                        expected="room on the disk, and files that can be written",
                        remedy="mend that and start the agent again, which goes on there",
                    ) from error
        return figures, ""

    def _record(
        self,
        number: int,
        error: float,
        judged: int,
        learned: Sequence[int],
        costs: tuple[float, float, float],
        answering: Sequence[Answering],
        note: str,
    ) -> None:
        taken = self.ledger.taken[number]
        forward, total, seconds = costs
        record = MegaBatchRecord(
            number=number,
            samples=taken.samples,
            error=error,
            waited=not learned,
            parameters=parameters_of([one.manifest for one in answering]),
            flops_forward=int(min(forward, total)) + taken.flops_forward,
            flops_total=int(total) + taken.flops_total,
            seconds=seconds + taken.seconds,
        )
        self.ledger.note_recorded(
            Recorded(
                record=record,
                learned=tuple(learned),
                measured_on=taken.measured_on,
                judged=judged,
                experts=tuple(f"{one.manifest.expert}@{one.manifest.version}" for one in answering),
                gate_version=self.knowledge.gate_version,
                note=note,
            )
        )

    async def _job(self, number: int, source: str) -> IntakeJob:
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

    async def _skip(self, arrival: Arrival, reason: str) -> None:
        self.ledger.note_skipped(
            Skipped(file=str(arrival.path), signature=arrival.signature, reason=reason, at=self.clock())
        )
        await self.run.tell("stream", f"{arrival.path.name} is skipped: {reason}", self._done())

    def _note_refused(self) -> None:
        for name, reason in self.source.refused():
            self.ledger.note_skipped(Skipped(file=name, signature="", reason=reason, at=self.clock()))

    def _waiting_folder(self, number: int) -> Path:
        return self._folder / "waiting" / f"{number:06d}"

    def _done(self) -> float:
        most = self.kept.options.most
        return min(1.0, (self.ledger.last - self.kept.first + 1) / most) if most else 0.0
