"""A delta gives back the child, bit by bit, and nothing that comes on the wire makes it do anything else."""

import math
import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.domain.tensors import DTYPE_BYTES
from swarm.modules import deltas, pack_module
from swarm.modules.deltas import BLOCK_BYTES, DeltaReader, delta_parents, delta_pieces, is_worth_a_delta

HEAD = b"swd1\x04"


def read(parent: bytes, stream: bytes, cut: int = 1 << 16) -> bytes:
    reader, found = DeltaReader(parent), []
    for at in range(0, len(stream), cut):
        found += reader.feed(stream[at : at + cut])
    reader.finish()
    return b"".join(found)


def trained(size: int, seed: int = 0) -> tuple[bytes, bytes]:
    """Weights before and after a gentle step."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=size).astype(np.float32)
    return before.tobytes(), (before * np.float32(1.0001)).tobytes()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """A parent and a child of any dtype and shape, the child anything from the same to unrelated."""
    dtype = draw(st.sampled_from(sorted(DTYPE_BYTES)))
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    width = DTYPE_BYTES[dtype]
    size = math.prod(shape) * width + draw(st.integers(0, width - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    parent = rng.bytes(size)
    child = bytearray(parent)
    for _ in range(draw(st.integers(0, 20)) if size else 0):
        child[draw(st.integers(0, size - 1))] ^= draw(st.integers(0, 255))
    return parent, bytes(child) if draw(st.booleans()) else rng.bytes(size), width


@given(pairs(), st.integers(1, 50))
def test_any_child_comes_back_however_the_stream_is_cut(pair: tuple[bytes, bytes, int], cut: int) -> None:
    parent, child, width = pair
    stream = b"".join(delta_pieces(child, parent, width))
    assert len(stream) <= len(child) + 9
    assert read(parent, stream, cut) == child


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 3])
def test_blobs_of_several_blocks_come_back(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, child = (data[:size] for data in trained(size // 4 + 1))
    pieces = list(delta_pieces(child, parent, 4))
    assert len(pieces) == 1 + math.ceil(size / BLOCK_BYTES)
    assert read(parent, b"".join(pieces)) == child
    assert sum(map(len, pieces)) < len(child)


def test_a_delta_is_worth_it_for_a_gentle_step_and_not_for_unrelated_bytes() -> None:
    before, after = trained(1 << 20)
    assert is_worth_a_delta(after, before, 4)
    assert not is_worth_a_delta(np.random.default_rng(1).bytes(len(before)), before, 4)
    assert not is_worth_a_delta(b"", b"", 1)


def test_a_parent_of_another_size_is_no_parent() -> None:
    for act in (lambda: list(delta_pieces(b"abcd", b"abc", 1)), lambda: is_worth_a_delta(b"abcd", b"abc", 1)):
        with pytest.raises(InvalidInputError, match="a parent of 3 bytes"):
            act()
    with pytest.raises(InvalidInputError, match="width 3"):
        list(delta_pieces(b"abc", b"abc", 3))


def bomb(claimed: int) -> bytes:
    """A short frame that unpacks to many zeros."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(claimed))


def framed(frame: bytes) -> bytes:
    return struct.pack("<I", len(frame)) + frame


PARENT = bytes(range(256)) * 4


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"swd",
        b"swd2\x04" + framed(bomb(1024)),
        b"swd1\x03" + framed(bomb(1024)),
        HEAD,
        HEAD + framed(bomb(1 << 28)),
        HEAD + framed(bomb(1023)),
        HEAD + framed(bomb(1024)) + b"x",
        HEAD + framed(bomb(1024) + b"x"),
        HEAD + framed(bomb(1024)[:-2]),
        HEAD + framed(b"no frame at all"),
        HEAD + struct.pack("<I", 0),
        HEAD + struct.pack("<I", (1 << 31) - 1),
        HEAD + struct.pack("<I", 1 << 31 | 1023) + bytes(1023),
    ],
)
def test_what_is_no_delta_is_refused(stream: bytes) -> None:
    with pytest.raises(VerificationError, match="delta: found"):
        read(PARENT, stream)


def test_a_frame_that_does_not_say_its_size_or_lies_about_it_unpacks_nothing() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))
    with pytest.raises(VerificationError, match="another size"):
        read(PARENT, HEAD + framed(silent))
    frame = bytearray(bomb(1 << 24))
    single = bytearray(bomb(1024))
    assert zstandard.get_frame_parameters(bytes(single)).content_size == 1024
    lying = bytes(single[:7]) + bytes(frame[9:])  # the head of one, the blocks of the other
    with pytest.raises(VerificationError):
        read(PARENT, HEAD + framed(lying))


@given(st.binary(max_size=600), st.integers(1, 600))
@settings(max_examples=300)
def test_noise_is_refused_or_gives_bytes_of_the_parents_size(noise: bytes, cut: int) -> None:
    for head in (b"", HEAD):
        try:
            found = read(PARENT, head + noise, cut)
        except VerificationError:
            continue
        assert len(found) == len(PARENT)


@given(st.data())
def test_a_flip_in_a_delta_never_gives_more_than_the_parents_size(data: st.DataObject) -> None:
    before, after = trained(300)
    stream = bytearray(b"".join(delta_pieces(after, before, 4)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(VerificationError):
        assert len(read(before, bytes(stream))) == len(before)


def test_blobs_are_paired_by_their_tensors_places() -> None:
    rng = np.random.default_rng(0)

    def arrays(classes: int) -> dict[str, np.ndarray]:
        weight = rng.normal(size=(classes, 300, 64)).astype(np.float32)
        return {"weight": weight, "bias": rng.normal(size=classes).astype(np.float64)}

    parent, parent_blobs = pack_module("head", arrays(3))
    child, child_blobs = pack_module("head", arrays(3))
    found = delta_parents([child], [parent])
    assert set(found) == set(child_blobs) and {each.blob for each in found.values()} == set(parent_blobs)
    assert {each.width for each in found.values()} == {4, 8}
    for blob, each in found.items():
        stream = b"".join(delta_pieces(child_blobs[blob], parent_blobs[each.blob], each.width))
        assert read(parent_blobs[each.blob], stream) == child_blobs[blob]
    assert not delta_parents([child], [child])
    assert not delta_parents([child], [replace(parent, name="other")])
    wider, _ = pack_module("head", arrays(4))
    assert not delta_parents([wider], [parent])


def test_reading_holds_one_block_at_most() -> None:
    before, after = trained(BLOCK_BYTES)
    reader = DeltaReader(before)
    for piece in delta_pieces(after, before, 4):
        for block in reader.feed(piece):
            assert len(block) <= deltas.BLOCK_BYTES
        assert len(reader._pending) == 0
    reader.finish()
