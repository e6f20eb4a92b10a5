"""A blob as far as it came: a file that outlives its process, so that a transfer goes on where it stopped.

Nothing in such a file is believed: what goes on from it verifies it, block by block or at the latest as a
whole. So there is no record of what is in it that a crash could part from the bytes. One process at a time
writes it (flock); whoever comes second gets a file of its own, which is not kept.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from swarm.digests import blake3
from swarm.domain.errors import ConflictError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules.direct_writes import DirectWrites
from swarm.modules.durable_files import (
    FileState,
    begin_writing_back,
    disk_full_named,
    put_in_place,
    settled_state,
)
from swarm.modules.outlines import BLOCK_BYTES, Outline, block_bytes

KEPT_FROM_BYTES: Final = BLOCK_BYTES
"""Smaller blobs are sent again as a whole."""

DOWNLOAD_KEPT_S: Final = 7 * 86_400.0
UPLOAD_KEPT_S: Final = 86_400.0
_SUFFIX: Final = ".part"
_READ_BYTES: Final = 1 << 20


class PartialBlob:
    """One blob on its way in, in any order. Nothing is visible under the blob's name until `commit` returns;
    what was written stays for the next one that opens it, unless it was refused, or another process has that
    file (`is_kept` is False then). For one thread at a time."""

    def __init__(
        self,
        file: BinaryIO,
        path: Path,
        expected: Digest,
        size_bytes: int,
        target: Path,
        *,
        is_kept: bool,
        direct: bool = False,
    ) -> None:
        """`direct`: whole blocks go past the page cache where that can be."""
        self._file, self._path, self._target = file, path, target
        self._expected, self.size_bytes, self.is_kept = expected, size_bytes, is_kept
        if os.fstat(file.fileno()).st_size > size_bytes:
            os.ftruncate(file.fileno(), 0)
        self._hash, self._hashed = blake3(), 0
        self._direct = DirectWrites(path) if direct else None
        self._end = 0
        self._is_refused = self._is_committed = False
        self.committed: FileState | None = None
        """The file's state where nobody can have changed it unseen since its last byte was written."""

    @property
    def held_bytes(self) -> int:
        """Where the written bytes end; there may be gaps before."""
        return os.fstat(self._file.fileno()).st_size

    def go_on_at(self, offset: int) -> None:
        """Let `write` go on at offset and drop what is beyond; ConflictError where fewer bytes are here."""
        if offset > self.held_bytes:
            raise ConflictError(
                f"blob {self._expected[:12]}",
                found=f"{self.held_bytes} bytes kept here",
                expected=f"at least {offset}",
                remedy="send the blob from its start",
            )
        os.ftruncate(self._file.fileno(), offset)
        self._end = offset

    def write(self, chunk: bytes | memoryview) -> None:
        """Append chunk to what was written in order; VerificationError beyond the promised size."""
        self.write_at(self._end, chunk)
        self._end += len(chunk)

    def write_at(self, offset: int, chunk: bytes | memoryview) -> None:
        """Put chunk at offset; VerificationError beyond the promised size, ExhaustedError on a full disk."""
        if offset + len(chunk) > self.size_bytes:
            self._is_refused = True
            raise self._wrong(f"more than {self.size_bytes} bytes")
        if offset == self._hashed:
            self._hash.update(chunk)
            self._hashed += len(chunk)
        elif offset < self._hashed:
            self._hash, self._hashed = blake3(), 0
        view = memoryview(chunk)
        with disk_full_named(self._target):
            past = self._direct.write_at(offset, view) if self._direct is not None else 0
            start, offset, view = offset + past, offset + past, view[past:]
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                offset, view = offset + written, view[written:]
        begin_writing_back(self._file, start, offset - start)
        self._is_refused = False

    def whole_blocks(self, outline: Outline) -> set[int]:
        """Return which blocks are here as the outline says. Reads all that is here."""
        held = self.held_bytes
        whole = set()
        for block, expected in enumerate(outline.blocks):
            start, length = block * BLOCK_BYTES, block_bytes(block, self.size_bytes)
            if start + length > held:
                break
            if blake3(os.pread(self._file.fileno(), length, start)).hexdigest() == expected:
                whole.add(block)
        return whole

    def commit(self) -> None:
        """Make the bytes durable under their name; VerificationError unless they are what it promises."""
        for chunk in self._unhashed():
            self._hash.update(chunk)
            self._hashed += len(chunk)
        found = self._hash.hexdigest()
        if self._hashed != self.size_bytes or found != self._expected:
            self._is_refused = True
            short = f"{self._hashed} of {self.size_bytes} bytes"
            raise self._wrong(short if self._hashed != self.size_bytes else f"bytes with digest {found[:12]}")
        with disk_full_named(self._target):
            put_in_place(self._file, self._path, self._target)
        self._is_committed = True
        self.committed = settled_state(self._file)

    def close(self) -> None:
        """Let another one go on; safe to call again."""
        if self._file.closed:
            return
        is_kept = self.is_kept and not self._is_refused and self.held_bytes
        if not self._is_committed and not is_kept:
            self._path.unlink(missing_ok=True)
        if self._direct is not None:
            self._direct.close()
        self._file.close()

    def _unhashed(self) -> Iterator[bytes]:
        while chunk := os.pread(self._file.fileno(), _READ_BYTES, self._hashed):
            yield chunk

    def _wrong(self, found: str) -> VerificationError:
        return VerificationError(
            f"blob {self._expected[:12]}",
            found=found,
            expected=f"{self.size_bytes} bytes with digest {self._expected[:12]}",
            remedy="send the blob again",
        )


def open_partial(
    folder: Path,
    expected: Digest,
    size_bytes: int,
    target: Path,
    sender: str = "",
    *,
    direct: bool = False,
) -> PartialBlob:
    """Open what folder has of a blob, or a new file; `sender`: who uploads it, empty for a download.
    `direct`: see `PartialBlob`."""
    path = folder / f"{expected}.{sender}{_SUFFIX}" if sender else folder / f"{expected}{_SUFFIX}"
    if (file := _locked(path)) is not None:
        return PartialBlob(file, path, expected, size_bytes, target, is_kept=True, direct=direct)
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f"{expected[:12]}-", dir=folder)
        os.close(descriptor)
        if (file := _locked(Path(name))) is not None:
            return PartialBlob(file, Path(name), expected, size_bytes, target, is_kept=False, direct=direct)


def kept_uploads(folder: Path, sender: str) -> dict[Digest, int]:
    """Return the blobs that a sender began to upload, with the bytes that are here."""
    ending = f".{sender}{_SUFFIX}"
    found = {}
    for entry in folder.glob(f"*{ending}"):
        with suppress(FileNotFoundError):
            found[Digest(entry.name.removesuffix(ending))] = entry.stat().st_size
    return found


def kept_for_s(name: str) -> float:
    """Return how long an interrupted transfer's file of this name stays, 0 where nobody goes on with it."""
    if not name.endswith(_SUFFIX):
        return 0.0
    return UPLOAD_KEPT_S if "." in name.removesuffix(_SUFFIX) else DOWNLOAD_KEPT_S


def sweep(folder: Path, now: float | None = None) -> None:
    """Remove what interrupted transfers left and nobody goes on with; what a living process writes stays."""
    now = time.time() if now is None else now
    for entry in folder.iterdir():
        try:
            file = entry.open("rb")
        except FileNotFoundError:
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            kept_s = kept_for_s(entry.name)
            if not kept_s or os.fstat(file.fileno()).st_mtime + kept_s < now:
                with suppress(OSError):  # a disk that is read-only: it stays until the next time
                    entry.unlink()


def _locked(path: Path) -> BinaryIO | None:
    """Open a file for one process alone; None while another one has it."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # Who had it may have renamed or removed it between opening and locking.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
