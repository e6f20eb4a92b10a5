"""A blob's parts: the chunks that it travels in, and its blocks, each judged before the whole has come.

blake3 is a tree, but the Python package gives no subtree's chaining value, so a block cannot be proven
against the blob's own digest. An outline is therefore a claim of whoever gives it: a holder is held to its
own, and the whole blob is verified against its own digest in any case.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest

CHUNK_BYTES: Final = 1 << 20
"""The size of a message when a blob travels."""

BLOCK_BYTES: Final = 4 << 20
_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Outline:
    """The digests of a blob's blocks of 4 MiB, the last one shorter."""

    size_bytes: int
    blocks: tuple[Digest, ...]

    def __post_init__(self) -> None:
        expected = blocks_in(self.size_bytes)
        if len(self.blocks) != expected:
            raise InvalidInputError(
                "outline",
                found=f"{len(self.blocks)} blocks",
                expected=f"{expected} for {self.size_bytes} bytes",
            )


def blocks_in(size_bytes: int) -> int:
    """Return how many blocks so many bytes have."""
    return -(-size_bytes // BLOCK_BYTES)


def block_bytes(block: int, size_bytes: int) -> int:
    """Return how many bytes a block of a blob of this size has."""
    return min(BLOCK_BYTES, size_bytes - block * BLOCK_BYTES)


def outline_of(data: memoryview) -> Outline:
    """Return the outline of a blob's bytes."""
    starts: Sequence[int] = range(0, len(data), BLOCK_BYTES)
    return Outline(len(data), tuple(digest_of(data[start : start + BLOCK_BYTES]) for start in starts))


def chunks_of(data: memoryview, blob: Digest, offset: int = 0, length: int = 0) -> Iterator[bytes]:
    """Yield so many of a blob's bytes (0: all) from offset on; InvalidInputError for bytes beyond its end."""
    end = offset + length if length else len(data)
    if not 0 <= offset <= end <= len(data):
        raise InvalidInputError(
            f"blob {blob[:12]}", found=f"bytes {offset} to {end}", expected=f"bytes 0 to {len(data)}"
        )
    for start in range(offset, end, CHUNK_BYTES):
        yield bytes(data[start : min(end, start + CHUNK_BYTES)])


class Outlines:
    """The outlines of the blobs that were asked for last; a digest's bytes never change."""

    def __init__(self, most: int = _KEPT) -> None:
        self._known: OrderedDict[Digest, Outline] = OrderedDict()
        self._most = most

    def of(self, blob: Digest, data: memoryview) -> Outline:
        """Return the outline of a blob whose verified bytes these are. Blocks; for any thread."""
        known = self._known.get(blob)
        found = known if known is not None else outline_of(data)
        self._known[blob] = found
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found
