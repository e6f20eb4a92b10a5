"""The registry's port to its blobs: where bytes lie under the digest of their content.

`swarm.modules.BlobFiles` keeps them in a folder, `swarm.registry.s3_blobs.S3Blobs` in a bucket. Methods block
and may be called from any thread. A blob is visible whole or not at all, once its digest was verified.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from swarm.domain.ids import Digest


class BlobSink(Protocol):
    """One blob on its way in. Nothing is visible under the blob's name until `commit` returns."""

    def write(self, chunk: bytes | memoryview) -> None:
        """Append chunk; VerificationError beyond the promised size, ExhaustedError on a full disk."""

    def commit(self) -> None:
        """Make the bytes durable under their name; VerificationError unless they are what it promises."""


class BlobStore(Protocol):
    """Whole blobs by digest. All methods raise UnreachableError while what holds the bytes is away."""

    def missing(self, blobs: Iterable[Digest]) -> list[Digest]:
        """Return the distinct blobs that are not here or were found damaged, in the given order."""

    def size(self, blob: Digest) -> int:
        """Return blob's size in bytes; NotFoundError if it is not here."""

    def sizes(self, blobs: Iterable[Digest]) -> dict[Digest, int]:
        """Return the sizes of those of the blobs that are here, damaged or not."""

    def writer(
        self, expected: Digest, size_bytes: int, sender: str = "", offset: int = 0
    ) -> AbstractContextManager[BlobSink]:
        """Yield a sink for a blob of known digest and size. Without `commit` nothing is visible and nothing
        is kept but what a sender sent of a large blob, for a day: its next writer may go on at an offset.

        ConflictError where fewer bytes than offset are here, or another writer of this sender's is at it.
        """

    def kept(self, sender: str) -> dict[Digest, int]:
        """Return the blobs that a sender began to send, with the bytes that are here."""

    def open_verified(self, blob: Digest) -> memoryview:
        """Return blob's bytes, read-only and mapped, not held in memory; the view outlives `remove`.

        Raises NotFoundError if it is not here, VerificationError if its bytes are not what its name says.
        """

    def remove(self, blob: Digest) -> None:
        """Let blob be gone from now on, without waiting for a network; nothing happens if it is not here."""

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of all blobs here, in no order."""

    def stats(self) -> tuple[int, int]:
        """Return the number of blobs here and their bytes in all; they may be half a minute old."""

    def sweep(self) -> None:
        """Remove what was kept of uploads that nobody went on with for a day."""

    def free_bytes(self) -> int:
        """Return how many bytes the next blob may have."""
