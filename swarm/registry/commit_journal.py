"""The registry's own record of what it acknowledged: each manifest and tombstone, synced before the answer.

Redis may lose its last second in a crash of the machine, or a cut append-only file may be repaired by
dropping its end. The journal is the witness: `swarm.registry.reconciling` compares both and puts back what
Redis lacks. One line for each statement, `{"kind", "name", "check", "envelope"}`, `check` is the envelope's
digest. `unshown` in the line of a commit has the blobs that its owner named without ever sending their
bytes, and then `check` is of both; another line of the same commit has fewer, once the owner sent some. A
line that a crash cut off was never acknowledged: it is dropped. Another damaged line is skipped and counted.
"""

import asyncio
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from swarm.digests import digest_of
from swarm.domain.errors import ExhaustedError, NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, ExpertId, NodeId, owner_of
from swarm.domain.manifests import Manifest
from swarm.fault_points import reached
from swarm.trust.statements import read_statement

Kind = Literal["commit", "withdraw"]
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MOST_UNDECIDED: Final = 10_000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One acknowledged statement: of a commit `name` is the manifest's digest, else what was withdrawn."""

    kind: Kind
    name: str
    envelope: bytes
    unshown: frozenset[Digest] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What one owner has in the journal."""

    manifests: int = 0
    size_bytes: int = 0


class CommitJournal:
    """Append-only. `path` None: in memory only. For one event loop; one process writes."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._kept: list[Entry] = []
        self._commits: set[Digest] = set()
        self._manifests: dict[Digest, Manifest] = {}
        self._order: list[Digest] = []
        self._unshown: dict[Digest, frozenset[Digest]] = {}
        self._expected: dict[Digest, list[frozenset[Digest]]] = {}
        self._undecided: dict[Digest, frozenset[Digest]] = {}
        self._withdrawn: set[str] = set()
        self._newest: dict[ExpertId, tuple[int, Digest]] = {}
        self._filled: dict[NodeId, Filled] = {}
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._size = 0
        self._left: int | None = 0
        """How many bytes this process left in the file; None where a failed write may have left any."""
        self.damaged = 0
        """How many whole lines could not be read."""
        if path is not None and path.exists():
            self._left = path.stat().st_size
            self._size = self._read(path)

    def has(self, manifest: Digest) -> bool:
        """Say whether the commit of this manifest is recorded."""
        return manifest in self._commits

    @property
    def commits(self) -> frozenset[Digest]:
        """The manifests whose commits are recorded."""
        return frozenset(self._commits)

    @property
    def count(self) -> int:
        """How many manifests' commits are recorded."""
        return len(self._commits)

    @property
    def withdrawn(self) -> frozenset[str]:
        """Experts and nodes whose withdrawal is recorded."""
        return frozenset(self._withdrawn)

    @property
    def manifests(self) -> Mapping[Digest, Manifest]:
        """The recorded manifests that could be read."""
        return self._manifests

    @property
    def order(self) -> Sequence[Digest]:
        """`manifests`, the oldest first. It only grows."""
        return self._order

    def unshown(self, manifest: Digest) -> frozenset[Digest]:
        """Return the blobs that a manifest names and that its owner has not sent."""
        if manifest in self._commits:
            return self._unshown.get(manifest, frozenset())
        return self._told(manifest) or frozenset()

    def is_withdrawn(self, expert: ExpertId) -> bool:
        """Say whether the withdrawal of an expert or of its owner is recorded."""
        return expert in self._withdrawn or owner_of(expert) in self._withdrawn

    def version_of(self, expert: ExpertId) -> int:
        """Return the newest acknowledged version of an expert, 0 if there is none or it was withdrawn."""
        if self.is_withdrawn(expert):
            return 0
        return self._newest[expert][0] if expert in self._newest else 0

    def filled_by(self, owner: NodeId) -> Filled:
        """Return how many manifests of an owner are recorded, and how large they are together."""
        return self._filled.get(owner, Filled())

    def newest(self, expert: ExpertId) -> Digest:
        """Return the manifest of the newest acknowledged version of an expert that has one."""
        return self._newest[expert][1]

    def knows(self, target: str) -> bool:
        """Say whether a version of an expert, or of any of a node's, was ever acknowledged."""
        return target in self._newest or any(owner_of(expert) == target for expert in self._newest)

    def experts(self) -> list[ExpertId]:
        """Return the experts that have an acknowledged version and were not withdrawn."""
        return [expert for expert in self._newest if self.version_of(expert)]

    def entries(self) -> Iterator[Entry]:
        """Yield what is recorded, oldest first."""
        if self._path is None:
            yield from list(self._kept)
            return
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for line in file:
                if (entry := _entry(line)) is not None:
                    yield entry

    @contextmanager
    def expecting(self, manifest: Digest, unshown: frozenset[Digest]) -> Iterator[None]:
        """Know of a manifest that is about to be stored which of its blobs its owner has not sent: whoever
        records it meanwhile, or after an outage, records that."""
        expected = self._expected.setdefault(manifest, [])
        expected.append(unshown)
        try:
            yield
        except (UnreachableError, ExhaustedError, NotReadyError, asyncio.CancelledError):
            self._undecided[manifest] = unshown  # the store may have it
            while len(self._undecided) > _MOST_UNDECIDED:
                del self._undecided[next(iter(self._undecided))]
            raise
        finally:
            expected.pop()
            if not expected:
                self._expected.pop(manifest, None)

    async def note_commit(self, manifest: Digest, envelope: bytes) -> None:
        """Record an accepted manifest; it is on disk when this returns. Again: no change, unless its owner
        has sent more of its blobs (`expecting`).

        ExhaustedError on a full disk, NotReadyError on one that takes nothing: then it must not be
        acknowledged.
        """
        unshown = self._told(manifest)
        if manifest in self._commits and (unshown is None or self.unshown(manifest) <= unshown):
            return
        entry = Entry(kind="commit", name=manifest, envelope=envelope, unshown=unshown or frozenset())
        await self._append(entry)

    async def note_withdrawal(self, target: str, tombstone: bytes) -> None:
        """Record a tombstone, as `note_commit` does."""
        if target not in self._withdrawn:
            await self._append(Entry(kind="withdraw", name=target, envelope=tombstone))

    def _told(self, manifest: Digest) -> frozenset[Digest] | None:
        """Return what `expecting` was told of a manifest, None for nothing."""
        if manifest in self._expected:
            return self._expected[manifest][-1]
        return self._undecided.get(manifest)

    async def _append(self, entry: Entry) -> None:
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        """Write what waits, together: one sync for all of it."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._sync, [entry for entry, _ in batch])
            except (OSError, SwarmError) as error:
                for _, written in batch:
                    if not written.done():
                        written.set_exception(self._not_written(error))
                continue
            for entry, written in batch:
                self._take(entry)
                if not written.done():
                    written.set_result(None)

    def _sync(self, entries: list[Entry]) -> None:
        if self._path is None:
            self._kept += entries
            return
        data = b"".join(map(_line, entries))
        is_new = not self._path.exists()
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "wb") as file:
            found = os.fstat(file.fileno()).st_size
            if self._left not in (None, found):
                raise self._changed(found)
            self._left = None
            try:
                os.ftruncate(file.fileno(), self._size)  # what a failed write left
                file.seek(self._size)
                file.write(data)
                file.flush()
                reached("registry.journal.before_sync")
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), self._size)
                raise
        if is_new:
            _sync_folder(self._path.parent)
        self._size += len(data)
        self._left = self._size

    def _take(self, entry: Entry) -> None:
        if entry.kind == "withdraw":
            self._withdrawn.add(entry.name)
            return
        digest, unshown = Digest(entry.name), entry.unshown
        if digest in self._commits:
            unshown &= self._unshown.get(digest, frozenset())
        self._unshown.pop(digest, None)
        self._undecided.pop(digest, None)
        if unshown:
            self._unshown[digest] = unshown
        self._commits.add(digest)
        try:
            made = read_statement(entry.envelope, Manifest).value
        except SwarmError as error:
            _log.error("journal.unreadable", manifest=entry.name, reason=str(error))
            return
        before = self.filled_by(made.owner)
        is_new = digest not in self._manifests
        self._filled[made.owner] = Filled(
            manifests=before.manifests + is_new, size_bytes=before.size_bytes + len(entry.envelope)
        )
        if is_new:
            self._order.append(digest)
        self._manifests[digest] = made
        version = made.version, digest
        self._newest[made.expert] = max(version, self._newest.get(made.expert, version))

    def _read(self, path: Path) -> int:
        """Take in what is there; return where the last whole line ends."""
        end = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    _log.warning("journal.cut", file=str(path), dropped_bytes=len(line))
                    break
                end += len(line)
                entry = _entry(line)
                if entry is None:
                    self.damaged += 1
                    _log.error("journal.damaged", file=str(path), line_ends_at=end)
                else:
                    self._take(entry)
        return end

    def _changed(self, found: int) -> NotReadyError:
        return NotReadyError(
            f"journal of commits {self._path}",
            found=f"{found} bytes",
            expected=f"{self._left}, as this registry left it",
            remedy="another process wrote it: end that one, start this one again; nothing was acknowledged",
        )

    def _not_written(self, error: OSError | SwarmError) -> SwarmError:
        if isinstance(error, SwarmError):
            return error
        subject = f"journal of commits {self._path}"
        remedy = "mend it and send the same again; nothing was acknowledged"
        found = os.strerror(error.errno or errno.EIO)
        if error.errno in _NO_SPACE:
            return ExhaustedError(subject, found=found, expected="room for a line", remedy=remedy)
        return NotReadyError(subject, found=found, expected="a disk that takes it", remedy=remedy)


def _line(entry: Entry) -> bytes:
    row: dict[str, object] = {
        "kind": entry.kind,
        "name": entry.name,
        "check": _check(entry.envelope, entry.unshown),
        "envelope": entry.envelope.decode(),
    }
    if entry.unshown:
        row["unshown"] = sorted(entry.unshown)
    return json.dumps(row, ensure_ascii=True).encode() + b"\n"


def _check(envelope: bytes, unshown: frozenset[Digest]) -> Digest:
    return digest_of("\n".join(sorted(unshown)).encode() + envelope)


def _entry(line: bytes) -> Entry | None:
    """Return what a line says, None for a damaged one."""
    try:
        row = json.loads(line)
        entry = Entry(
            kind=row["kind"],
            name=str(row["name"]),
            envelope=str(row["envelope"]).encode(),
            unshown=frozenset(Digest(str(blob)) for blob in row.get("unshown", ())),
        )
        check = _check(entry.envelope, entry.unshown)
        is_whole = row["check"] == check and entry.kind in ("commit", "withdraw")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry if is_whole else None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
