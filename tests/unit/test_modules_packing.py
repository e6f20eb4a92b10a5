"""Packing: nothing is lost on the way into blobs and back, and nothing wrong is taken for right."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.tensors import DTYPE_BYTES, TensorEntry
from swarm.modules import check_module, module_digest, pack_arrays, pack_module, pack_single, unpack

_DTYPES = sorted(set(DTYPE_BYTES) - {"bfloat16"})
_ARRAYS = st.dictionaries(
    st.text("abcdefgh.01", min_size=1, max_size=8),
    st.sampled_from(_DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    min_size=1,
    max_size=6,
)


class Reader:
    """Blobs in memory, read as the store reads them."""

    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self.blobs = blobs

    def __call__(self, digest: Digest) -> memoryview:
        if digest not in self.blobs:
            raise NotFoundError(f"blob {digest[:12]}")
        return memoryview(self.blobs[digest])


def weights() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(7)
    return {
        "weight": rng.normal(size=(200, 100)).astype(np.float32),
        "bias": rng.normal(size=100).astype(np.float32),
        "steps": np.array(3, np.int64),
    }


@settings(max_examples=60, deadline=None)
@given(arrays=_ARRAYS)
def test_packing_is_lossless_to_the_bit(arrays: dict[str, NDArray[Any]]) -> None:
    entries, blobs = pack_arrays(arrays)
    single, digest, blob = pack_single(arrays)
    assert all(digest_of(data) == name for name, data in blobs.items())
    assert digest_of(blob) == digest
    for back in (unpack(entries, Reader(blobs)), unpack(single, Reader({digest: blob}))):
        assert list(back) == list(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            assert back[name].shape == array.shape
            assert back[name].tobytes() == array.tobytes()


def test_small_tensors_share_a_blob_and_large_ones_have_their_own() -> None:
    arrays = weights()
    entries, blobs = pack_arrays(arrays)
    assert len(blobs) == 2
    assert entries[1].blob == entries[2].blob != entries[0].blob
    assert blobs[entries[0].blob] == arrays["weight"].tobytes()
    assert all(entry.offset % 64 == 0 for entry in entries)
    changed, _ = pack_arrays(arrays | {"bias": arrays["bias"] + 1})
    assert changed[0] == entries[0], "what did not change keeps its address"


def test_unpacking_copies_nothing_and_cannot_be_written() -> None:
    entries, blobs = pack_arrays(weights())
    data = bytearray(blobs[entries[0].blob])
    back = unpack(entries[:1], lambda _: memoryview(data))["weight"]
    data[:4] = np.float32(42).tobytes()
    assert back[0, 0] == 42
    with pytest.raises(ValueError, match="read-only"):
        back[0, 0] = 1


def test_byte_order_and_strides_do_not_matter() -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    for same in (plain.astype(">f4"), np.asfortranarray(plain), np.repeat(plain, 2, axis=0)[::2]):
        assert pack_arrays({"a": same}) == pack_arrays({"a": plain})


def test_bfloat16_travels_as_uint16() -> None:
    bits = np.array([[0x3F80, 0xBF80]], np.uint16)
    entries, blobs = pack_arrays({"w": bits}, {"w": "bfloat16"})
    assert entries[0].dtype == "bfloat16"
    back = unpack(entries, Reader(blobs))["w"]
    assert back.dtype == np.uint16
    assert np.array_equal(back, bits)


@pytest.mark.parametrize(
    ("array", "dtypes"),
    [
        (np.array([object()]), {}),
        (np.array(["text"]), {}),
        (np.array([1j]), {}),
        (np.zeros(2, np.uint16), {}),
        (np.zeros(2, np.float32), {"a": "bfloat16"}),
        (np.zeros(2, np.int64), {"a": "float64"}),
    ],
)
def test_types_that_are_not_carried_are_refused(array: NDArray[Any], dtypes: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="tensor a"):
        pack_arrays({"a": array}, dtypes)


def test_a_tensor_beyond_its_blob_is_refused() -> None:
    entries, blobs = pack_arrays({"a": np.zeros(4, np.float32)})
    for bad in (replace(entries[0], offset=8), replace(entries[0], offset=1 << 35)):
        with pytest.raises(VerificationError, match="tensor a"):
            unpack([bad], Reader(blobs))
    with pytest.raises(VerificationError, match="twice"):
        unpack([entries[0], entries[0]], Reader(blobs))


def test_a_modules_digest_depends_on_content_alone() -> None:
    arrays = weights()
    module, blobs = pack_module("body", arrays)
    turned, _ = pack_module("other", dict(reversed(arrays.items())))
    assert turned.digest == module.digest
    single, digest, blob = pack_single(arrays)
    assert module_digest("body", single, Reader({digest: blob})) == module.digest
    others = [
        arrays | {"bias": arrays["bias"] + 1},
        arrays | {"weight": arrays["weight"].reshape(100, 200)},
        arrays | {"bias": arrays["bias"].view(np.int32)},
        {("offset" if name == "bias" else name): array for name, array in arrays.items()},
    ]
    digests = {pack_module("body", other)[0].digest for other in others}
    assert len(digests | {module.digest}) == 5
    check_module(module, Reader(blobs))


def test_every_flipped_byte_of_a_module_is_refused_by_the_modules_name() -> None:
    module, blobs = pack_module("head", {"w": np.arange(3, dtype=np.float32), "b": np.ones(1, np.float32)})
    (name,) = blobs
    used = {entry.offset + byte for entry in module.tensors for byte in range(entry.size_bytes)}
    for position in used:
        damaged = bytearray(blobs[name])
        damaged[position] ^= 0x10
        with pytest.raises(VerificationError, match="module head"):
            check_module(module, Reader({name: bytes(damaged)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_module_that_is_not_finite_is_refused_by_tensor(value: float, dtype: str) -> None:
    module, blobs = pack_module("head", {"ok": np.ones(3, dtype), "bad": np.array([1, value], dtype)})
    with pytest.raises(VerificationError, match=r"module head, tensor bad.*finite"):
        check_module(module, Reader(blobs))


def test_bfloat16_and_bool_are_checked_too() -> None:
    for bits in (0x7F80, 0xFF80, 0x7FC0):
        module, blobs = pack_module("m", {"w": np.array([bits], np.uint16)}, {"w": "bfloat16"})
        with pytest.raises(VerificationError, match="tensor w"):
            check_module(module, Reader(blobs))
    module, blobs = pack_module("m", {"w": np.array([0x7F7F], np.uint16)}, {"w": "bfloat16"})
    check_module(module, Reader(blobs))
    blob = b"\x00\x02"
    entry = TensorEntry(name="m", dtype="bool", shape=(2,), blob=digest_of(blob), offset=0, size_bytes=2)
    module = replace(
        module, tensors=(entry,), digest=module_digest("m", (entry,), Reader({digest_of(blob): blob}))
    )
    with pytest.raises(VerificationError, match="neither 0 nor 1"):
        check_module(module, Reader({digest_of(blob): blob}))


def test_a_module_needs_a_tensor() -> None:
    with pytest.raises(InvalidInputError, match="module head"):
        pack_module("head", {})
