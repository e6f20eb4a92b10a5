"""Arrays into blobs and back, without loss and without a copy on the way back.

Tensors of at most 64 KiB lie together in one blob, each at a multiple of 64 bytes; larger ones have a blob
of their own, so that a change of one layer moves that layer's bytes only. Bytes are raw, little-endian,
row by row. numpy has no bfloat16: such tensors are uint16 arrays, named in `dtypes`.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from swarm.digests import blake3, digest_of
from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.tensors import DTYPE_BYTES, ModuleEntry, TensorEntry

SMALL_TENSOR_BYTES: Final = 64 * 1024
_ALIGNMENT: Final = 64
_FINITE_CHUNK: Final = 1 << 20
_BFLOAT16_EXPONENT: Final = 0x7F80
_NO_DTYPES: Final[Mapping[str, str]] = MappingProxyType({})

Array = NDArray[Any]
ReadBlob = Callable[[Digest], memoryview]


def pack_arrays(
    arrays: Mapping[str, Array], dtypes: Mapping[str, str] = _NO_DTYPES
) -> tuple[tuple[TensorEntry, ...], dict[Digest, bytes]]:
    """Return entries in the order of arrays, and the blobs that hold their bytes.

    `dtypes` names a tensor's type where numpy's differs (`bfloat16` in a uint16 array).
    Raises InvalidInputError for types that are not carried (objects, strings, complex numbers).
    """
    raw = {name: _raw(name, array) for name, array in arrays.items()}
    small = {name: data for name, data in raw.items() if len(data) <= SMALL_TENSOR_BYTES}
    packed, offsets = _laid_out(small)
    blobs: dict[Digest, bytes] = {}
    packed_digest = digest_of(packed)
    if small:
        blobs[packed_digest] = packed
    entries = []
    for name, array in arrays.items():
        blob = packed_digest
        if name not in small:
            blob = digest_of(raw[name])
            blobs[blob] = raw[name]
        entries.append(_entry(name, array, dtypes.get(name), blob, offsets.get(name, 0)))
    return tuple(entries), blobs


def pack_single(
    arrays: Mapping[str, Array], dtypes: Mapping[str, str] = _NO_DTYPES
) -> tuple[tuple[TensorEntry, ...], Digest, bytes]:
    """Return entries, digest and bytes of ONE blob that holds all arrays, whatever their sizes."""
    packed, offsets = _laid_out({name: _raw(name, array) for name, array in arrays.items()})
    blob = digest_of(packed)
    entries = tuple(
        _entry(name, array, dtypes.get(name), blob, offsets[name]) for name, array in arrays.items()
    )
    return entries, blob, packed


def pack_module(
    name: str, arrays: Mapping[str, Array], dtypes: Mapping[str, str] = _NO_DTYPES
) -> tuple[ModuleEntry, dict[Digest, bytes]]:
    """Return a module of these arrays and the blobs that hold them; InvalidInputError if there are none."""
    if not arrays:
        raise InvalidInputError(f"module {name}", found="no tensors", expected="at least one")
    entries, blobs = pack_arrays(arrays, dtypes)
    digest = module_digest(name, entries, lambda blob: memoryview(blobs[blob]))
    return ModuleEntry(name=name, digest=digest, tensors=entries), blobs


def unpack(entries: Sequence[TensorEntry], read: ReadBlob) -> dict[str, Array]:
    """Return the arrays by name: read-only views into the blobs that `read` returns (bfloat16: as uint16).

    Raises VerificationError where a tensor reaches beyond its blob or a name comes twice, and what `read`
    raises.
    """
    views: dict[Digest, memoryview] = {}
    arrays: dict[str, Array] = {}
    for entry in entries:
        if entry.name in arrays:
            raise VerificationError(f"tensor {entry.name}", found="its name twice", expected="distinct names")
        if entry.blob not in views:
            views[entry.blob] = read(entry.blob).toreadonly()
        arrays[entry.name] = _view(entry, views[entry.blob])
    return arrays


def module_digest(name: str, entries: Sequence[TensorEntry], read: ReadBlob) -> Digest:
    """Return the digest of a module's tensor names, types, shapes and bytes, whatever their order and blobs.

    The same weights have the same digest under any module name; `name` serves for errors alone.
    """
    try:
        arrays = unpack(entries, read)
    except VerificationError as error:
        raise _in_module(name, error) from error
    ordered = sorted(entries, key=lambda entry: entry.name)
    layout = [[entry.name, entry.dtype, list(entry.shape)] for entry in ordered]
    header = json.dumps(layout, separators=(",", ":"), ensure_ascii=True).encode()
    hasher = blake3(len(header).to_bytes(8, "little"))
    hasher.update(header)
    for entry in ordered:
        hasher.update(arrays[entry.name].reshape(-1).view(np.uint8).data)
    return Digest(hasher.hexdigest())


def check_module(module: ModuleEntry, read: ReadBlob) -> None:
    """Raise VerificationError, naming module and tensor, unless the bytes are the module's and finite."""
    if not module.tensors:
        raise VerificationError(f"module {module.name}", found="no tensors", expected="at least one")
    if module_digest(module.name, module.tensors, read) != module.digest:
        # Their own digest would tell who offers a manifest over others' bytes what these are.
        raise VerificationError(
            f"module {module.name}",
            found="tensors with another digest",
            expected=f"digest {module.digest[:12]}",
            remedy="the module is not used; fetch it from another holder or publish it again",
        )
    arrays = unpack(module.tensors, read)
    for entry in module.tensors:
        if not _is_finite(arrays[entry.name], entry.dtype):
            raise VerificationError(
                f"module {module.name}, tensor {entry.name}",
                found="a NaN or infinite value"
                if entry.dtype != "bool"
                else "a byte that is neither 0 nor 1",
                expected="finite numbers",
                remedy="train again with a lower learning rate; this module is not used",
            )


def _raw(name: str, array: Array) -> bytes:
    if array.dtype.name not in DTYPE_BYTES and array.dtype != np.uint16:
        raise InvalidInputError(
            f"tensor {name}", found=f"dtype {array.dtype}", expected=", ".join(DTYPE_BYTES)
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def _laid_out(raw: Mapping[str, bytes]) -> tuple[bytes, dict[str, int]]:
    packed, offsets = bytearray(), {}
    for name, data in raw.items():
        packed += bytes(-len(packed) % _ALIGNMENT)
        offsets[name] = len(packed)
        packed += data
    return bytes(packed), offsets


def _entry(name: str, array: Array, dtype: str | None, blob: Digest, offset: int) -> TensorEntry:
    dtype = dtype or array.dtype.name
    if dtype != array.dtype.name and (dtype, array.dtype.name) != ("bfloat16", "uint16"):
        raise InvalidInputError(f"tensor {name}", found=f"{array.dtype} array", expected=f"{dtype} values")
    return TensorEntry(
        name=name, dtype=dtype, shape=array.shape, blob=blob, offset=offset, size_bytes=array.nbytes
    )


def _view(entry: TensorEntry, blob: memoryview) -> Array:
    end = entry.offset + entry.size_bytes
    if end > len(blob):
        raise VerificationError(
            f"tensor {entry.name}",
            found=f"bytes {entry.offset} to {end} of a blob of {len(blob)}",
            expected=f"all of them inside blob {entry.blob[:12]}",
        )
    dtype = np.dtype("uint16" if entry.dtype == "bfloat16" else entry.dtype).newbyteorder("<")
    count = math.prod(entry.shape)
    if count == 0:
        flat = np.empty(0, dtype)
        flat.flags.writeable = False
    else:
        flat = np.frombuffer(blob, dtype, count=count, offset=entry.offset)
    native = flat if sys.byteorder == "little" else flat.astype(dtype.newbyteorder("="))
    return native.reshape(entry.shape)


def _is_finite(array: Array, dtype: str) -> bool:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _FINITE_CHUNK):
        part = flat[start : start + _FINITE_CHUNK]
        if dtype == "bfloat16":
            bad = bool(((part & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any())
        elif dtype == "bool":
            bad = bool((part.view(np.uint8) > 1).any())
        else:
            bad = part.dtype.kind == "f" and not np.isfinite(part).all()
        if bad:
            return False
    return True


def _in_module(name: str, error: VerificationError) -> VerificationError:
    return type(error)(
        f"module {name}, {error.subject}", found=error.found, expected=error.expected, remedy=error.remedy
    )
