"""What became of every mega-batch: `state/stream.jsonl`, one line for each thing that happened.

A mega-batch is taken (its samples are split and kept), and later recorded (it waited, or was learned with the
ones before). Each is counted once by its content; a line that a crash cut short counts as not written.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from node.durable import sync_folder
from swarm.domain.errors import SwarmError, VerificationError
from swarm.domain.streams import MegaBatchRecord

LEDGER_FILE = "stream.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A mega-batch that was taken: the source that it was loaded from, and what was found before learning it.

    `held_out` of the `samples` went to validation. `error_before` is that of this node's experts on these
    alone (None: nobody could answer yet, or none was held out); `error` likewise on what `measured_on` names,
    `judged` samples.
    `novel` of `fresh` training samples lie beyond what is known, by the prototypes of `novelty_by`.
    """

    number: int
    file: str
    signature: str
    digest: str
    samples: int
    held_out: int
    error_before: float | None
    error: float
    judged: int
    measured_on: str
    fresh: int
    novel: int
    novelty_by: str
    flops_forward: int
    flops_total: int
    seconds: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """How a mega-batch ended. `learned` are the numbers that were learned then (none: it waits).

    is_refused: what was learned is on the node, but registry or gate refused it for good; `note` says why.
    """

    record: MegaBatchRecord
    learned: tuple[int, ...]
    measured_on: str
    judged: int
    experts: tuple[str, ...]
    gate_version: int
    note: str = ""
    is_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Mega-batches, one after the other, whose errors were measured on the same: those alone sum up."""

    measured_on: str
    recorded: tuple[Recorded, ...]

    @property
    def cer(self) -> float:
        """The sum of the stretch's errors, 0 to as many as it has."""
        return math.fsum(one.record.error for one in self.recorded)

    @property
    def first(self) -> int:
        return self.recorded[0].record.number

    @property
    def last(self) -> int:
        return self.recorded[-1].record.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry that was not taken, and why."""

    file: str
    signature: str
    reason: str
    at: float


class StreamLedger:
    """Reads and adds to the ledger; every line is on disk before the method returns. One process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.taken: dict[int, Taken] = {}
        self.recorded: dict[int, Recorded] = {}
        self.skipped: list[Skipped] = []
        self._left_out: dict[str, Skipped] = {}
        self._known: set[tuple[str, str]] = set()
        self._numbers: dict[str, int] = {}
        self._whole = 0
        """Bytes of whole lines."""
        if path.exists():
            self._load()

    @property
    def last(self) -> int:
        """The number of the newest mega-batch, 0 before the first."""
        return max(self.taken, default=0)

    @property
    def waiting(self) -> tuple[int, ...]:
        """The mega-batches that were taken and not learned yet."""
        learned = {number for one in self.recorded.values() for number in one.learned}
        return tuple(number for number in sorted(self.taken) if number not in learned)

    @property
    def records(self) -> list[MegaBatchRecord]:
        """The records so far, mega-batch by mega-batch."""
        return [self.recorded[number].record for number in sorted(self.recorded)]

    @property
    def stretches(self) -> list[Stretch]:
        """The records so far, parted wherever another data set began to be measured on."""
        in_order = [self.recorded[number] for number in sorted(self.recorded)]
        return [
            Stretch(measured_on=measured_on, recorded=tuple(recorded))
            for measured_on, recorded in itertools.groupby(in_order, lambda one: one.measured_on)
        ]

    def trainings(self, first: int) -> list[Recorded]:
        """Return what was learned with mega-batch `first` and those after it, training by training."""
        return [one for number, one in sorted(self.recorded.items()) if number >= first and one.learned]

    @property
    def left_out(self) -> list[Skipped]:
        """What is not taken as it is now: the newest reason for each entry, unless it was taken since."""
        return list(self._left_out.values())

    def knows(self, file: str, signature: str) -> bool:
        """Say whether an entry was taken or skipped as it is now."""
        return (file, signature) in self._known

    def number_of(self, digest: str) -> int:
        """Return the number under which the same content was taken, 0 for none."""
        return self._numbers.get(digest, 0)

    def note_taken(self, taken: Taken) -> None:
        """Keep that a mega-batch was taken; from now on it counts. Noting it again changes nothing."""
        if taken.number not in self.taken:
            self._add({"kind": "taken", **asdict(taken)})
            self._put_taken(taken)

    def note_recorded(self, recorded: Recorded) -> None:
        """Keep how a mega-batch ended. A later line about the same one replaces it: it waited, and was
        learned when the stream ended."""
        self._add({"kind": "recorded", **asdict(recorded)})
        self.recorded[recorded.record.number] = recorded

    def note_skipped(self, skipped: Skipped) -> None:
        """Keep that an entry was not taken."""
        self._add({"kind": "skipped", **asdict(skipped)})
        self._put_skipped(skipped)

    def _add(self, fields: Mapping[str, Any]) -> None:
        line = (json.dumps(fields, allow_nan=False) + "\n").encode()
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.seek(self._whole)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._whole += len(line)
        if is_new:
            sync_folder(self._path.parent)

    def _load(self) -> None:
        data = self._path.read_bytes()
        self._whole = data.rfind(b"\n") + 1
        try:
            for line in data[: self._whole].splitlines():
                self._take_in(json.loads(line))
        except (ValueError, TypeError, KeyError, SwarmError) as error:
            raise VerificationError(
                str(self._path),
                found=f"a line that cannot be read ({error})",
                expected="one JSON object a line, as the stream writes them",
                remedy="restore the file from a copy; without it a stream would count its mega-batches again",
            ) from error

    def _take_in(self, fields: dict[str, Any]) -> None:
        kind = fields.pop("kind")
        if kind == "taken":
            self._put_taken(Taken(**fields))
        elif kind == "recorded":
            record = MegaBatchRecord(**fields.pop("record"))
            learned, experts = tuple(fields.pop("learned")), tuple(fields.pop("experts"))
            self.recorded[record.number] = Recorded(record=record, learned=learned, experts=experts, **fields)
        else:
            self._put_skipped(Skipped(**fields))

    def _put_taken(self, taken: Taken) -> None:
        self.taken[taken.number] = taken
        self._left_out.pop(taken.file, None)
        self._known.add((taken.file, taken.signature))
        self._numbers[taken.digest] = taken.number

    def _put_skipped(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        self._left_out.pop(skipped.file, None)
        self._left_out[skipped.file] = skipped
        self._known.add((skipped.file, skipped.signature))
