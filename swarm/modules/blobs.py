"""Blobs as files named by their content.

A blob is written under `incoming/`, hashed on the way, synced, and only then renamed to its name; the
folder is synced too. So a name always means whole bytes, and a crash leaves garbage in `incoming/` alone.
Every process sweeps that garbage when it opens the folder: a file that a living process still writes is
locked (flock), what nobody locks is garbage, but for what an interrupted transfer may go on with
(`swarm.modules.partial_blobs`). Reading verifies the digest once per process and file state, and not again
what this process has just written and hashed.
"""

import fcntl
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final
from weakref import WeakValueDictionary

from swarm.digests import blake3, digest_of, verify_digest
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError, VerificationError
from swarm.domain.ids import Digest, digest
from swarm.modules.direct_writes import DIRECT_FROM_BYTES
from swarm.modules.durable_files import (
    FileState,
    disk_full_named,
    put_in_place,
    settled_state,
    state_of,
)
from swarm.modules.partial_blobs import KEPT_FROM_BYTES, PartialBlob, kept_uploads, open_partial, sweep

_INCOMING: Final = "incoming"
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")


class BlobWriter:
    """One blob on its way in. Nothing is visible under the blob's name until `commit` returns."""

    def __init__(self, folder: Path, expected: Digest, size_bytes: int, target: Path) -> None:
        self._expected, self._size, self._target = expected, size_bytes, target
        self._file, self._temporary = _locked_file(folder, expected)
        self._hash = blake3()
        self._written = 0
        self.committed: FileState | None = None
        """The file's state where nobody can have changed it unseen since its last byte was written."""

    def write(self, chunk: bytes | memoryview) -> None:
        """Append chunk; VerificationError beyond the promised size, ExhaustedError on a full disk."""
        self._written += len(chunk)
        if self._written > self._size:
            raise self._wrong(f"more than {self._size} bytes")
        self._hash.update(chunk)
        with disk_full_named(self._target):
            self._file.write(chunk)

    def commit(self) -> None:
        """Make the bytes durable under their name; VerificationError unless they are what it promises."""
        if self._written != self._size:
            raise self._wrong(f"{self._written} of {self._size} bytes")
        found = Digest(self._hash.hexdigest())
        if found != self._expected:
            raise self._wrong(f"bytes with digest {found[:12]}")
        assert self._temporary is not None, "a blob is committed once"
        with disk_full_named(self._target):
            put_in_place(self._file, self._temporary, self._target)
            self._temporary = None
        self.committed = settled_state(self._file)

    def close(self) -> None:
        """Drop what was not committed; safe to call again."""
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None
        # What a full disk refused sits in the buffer still; closing would try it again.
        with suppress(OSError):
            self._file.close()

    def _wrong(self, found: str) -> VerificationError:
        return VerificationError(
            f"blob {self._expected[:12]}",
            found=found,
            expected=f"{self._size} bytes with digest {self._expected[:12]}",
            remedy="send the blob again",
        )


class BlobFiles:
    """A folder of blobs, `<first two digits>/<digest>`. Processes may share it; methods block on disk."""

    def __init__(self, folder: Path, *, direct_io: bool = False) -> None:
        """`direct_io`: what others send goes past the page cache, if it is large."""
        self.folder, self._direct_io = folder, direct_io
        self._incoming = folder / _INCOMING
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._verified: dict[Digest, FileState] = {}
        self._damaged: dict[Digest, FileState] = {}
        self._mappings: WeakValueDictionary[FileState, mmap.mmap] = WeakValueDictionary()
        self.sweep()

    def path(self, blob: Digest) -> Path:
        """Return where blob lies or would lie; InvalidInputError if it is no digest."""
        return self.folder / digest(blob)[:2] / blob

    def has(self, blob: Digest) -> bool:
        """Say whether blob is here; one that was found damaged is not, until it is written again."""
        try:
            state = state_of(self.path(blob).stat())
        except FileNotFoundError:
            return False
        return self._damaged.get(blob) != state

    def missing(self, blobs: Iterable[Digest]) -> list[Digest]:
        """Return the distinct blobs that are not here, in the given order."""
        return [blob for blob in dict.fromkeys(blobs) if not self.has(blob)]

    def size(self, blob: Digest) -> int:
        """Return blob's size in bytes; NotFoundError if it is not here."""
        try:
            return self.path(blob).stat().st_size
        except FileNotFoundError:
            raise _not_here(blob) from None

    def sizes(self, blobs: Iterable[Digest]) -> dict[Digest, int]:
        """Return the sizes of those of the blobs that are here, damaged or not."""
        found: dict[Digest, int] = {}
        for blob in blobs:
            with suppress(NotFoundError):
                found[blob] = self.size(blob)
        return found

    def free_bytes(self) -> int:
        """Return how many bytes more would fit; NotReadyError where the folder is gone."""
        self._check_here()
        return shutil.disk_usage(self.folder).free

    def put(self, data: bytes | memoryview) -> Digest:
        """Store data durably and return its digest; cheap where a whole copy is here already."""
        name = digest_of(data)
        if self.has(name):
            try:
                self.open_verified(name)
            except (VerificationError, NotFoundError):
                pass  # Damaged or just removed: written again below.
            else:
                return name
        with self.writer(name, len(data)) as writer:
            writer.write(data)
            writer.commit()
        return name

    @contextmanager
    def writer(
        self, expected: Digest, size_bytes: int, sender: str = "", offset: int = 0
    ) -> Iterator[BlobWriter | PartialBlob]:
        """Yield a writer for a blob of known digest and size. Without `commit` nothing is visible and
        nothing is kept but what a sender sent of a large blob: its next writer may go on at an offset.

        ConflictError where fewer bytes than offset are here, or another writer of this sender's is at it;
        NotReadyError where the folder is gone.
        """
        self._check_here()
        target = self.path(expected)
        if sender and (offset or size_bytes >= KEPT_FROM_BYTES):
            with self.partial(expected, size_bytes, sender) as partial:
                partial.go_on_at(offset)
                yield partial
            return
        with disk_full_named(target):
            writer = BlobWriter(self._incoming, expected, size_bytes, target)
        try:
            yield writer
        finally:
            writer.close()
        if writer.committed is not None:
            self._verified[expected] = writer.committed

    @contextmanager
    def partial(self, expected: Digest, size_bytes: int, sender: str = "") -> Iterator[PartialBlob]:
        """Yield what is here of a blob, to be gone on with in any order; without `commit` it stays for the
        next one. `sender`: who uploads it, empty for a download. NotReadyError where the folder is gone."""
        self._check_here()
        target = self.path(expected)
        with disk_full_named(target):
            direct = self._direct_io and bool(sender) and size_bytes >= DIRECT_FROM_BYTES
            partial = open_partial(self._incoming, expected, size_bytes, target, sender, direct=direct)
        try:
            yield partial
        finally:
            partial.close()
        if partial.committed is not None:
            self._verified[expected] = partial.committed

    def kept(self, sender: str) -> dict[Digest, int]:
        """Return the blobs that a sender began to send, with the bytes that are here."""
        return kept_uploads(self._incoming, sender)

    def open_verified(self, blob: Digest) -> memoryview:
        """Return blob's bytes, read-only and mapped, not copied; one mapping for all who read it at once.

        Raises NotFoundError if it is not here, VerificationError if its bytes are not what its name says.
        The view stays valid after `remove`.
        """
        view, state = self._open(blob)
        if self._verified.get(blob) != state:
            try:
                verify_digest(view, blob, "blob")
            except VerificationError:
                self._damaged[blob] = state
                raise
            self._verified[blob] = state
        return view

    def open_unverified(self, blob: Digest) -> memoryview:
        """Return the bytes under blob's name as they are, mapped: for whoever hands them to one that verifies
        them. NotFoundError if it is not here."""
        return self._open(blob)[0]

    def _open(self, blob: Digest) -> tuple[memoryview, FileState]:
        try:
            with self.path(blob).open("rb") as file:
                state = state_of(os.fstat(file.fileno()))
                return self._mapped(file, state), state
        except FileNotFoundError:
            raise _not_here(blob) from None

    def _mapped(self, file: BinaryIO, state: FileState) -> memoryview:
        """Return a file's bytes. A mapping holds the file open, so there is one however many ask."""
        if state[1] == 0:
            return memoryview(b"")
        mapping = self._mappings.get(state)
        if mapping is None:
            mapping = mmap.mmap(file.fileno(), state[1], access=mmap.ACCESS_READ)
            self._mappings[state] = mapping
        return memoryview(mapping)

    def remove(self, blob: Digest) -> None:
        """Delete blob; nothing happens if it is not here."""
        self.path(blob).unlink(missing_ok=True)
        self._verified.pop(blob, None)
        self._damaged.pop(blob, None)

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of all blobs here, in no order. What is none in its own folder is left alone: a
        file system's or somebody's own. NotReadyError where the folder is gone."""
        self._check_here()
        for entry in os.scandir(self.folder):
            if not _FOLDER.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(entry):
                with suppress(InvalidInputError):
                    blob = digest(file.name)
                    if blob.startswith(entry.name) and file.is_file():
                        yield blob

    def stats(self) -> tuple[int, int]:
        """Return the number of blobs here and their bytes in all."""
        count = total = 0
        for blob in self.digests():
            with suppress(NotFoundError):
                total += self.size(blob)
                count += 1
        return count, total

    def sweep(self) -> None:
        """Remove what interrupted writers left, and interrupted transfers a week (uploads a day) ago.
        NotReadyError where the folder is gone."""
        self._check_here()
        sweep(self._incoming)

    def _check_here(self) -> None:
        """Raise NotReadyError where the folder went away under this process. It is not made again: its
        disk may come back."""
        if not self._incoming.is_dir():
            raise NotReadyError(
                f"blobs in {self.folder}",
                found="a folder that is not there any more, or not the same",
                expected="the folder as this process found it",
                remedy="mount its disk again; where it was removed, start this process again, and what others"
                " have comes back: swarm registry rebuild",
            )


def _locked_file(folder: Path, blob: Digest) -> tuple[BinaryIO, Path | None]:
    """Open a new file under folder that no sweep takes for garbage."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f"{blob[:12]}-", dir=folder)
        file = os.fdopen(descriptor, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        # A sweep may have come between creation and lock.
        if os.fstat(file.fileno()).st_nlink:
            return file, Path(name)
        file.close()


def _not_here(blob: Digest) -> NotFoundError:
    return NotFoundError(f"blob {blob[:12]}", found="nothing under this digest", expected="a stored blob")
