"""Who counts on which blobs: what a publish in flight was told is here stays until it is committed.

A claim begins when the registry answers that a blob is here, or takes one in, and ends with the commit of a
manifest that has the blob, or after a day. Claims are counted: two publishes in flight over one blob are two,
and one that asked or sent twice may leave one behind, which then lasts its day.
They are in a journal, so a restart forgets none; what a crash of the machine loses of it costs a publish that
is refused by name and sent again, never a committed manifest.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from swarm.domain.ids import Digest

CLAIM_S: Final = 86_400.0
STORED_S: Final = 7 * 86_400.0
"""So long after its claim ran out an upload is known as its sender's: it may be here yet."""

_COMPACT_FROM_BYTES: Final = 1 << 20
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Claim:
    count: int = 0
    until: float = 0.0
    is_stored: bool = False
    held: int = 0
    """How many of them last for a call only."""


@dataclass(slots=True)
class _Claimed:
    by: dict[str, _Claim] = field(default_factory=dict)


class Claims:
    """Claims by blob and claimant. `journal` None: in memory only. Not for several threads at once."""

    def __init__(
        self, journal: Path | None = None, *, lasts_s: float = CLAIM_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._journal, self._lasts_s, self._clock = journal, lasts_s, clock
        self._claimed: dict[Digest, _Claimed] = defaultdict(_Claimed)
        self._watching: list[set[Digest]] = []
        self._compacted_bytes = self._appended_bytes = 0
        self._is_torn = False
        """Whether a write that failed may have left half a line at the journal's end."""
        if journal is not None and journal.exists():
            self._read(journal)

    def claim(self, who: str, blobs: Iterable[Digest]) -> None:
        """Let these blobs stay for `who`. Once more is one claim more: nobody can tell a publish that asks
        again from a second one."""
        self._change(who, tuple(blobs), 1, self._clock() + self._lasts_s, False)

    def note_stored(self, who: str, blob: Digest) -> None:
        """Note that `who`, who claims this blob, has sent its bytes, and that they were right."""
        self._change(who, (blob,), 0, self._clock() + self._lasts_s, True)

    def release(self, who: str, blobs: Iterable[Digest]) -> None:
        """End one claim of `who` on each of these blobs; nothing happens where it has none."""
        self._change(who, tuple(blobs), -1, 0.0, False)

    def hold(self, who: str, blobs: Iterable[Digest]) -> None:
        """Let these blobs stay during a call: as `claim`, but a restart ends it."""
        self._change(who, tuple(blobs), 1, self._clock() + self._lasts_s, False, is_kept=False)

    def let_go(self, who: str, blobs: Iterable[Digest]) -> None:
        """End what `hold` began."""
        self._change(who, tuple(blobs), -1, 0.0, False, is_kept=False)

    def is_claimed(self, blob: Digest) -> bool:
        """Say whether anybody counts on this blob now."""
        now = self._clock()
        return blob in self._claimed and any(each.until > now for each in self._claimed[blob].by.values())

    def claimants(self, blob: Digest) -> set[str]:
        """Return who counts on this blob now."""
        now = self._clock()
        claimed = self._claimed[blob].by if blob in self._claimed else {}
        return {who for who, claim in claimed.items() if claim.until > now}

    def stored_by(self, who: str) -> set[Digest]:
        """Return the blobs that `who` has sent and not committed yet, if their claims ran out, too."""
        now = self._clock()
        return {
            blob
            for blob, claimed in self._claimed.items()
            if (claim := claimed.by.get(who)) is not None and claim.is_stored and claim.until + STORED_S > now
        }

    def has_stored(self, who: str, blob: Digest) -> bool:
        """Say whether `who` has sent a blob and not committed it yet."""
        claim = self._claimed[blob].by.get(who) if blob in self._claimed else None
        return claim is not None and claim.is_stored and claim.until > self._clock()

    @contextmanager
    def watching(self) -> Iterator[set[Digest]]:
        """Yield a set that has, while the context lasts, every blob that was claimed at any moment of it."""
        seen = {blob for blob in self._claimed if self.is_claimed(blob)}
        self._watching.append(seen)
        try:
            yield seen
        finally:
            self._watching = [each for each in self._watching if each is not seen]

    def compact(self) -> None:
        """Forget the claims that ran out, uploads a week later, and write the journal anew. One that the disk
        does not take stays as it is: it says the same, at greater length."""
        now = self._clock()
        for blob in list(self._claimed):
            for claim in self._claimed[blob].by.values():
                # None lasts longer; what says so was made while the clock was wrong.
                claim.until = min(claim.until, now + self._lasts_s)
            self._claimed[blob].by = {
                who: claim
                for who, claim in self._claimed[blob].by.items()
                if claim.until + (STORED_S if claim.is_stored else 0.0) > now
            }
            if not self._claimed[blob].by:
                del self._claimed[blob]
        if self._journal is None:
            return
        rows = [
            _row(who, [blob], claim.count - claim.held, claim.until, claim.is_stored)
            for blob, claimed in self._claimed.items()
            for who, claim in claimed.by.items()
            if claim.count > claim.held
        ]
        beside = self._journal.with_suffix(".new")
        self._appended_bytes = 0
        try:
            self._compacted_bytes = beside.write_text("".join(rows))
            beside.replace(self._journal)
        except OSError as error:
            _log.warning("claims.not_compacted", reason=str(error))
            with suppress(OSError):
                beside.unlink()
        else:
            self._is_torn = False

    def _change(
        self,
        who: str,
        blobs: tuple[Digest, ...],
        by: int,
        until: float,
        is_stored: bool,
        *,
        is_kept: bool = True,
    ) -> None:
        if by < 0:
            blobs = tuple(blob for blob in blobs if blob in self._claimed and who in self._claimed[blob].by)
        if not blobs:
            return
        self._apply(who, blobs, by, until, is_stored, held=0 if is_kept else by)
        for seen in self._watching:
            seen.update(blobs)
        if self._journal is not None and is_kept:
            try:
                with self._journal.open("a") as file:
                    row = _row(who, blobs, by, until, is_stored)
                    self._appended_bytes += file.write("\n" + row if self._is_torn else row)
                self._is_torn = False
                if self._appended_bytes > max(_COMPACT_FROM_BYTES, self._compacted_bytes):
                    self.compact()
            except OSError as error:  # a full disk; what is in memory holds until a restart
                self._is_torn = True
                _log.warning("claims.not_written", reason=str(error))

    def _apply(
        self, who: str, blobs: Iterable[Digest], by: int, until: float, is_stored: bool, held: int = 0
    ) -> None:
        for blob in blobs:
            claim = self._claimed[blob].by.setdefault(who, _Claim())
            claim.count += by
            claim.held += held
            claim.until = max(claim.until, until)
            claim.is_stored = claim.is_stored or is_stored
            if claim.count <= 0:
                del self._claimed[blob].by[who]
                if not self._claimed[blob].by:
                    del self._claimed[blob]

    def _read(self, journal: Path) -> None:
        for line in filter(None, journal.read_text(errors="replace").splitlines()):
            try:
                row = json.loads(line)
                blobs = [Digest(blob) for blob in row["blobs"]]
                self._apply(str(row["who"]), blobs, int(row["by"]), float(row["until"]), bool(row["stored"]))
            except (ValueError, KeyError, TypeError):  # cut by a kill in the middle of a line
                _log.warning("claims.unreadable", line=line[:80])
        self.compact()


def _row(who: str, blobs: Sequence[Digest], by: int, until: float, is_stored: bool) -> str:
    row = {"who": who, "blobs": list(blobs), "by": by, "until": until, "stored": is_stored}
    return json.dumps(row) + "\n"
