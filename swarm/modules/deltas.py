"""A blob as its difference to another of the same size: bytes XORed, byte planes apart, compressed by zstd.

For weights that training changed a little: signs, exponents and high bits of most numbers stay, so their XOR
is zero, and the planes of such bytes nearly vanish. Lossless, whatever the bytes are. A stream is `swd1`, the
width of the numbers (1, 2, 4 or 8), then for each MiB of the blob a length and as many bytes: a zstd frame,
or, with the length's highest bit set, the blob's own bytes where the frame would be no shorter. Whoever reads
one knows the blob's size and digest: nothing beyond that size is ever unpacked, and the digest decides.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.tensors import DTYPE_BYTES, ModuleEntry

BLOCK_BYTES: Final = 1 << 20
WORTH_BELOW: Final = 0.9
"""A delta is sent where it has less than this part of the blob's bytes."""

WIDTHS: Final = (1, 2, 4, 8)
_MAGIC: Final = b"swd1"
_LENGTH: Final = struct.Struct("<I")
_WHOLE: Final = 1 << 31
_LEVEL: Final = 1
_SAMPLED_BLOCKS: Final = 8

Bytes = bytes | memoryview
_Uint8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaParent:
    """The blob that another is a delta to, and the bytes of one number in them."""

    blob: Digest
    width: int


def delta_parents(
    child: Sequence[ModuleEntry], parent: Sequence[ModuleEntry]
) -> Mapping[Digest, DeltaParent]:
    """Return for each blob of child's modules the blob of parent's that has tensors of the same names, types
    and shapes at the same places. Blobs that both have, and those without such a parent, are left out."""
    by_layout = {layout: blob for blob, layout in _layouts(parent).items()}
    found = {}
    for blob, layout in _layouts(child).items():
        base = by_layout.get(layout)
        if base is not None and base != blob:
            sizes = Counter[int]()
            for _, _, dtype, shape, _ in layout:
                sizes[DTYPE_BYTES[dtype]] += math.prod(shape) * DTYPE_BYTES[dtype]
            found[blob] = DeltaParent(blob=base, width=sizes.most_common(1)[0][0])
    return found


def is_worth_a_delta(child: Bytes, parent: Bytes, width: int) -> bool:
    """Say whether a delta has less than `WORTH_BELOW` of child's bytes, judged by a few blocks of it."""
    _check_fit(child, parent, width)
    blocks = range(0, len(child), BLOCK_BYTES)
    sampled = sorted(
        {blocks[at * len(blocks) // _SAMPLED_BLOCKS] for at in range(_SAMPLED_BLOCKS)} if blocks else ()
    )
    whole = sum(min(BLOCK_BYTES, len(child) - at) for at in sampled)
    packed = sum(len(_packed_block(child, parent, at, width)) for at in sampled)
    return packed < WORTH_BELOW * whole


def delta_pieces(child: Bytes, parent: Bytes, width: int) -> Iterator[bytes]:
    """Yield the delta from parent to child, a piece for each block of at most 1 MiB.

    All in all at most 5 bytes and 4 for each block more than child. InvalidInputError unless both have one
    size.
    """
    _check_fit(child, parent, width)
    yield _MAGIC + bytes([width])
    for at in range(0, len(child), BLOCK_BYTES):
        yield _packed_block(child, parent, at, width)


class DeltaReader:
    """Turns a delta's bytes, however they are cut, into the child's. VerificationError for what is none.

    Holds at most one block and what was fed last. Whether the bytes are the child's, its digest says.
    """

    def __init__(self, parent: Bytes) -> None:
        self._parent = memoryview(parent).cast("B")
        self._pending = bytearray()
        self._width = 0
        self._at = 0

    def feed(self, data: Bytes) -> Iterator[bytes]:
        """Yield the blocks that data completes."""
        self._pending += data
        if not self._width and not self._read_head():
            return
        while (block := self._next_block()) is not None:
            yield block
        if self._at == len(self._parent) and self._pending:
            raise _no_delta("bytes after its last block")

    def finish(self) -> None:
        """Raise VerificationError unless the whole child has come."""
        if not self._width or self._at < len(self._parent):
            raise _no_delta(f"{self._at} of {len(self._parent)} bytes")

    def _read_head(self) -> bool:
        size = len(_MAGIC) + 1
        if len(self._pending) < size:
            return False
        head = bytes(self._pending[:size])
        del self._pending[:size]
        if head[:-1] != _MAGIC or head[-1] not in WIDTHS:
            raise _no_delta("another beginning")
        self._width = head[-1]
        return True

    def _next_block(self) -> bytes | None:
        size = min(BLOCK_BYTES, len(self._parent) - self._at)
        if not size or len(self._pending) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(self._pending)[0]
        is_whole, length = bool(length & _WHOLE), length & ~_WHOLE
        if (length != size) if is_whole else not 0 < length < size:
            raise _no_delta(f"a block of {length} bytes")
        end = _LENGTH.size + length
        if len(self._pending) < end:
            return None
        packed = bytes(self._pending[_LENGTH.size : end])
        del self._pending[:end]
        block = (
            packed if is_whole else _unpacked(packed, self._parent[self._at : self._at + size], self._width)
        )
        self._at += size
        return block


def _packed_block(child: Bytes, parent: Bytes, at: int, width: int) -> bytes:
    own = np.frombuffer(child, np.uint8)[at : at + BLOCK_BYTES]
    difference = own ^ np.frombuffer(parent, np.uint8)[at : at + BLOCK_BYTES]
    frame = zstandard.ZstdCompressor(level=_LEVEL).compress(_planes(difference, width).data)
    if len(frame) >= len(own):
        return _LENGTH.pack(len(own) | _WHOLE) + own.tobytes()
    return _LENGTH.pack(len(frame)) + frame


def _unpacked(frame: bytes, parent: memoryview, width: int) -> bytes:
    try:
        # The frame's own word on its size decides how much is allocated: it has to be the block's.
        if zstandard.get_frame_parameters(frame).content_size != len(parent):
            raise _no_delta("a frame of another size than its block")
        planes = zstandard.ZstdDecompressor(max_window_size=BLOCK_BYTES).decompress(
            frame, max_output_size=len(parent), allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _no_delta(f"a broken frame ({error})") from None
    if len(planes) != len(parent):
        raise _no_delta("a frame of another size than its block")
    difference = _numbers(np.frombuffer(planes, np.uint8), width)
    return (difference ^ np.frombuffer(parent, np.uint8)).tobytes()


def _planes(data: _Uint8, width: int) -> _Uint8:
    """Return all first bytes, then all second ones and so on; what is left of a last number ends it."""
    even = len(data) - len(data) % width
    return np.concatenate([data[:even].reshape(-1, width).T.reshape(-1), data[even:]])


def _numbers(planes: _Uint8, width: int) -> _Uint8:
    even = len(planes) - len(planes) % width
    return np.concatenate([planes[:even].reshape(width, -1).T.reshape(-1), planes[even:]])


def _check_fit(child: Bytes, parent: Bytes, width: int) -> None:
    if len(child) != len(parent):
        raise InvalidInputError(
            "delta", found=f"a parent of {len(parent)} bytes", expected=f"{len(child)}, as the child has"
        )
    if width not in WIDTHS:
        raise InvalidInputError("delta", found=f"width {width}", expected=f"one of {WIDTHS}")


_Place = tuple[str, str, str, tuple[int, ...], int]


def _layouts(modules: Sequence[ModuleEntry]) -> dict[Digest, tuple[_Place, ...]]:
    places: dict[Digest, list[_Place]] = {}
    for module in modules:
        for tensor in module.tensors:
            place = (module.name, tensor.name, tensor.dtype, tensor.shape, tensor.offset)
            places.setdefault(tensor.blob, []).append(place)
    return {blob: tuple(sorted(found)) for blob, found in places.items()}


def _no_delta(found: str) -> VerificationError:
    return VerificationError(
        "delta", found=found, expected="a delta to the blob that it names", remedy="send the blob whole"
    )
