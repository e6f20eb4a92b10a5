"""Taking what arrives: each mega-batch once, none given up for what is not its own fault."""

import asyncio
import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from node.durable import link_durably
from node.held_out import link_validation
from node.jobs import VALIDATION_FILE
from node.stream.ledger import Skipped, Taken
from node.stream.novelty import FRESH_FILE, NOVEL_FILE, drop_added
from node.stream.parts import StreamParts
from node.stream.sources import Source
from node.stream.taking import HELD_OUT_FILE, BadMegaBatchError, Intake, IntakeJob, carried_out
from node.stream.trouble import Failure, Patience, Trouble, in_words, said
from node.stream.watching import Arrival, content_digest, signature_of

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrivals:
    """Takes what a source brings, one at a time."""

    parts: StreamParts
    source: Source
    patience: Patience = field(default_factory=Patience)

    async def take(self, arrival: Arrival) -> None:
        """Take one mega-batch, or note why it is none; what only the machine kept from it is tried again.

        Raises OSError where what was taken cannot be laid down; `settle` does so later.
        """
        try:
            is_taken = await self._is_taken(arrival)
        except Exception as error:  # no file, whatever is the matter with it, may end the stream
            await self._failed(arrival, error)
            return
        if is_taken:
            self.patience.note_success(arrival)
            self.parts.run.trouble = None
            self.settle()
            self.source.note_taken(arrival)
        else:
            self.patience.forget(arrival)

    async def skip(self, arrival: Arrival, reason: str) -> None:
        """Note why an entry is no mega-batch; it is looked at again when it changes."""
        self._note(str(arrival.path), arrival.signature, reason)
        await self.parts.tell(f"{_name(arrival)} is skipped: {reason}", "skipped")

    async def note_refused(self) -> None:
        """Note what the source itself refused."""
        for name, reason in self.source.refused():
            self._note(name, "", reason)
            await self.parts.tell(f"{name} is skipped: {reason}", "skipped")

    def settle(self) -> None:
        """Bring home what the ledger's mega-batches laid down, and forget what it does not have."""
        parts, ledger, state = self.parts, self.parts.ledger, self.parts.home.state
        for folder in sorted((parts.folder / "taking").glob("*")):
            number = next((t.number for t in ledger.taken.values() if t.digest[:16] == folder.name), 0)
            if number and (folder / Intake.FILE).exists():
                self._bring_validation(folder)
                for name in (NOVEL_FILE, FRESH_FILE):
                    link_durably(folder / name, state / name)
                drop_added(state)
                target = parts.waiting_folder(number)
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(folder, target)
            elif not (folder / Intake.FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (parts.folder / "waiting").glob("*"):
            if int(folder.name) not in ledger.waiting:
                shutil.rmtree(folder, ignore_errors=True)

    def _bring_validation(self, folder: Path) -> None:
        link_validation(
            folder / VALIDATION_FILE,
            self.parts.home.state / VALIDATION_FILE,
            own=folder / HELD_OUT_FILE,
            before=Intake.read(folder).added_to,
            seed=self.parts.kept.order.seed,
        )

    async def _is_taken(self, arrival: Arrival) -> bool:
        """Take one; return whether it counts now. Raises what is not the samples' fault."""
        parts, ledger = self.parts, self.parts.ledger
        digest = await asyncio.to_thread(content_digest, arrival.path)
        if number := ledger.number_of(digest):
            await self.skip(arrival, f"the same as mega-batch {number}")
            self.source.note_taken(arrival)
            return False
        folder = parts.folder / "taking" / digest[:16]
        number = ledger.last + 1
        await parts.tell(f"taking mega-batch {number}: {_name(arrival)}")
        if (folder / Intake.FILE).exists() and IntakeJob.read(folder).number != number:
            shutil.rmtree(folder, ignore_errors=True)
        job = await parts.job(number, str(arrival.path))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            intake = await carried_out(job, folder, parts.log)
        except BadMegaBatchError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if signature_of(arrival.path) == arrival.signature:
                await self.skip(arrival, str(error))
                self.source.note_taken(arrival)
            return False
        if signature_of(arrival.path) != arrival.signature:
            shutil.rmtree(folder, ignore_errors=True)  # written to meanwhile: it is looked at again
            return False
        ledger.note_taken(
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
                at=parts.clock(),
            )
        )
        return True

    async def _failed(self, arrival: Arrival, error: Exception) -> None:
        """Let a mega-batch wait that could not be taken through no fault of its samples."""
        if signature_of(arrival.path) != arrival.signature:
            self.patience.forget(arrival)
            return
        failure = self.patience.note_failure(arrival)
        told = f"{_told(failure)}: {said(error)}"
        _log.warning("stream.not_taken", file=str(arrival.path), times=failure.times, because=said(error))
        if not failure.is_aside:
            self.parts.run.trouble = Trouble.of(error, f"{_name(arrival)} {told}")
            await self.parts.tell(f"{_name(arrival)} {told}", "trouble")
            return
        self.parts.run.trouble = None
        if failure.is_first:
            reason = f"put aside: {told}, or when the agent starts"
            try:
                self._note(str(arrival.path), "", reason)
            except OSError as trouble:
                _log.warning("stream.not_noted", because=str(trouble))
            self.source.note_aside(arrival)
            await self.parts.tell(f"{_name(arrival)} is skipped: {reason}", "skipped")

    def _note(self, file: str, signature: str, reason: str) -> None:
        self.parts.ledger.note_skipped(
            Skipped(file=file, signature=signature, reason=reason, at=self.parts.clock())
        )


def _move(folder: Path, target: Path) -> None:
    """Rename a folder; where the target is on another disk, copy it whole first."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.parent.with_name(".moving")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder, beside)
        os.sync()
        beside.rename(target)
        shutil.rmtree(folder, ignore_errors=True)


def _told(failure: Failure) -> str:
    often = "once" if failure.times == 1 else f"{failure.times} times in {in_words(failure.within_s)}"
    return f"could not be taken, {often}, and is tried again in {in_words(failure.again_s)}"


def _name(arrival: Arrival) -> str:
    return arrival.path.name.encode(errors="replace").decode()
