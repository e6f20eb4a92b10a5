"""Local copies of blobs that are kept elsewhere, up to a bound: the longest unused go first.

They are no store: the folder is emptied when it is opened, and nothing is lost with it. Each copy is noted
with the state of the original that it was made from.
"""

import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarm.domain.errors import ExhaustedError, NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles, BlobWriter
from swarm.modules.partial_blobs import PartialBlob

COPIES_BYTES: Final = 16 << 30
"""What copies may fill of the disk; a larger blob has it for itself while it is used."""

LEFT_FREE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class _Copy:
    size_bytes: int
    original: str


class BlobCopies:
    """A bounded folder of copies. Methods block on disk; any thread may call them."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = COPIES_BYTES,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._files = BlobFiles(folder)
        for blob in self._files.digests():
            self._files.remove(blob)
        self._limit, self._disk_free = limit_bytes, free_bytes
        self._copies: OrderedDict[Digest, _Copy] = OrderedDict()
        self._used: Counter[Digest] = Counter()
        self._lock = threading.Lock()

    def path(self, blob: Digest) -> Path:
        """Return where a copy lies once its writer has committed; it stays there while the writer is open."""
        return self._files.path(blob)

    @contextmanager
    def writer(
        self, blob: Digest, size_bytes: int, sender: str = "", offset: int = 0
    ) -> Iterator[BlobWriter | PartialBlob]:
        """Yield a writer for a copy that stays until this ends, and longer once it was `note`d.

        Raises ExhaustedError where the disk has no room even without other copies.
        """
        with self._lock:
            self._make_room(size_bytes)
            self._used[blob] += 1
        try:
            with self._files.writer(blob, size_bytes, sender, offset) as writer:
                yield writer
        finally:
            with self._lock:
                self._used -= Counter([blob])
                if not self._used[blob] and blob not in self._copies:
                    self._files.remove(blob)

    def kept(self, sender: str) -> dict[Digest, int]:
        """Return the blobs that a sender began to send, with the bytes that are here."""
        return self._files.kept(sender)

    def sweep(self) -> None:
        """Remove what was kept of uploads that nobody went on with for a day."""
        self._files.sweep()

    def note(self, blob: Digest, size_bytes: int, original: str) -> None:
        """Keep the copy that was just written, made from an original of this state."""
        with self._lock:
            self._copies[blob] = _Copy(size_bytes, original)
            self._copies.move_to_end(blob)

    def opened(self, blob: Digest, original: str) -> memoryview | None:
        """Return a copy's verified bytes, mapped; None if none is whole and of an original of this state."""
        with self._lock:
            copy = self._copies.get(blob)
            if copy is None or copy.original != original:
                return None
            self._copies.move_to_end(blob)
            self._used[blob] += 1
        try:
            return self._files.open_verified(blob)
        except (NotFoundError, VerificationError):
            self._copies.pop(blob, None)
            return None
        finally:
            with self._lock:
                self._used -= Counter([blob])

    def drop(self, blob: Digest) -> None:
        """Let a copy go; views of it stay valid."""
        with self._lock:
            self._forget(blob)

    def free_bytes(self) -> int:
        """Return how many bytes a next copy may have: what is free, and what other copies would give up."""
        with self._lock:
            held = sum(copy.size_bytes for blob, copy in self._copies.items() if not self._used[blob])
        return self._disk_free(self._files.folder) + held

    def _make_room(self, size_bytes: int) -> None:
        for blob in list(self._copies):
            if self._fits(size_bytes):
                return
            self._forget(blob)
        free = self._disk_free(self._files.folder)
        if free < size_bytes + LEFT_FREE_BYTES:
            raise ExhaustedError(
                f"disk of {self._files.folder}",
                found=f"{free} bytes free",
                expected=f"{size_bytes} for the copy of a blob and {LEFT_FREE_BYTES} to spare",
                remedy="free some space there; nothing was stored",
            )

    def _fits(self, size_bytes: int) -> bool:
        held = sum(copy.size_bytes for copy in self._copies.values())
        enough_free = self._disk_free(self._files.folder) >= size_bytes + LEFT_FREE_BYTES
        return held + size_bytes <= self._limit and enough_free

    def _forget(self, blob: Digest) -> None:
        if not self._used[blob] and self._copies.pop(blob, None) is not None:
            self._files.remove(blob)
