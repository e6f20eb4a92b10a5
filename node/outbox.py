"""What this node means to deliver: one file per intent, kept until its recipient has acknowledged it.

An intent carries its idempotency key, so a delivery repeated after a crash or a lost answer acts once.
Files: `<number>-<kind>.json`, with `<number>-<kind>.bin` for a contribution's arrays (written first);
`refused/` keeps what a recipient will never accept, with its reason: the newest of it.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from node.durable import link_durably, sweep_unfinished, sync_folder, write_json
from swarm.fault_points import reached

Kind = Literal["publish", "contribute"]
KEPT_REFUSED, KEPT_ARRAYS = 200, 8
"""So many of the newest refusals are kept, and the arrays of so many: a node that grows for years is refused
more, and arrays are megabytes."""
_log = structlog.get_logger(__name__)
_NAME = re.compile(r"(\d{9})-(publish|contribute)\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One thing to deliver. `subject` names it for people; `envelope` is the signed statement.

    `refreshed` says that the statement was already signed again on a newer head.
    """

    number: int
    kind: Kind
    key: str
    subject: str
    envelope: bytes
    refreshed: bool = False

    @property
    def name(self) -> str:
        return f"{self.number:09d}-{self.kind}"


class Outbox:
    """Durable intents in the order in which they were put. One process writes; others may look."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._last = 0

    def sweep(self) -> None:
        """Remove what a killed writer left half-written; for the one writer alone, before it writes."""
        sweep_unfinished(self._folder)
        for stray in self._folder.glob("*.bin"):
            if not stray.with_suffix(".json").exists():
                stray.unlink()

    def put(
        self, kind: Kind, *, key: str, subject: str, envelope: bytes, arrays: Path | None = None
    ) -> Intent:
        """Keep one thing to deliver; the same key again returns the intent that is already there.

        arrays: a whole, fsynced file, of which the outbox takes a link.
        """
        pending = self.pending()
        for known in pending:
            if known.key == key:
                return known
        # A number is never used again while this process lives: waiters know intents by it.
        self._last = number = max([self._last, *(intent.number for intent in pending)]) + 1
        intent = Intent(number=number, kind=kind, key=key, subject=subject, envelope=envelope)
        if arrays is not None:
            link_durably(arrays, self._folder / f"{intent.name}.bin")
        reached("node.outbox.linked")
        self.rewrite(intent)
        reached("node.outbox.written")
        return intent

    def rewrite(self, intent: Intent) -> None:
        """Replace what is kept for this intent (a statement that was signed again)."""
        write_json(
            self._folder / f"{intent.name}.json", {**asdict(intent), "envelope": intent.envelope.decode()}
        )

    def pending(self) -> list[Intent]:
        """Return what is not acknowledged yet, oldest first."""
        found = []
        for path in sorted(p for p in self._folder.iterdir() if _NAME.fullmatch(p.name)):
            try:
                found.append(_read(path))
            except (ValueError, TypeError, KeyError) as error:
                self._set_aside(path, str(error))
        return found

    def __len__(self) -> int:
        return sum(1 for p in self._folder.iterdir() if _NAME.fullmatch(p.name))

    def arrays(self, intent: Intent) -> Path | None:
        """Return the file of the arrays that go with a contribution."""
        path = self._folder / f"{intent.name}.bin"
        return path if path.exists() else None

    def done(self, intent: Intent) -> None:
        """Forget an intent that its recipient has acknowledged (or that a newer one replaces)."""
        reached("node.outbox.before_done")
        (self._folder / f"{intent.name}.json").unlink(missing_ok=True)
        reached("node.outbox.done")
        (self._folder / f"{intent.name}.bin").unlink(missing_ok=True)
        sync_folder(self._folder)

    def drop(self, prefix: str) -> None:
        """Forget what waits under keys that begin with `prefix`: it was made for something that came to
        nothing."""
        for intent in self.pending():
            if intent.key.startswith(prefix):
                self.done(intent)

    def refuse(self, intent: Intent, reason: str) -> None:
        """Set aside what will never be accepted, with its reason; the work itself is kept."""
        refused = self._folder / "refused"
        stem = f"{intent.name}-{intent.key[:40].replace('/', '_')}"
        if (arrays := self.arrays(intent)) is not None:
            link_durably(arrays, refused / f"{stem}.bin")
        kept = {**asdict(intent), "envelope": intent.envelope.decode(), "reason": reason}
        write_json(refused / f"{stem}.json", kept)
        self._forget_old_ones(refused)
        self.done(intent)

    def keep(self, kind: Kind, *, key: str, subject: str, envelope: bytes, reason: str) -> None:
        """Set aside at once what would be refused: the work is kept, with the reason. Safe to repeat."""
        intent = Intent(number=0, kind=kind, key=key, subject=subject, envelope=envelope)
        self.refuse(intent, reason)

    @property
    def kept(self) -> int:
        """How many things were set aside, each with its reason: work that is not lost."""
        return sum(1 for _ in (self._folder / "refused").glob("*.json"))

    def refused(self) -> list[tuple[str, str]]:
        """Return (subject, reason) of everything that was set aside, oldest first."""
        kept = [json.loads(p.read_bytes()) for p in sorted((self._folder / "refused").glob("*.json"))]
        return [(str(one["subject"]), str(one["reason"])) for one in kept]

    def superseded(self, intent: Intent) -> bool:
        """Tell whether a newer contribution waits behind this one and replaces it entirely."""
        if intent.kind != "contribute":
            return False
        return any(other.kind == "contribute" and other.number > intent.number for other in self.pending())

    def _forget_old_ones(self, refused: Path) -> None:
        newest = sorted(refused.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in newest[:-KEPT_REFUSED]:
            path.unlink()
        kept = [bin for path in newest[-KEPT_REFUSED:] if (bin := path.with_suffix(".bin")).exists()]
        for bin in set(refused.glob("*.bin")).difference(kept[-KEPT_ARRAYS:]):
            bin.unlink()

    def _set_aside(self, path: Path, reason: str) -> None:
        """Move a file that the disk has damaged out of the way of the others."""
        damaged = self._folder / "refused" / f"{path.name}.damaged"
        damaged.parent.mkdir(exist_ok=True)
        path.rename(damaged)
        _log.error("outbox.damaged", file=str(damaged), reason=reason, remedy="train again: swarm train DATA")


def _read(path: Path) -> Intent:
    """Return the intent in a file; ValueError, TypeError or KeyError where it is none, or another file's."""
    fields = json.loads(path.read_bytes())
    intent = Intent(**{**fields, "envelope": str(fields["envelope"]).encode()})
    if f"{intent.name}.json" != path.name:
        raise ValueError(f"it says to be {intent.name[:40]}")
    return intent


def refreshed(intent: Intent, *, key: str, envelope: bytes) -> Intent:
    """Return the intent with a statement that was signed again, under a new key."""
    return replace(intent, key=key, envelope=envelope, refreshed=True)
