"""A header and arrays as bytes, and back: raw little-endian arrays behind JSON. Nothing is ever unpickled.

The first four bytes are the header's length; the header's `arrays` lists dtype and shape of each array, whose
bytes follow in that order.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.federation import MAX_MESSAGE_BYTES
from swarm.domain.tensors import DTYPE_BYTES

DTYPES = tuple(name for name in DTYPE_BYTES if name != "bfloat16")
MAX_HEADER_BYTES = 1 << 20
_MAX_ARRAYS = 4096
_MAX_DIMENSIONS = 8

Array = NDArray[Any]


def pack(header: Mapping[str, Any], arrays: Sequence[Array], subject: str) -> bytes:
    """Return header and arrays as bytes; InvalidInputError, naming subject, for what does not travel."""
    described = []
    for array in arrays:
        if array.dtype.name not in DTYPES:
            raise InvalidInputError(subject, found=f"dtype {array.dtype.name}", expected=", ".join(DTYPES))
        described.append([array.dtype.name, list(array.shape)])
    try:
        text = json.dumps({**header, "arrays": described}, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise InvalidInputError(
            subject, found="a number that is NaN or infinite", expected="finite numbers"
        ) from error
    size = 4 + len(text) + sum(array.nbytes for array in arrays)
    if len(text) > MAX_HEADER_BYTES or size > MAX_MESSAGE_BYTES:
        raise InvalidInputError(
            subject,
            found=f"{size} bytes, {len(text)} of them names and numbers",
            expected=f"at most {MAX_MESSAGE_BYTES}, {MAX_HEADER_BYTES} of them names and numbers",
        )
    raw = [array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays]
    return b"".join([len(text).to_bytes(4, "big"), text, *raw])


def unpack(data: bytes, subject: str) -> tuple[dict[str, Any], list[Array]]:
    """Return the header and the arrays (read-only) in data.

    Raises InvalidInputError for bytes of another form, an unknown dtype or a number that is not finite;
    ShapeMismatchError where the bytes do not fill the shapes; each names subject.
    """
    size = int.from_bytes(data[:4], "big")
    if len(data) > MAX_MESSAGE_BYTES or size > MAX_HEADER_BYTES or len(data) < 4 + size:
        raise InvalidInputError(subject, found=f"{len(data)} bytes", expected="a header and arrays")
    try:
        header = json.loads(data[4 : 4 + size], parse_constant=_not_finite)
        listed = header.pop("arrays")
        described = [_described(entry) for entry in listed]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            subject, found="a header that cannot be read", expected="JSON with its arrays"
        ) from error
    if len(described) > _MAX_ARRAYS:
        raise InvalidInputError(subject, found=f"{len(described)} arrays", expected=f"at most {_MAX_ARRAYS}")
    lengths = [math.prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in described]
    if sum(lengths) != len(data) - 4 - size:
        raise ShapeMismatchError(
            subject, found=f"{len(data) - 4 - size} bytes of arrays", expected=f"{sum(lengths)}"
        )
    arrays, start = [], 4 + size
    for (dtype, shape), length in zip(described, lengths, strict=True):
        array = np.frombuffer(data, dtype=np.dtype(dtype), count=math.prod(shape), offset=start)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInputError(
                subject, found="a value that is NaN or infinite", expected="finite numbers"
            )
        arrays.append(array.reshape(shape))
        start += length
    return header, arrays


def pack_named(arrays: Mapping[str, Array], subject: str) -> bytes:
    """Return arrays by name as bytes."""
    return pack({"names": list(arrays)}, list(arrays.values()), subject)


def unpack_named(data: bytes, subject: str) -> dict[str, Array]:
    """Return the arrays by name in data; raises as `unpack` does."""
    header, arrays = unpack(data, subject)
    names = header.get("names")
    if (
        not isinstance(names, list)
        or len(set(map(str, names))) != len(arrays)
        or not all(isinstance(name, str) for name in names)
    ):
        raise InvalidInputError(subject, found="arrays without their names", expected="one name each")
    return dict(zip(names, arrays, strict=True))


def _described(entry: Any) -> tuple[str, tuple[int, ...]]:
    dtype, shape = entry
    known = dtype in DTYPES and len(shape) <= _MAX_DIMENSIONS
    if not known or any(type(side) is not int or not 0 <= side <= MAX_MESSAGE_BYTES for side in shape):
        raise ValueError(entry)
    return dtype, tuple(shape)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(text)
