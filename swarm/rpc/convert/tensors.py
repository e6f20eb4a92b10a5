"""Arrays on the wire: raw little-endian bytes with a dtype and a shape, checked by name on arrival."""

import math

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.tensors import DTYPE_BYTES, MAX_TENSOR_BYTES
from swarm.rpc.pb import types_pb2

WIRE_DTYPES = tuple(name for name in DTYPE_BYTES if name != "bfloat16")
_MAX_DIMENSIONS = 8


def set_tensor(message: types_pb2.Tensor, array: NDArray[np.generic], subject: str) -> None:
    """Fill an empty message with array; InvalidInputError, naming subject, where its dtype does not travel.

    In the message that it is a part of: one that is given to another's constructor is copied by writing and
    reading it, 17 ms for 8 MiB at every level.
    """
    name = array.dtype.name
    if name not in WIRE_DTYPES:
        raise InvalidInputError(subject, found=f"dtype {name}", expected=", ".join(WIRE_DTYPES))
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    message.dtype, message.data = name, little.tobytes()
    message.shape.extend(array.shape)


def tensor_from_pb(message: types_pb2.Tensor, subject: str) -> NDArray[np.generic]:
    """Return the message's array, read-only and without a copy.

    Raises InvalidInputError for an unknown dtype or a value that is not finite, ShapeMismatchError where
    the shape is absurd or the bytes do not fill it; each names subject.
    """
    if message.dtype not in WIRE_DTYPES:
        found = repr(message.dtype[:40]) if message.dtype else "no dtype"
        raise InvalidInputError(subject, found=found, expected=f"a dtype of {', '.join(WIRE_DTYPES)}")
    shape = tuple(message.shape)
    if len(shape) > _MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise ShapeMismatchError(
            subject, found=f"shape {list(shape)[:16]}", expected=f"at most {_MAX_DIMENSIONS} sizes >= 0"
        )
    data = message.data  # a copy, each time
    promised = math.prod(shape) * DTYPE_BYTES[message.dtype]
    if len(data) != promised:
        raise ShapeMismatchError(
            subject,
            found=f"{len(data)} bytes",
            expected=f"{promised} bytes for {message.dtype} {list(shape)}",
        )
    # A size of 0 lets the others cost no bytes, and numpy has no such arrays all the same.
    if math.prod(max(side, 1) for side in shape) > MAX_TENSOR_BYTES:
        raise ShapeMismatchError(subject, found=f"shape {list(shape)}", expected="sizes of a real array")
    if message.dtype == "bool" and data.strip(b"\0\1"):
        raise InvalidInputError(subject, found="a bool that is neither 0 nor 1", expected="0 or 1")
    array = np.frombuffer(data, dtype=np.dtype(message.dtype).newbyteorder("<")).reshape(shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidInputError(
            subject, found=f"{array[tuple(first)]} at {first}", expected="finite numbers everywhere"
        )
    return array


def rows_from_pb(message: types_pb2.Tensor, rows: int, columns: int, subject: str) -> NDArray[np.float32]:
    """Return the message as float32 [rows, columns]; ShapeMismatchError, naming subject, if it is not."""
    array = tensor_from_pb(message, subject)
    if array.dtype != np.float32 or array.shape != (rows, columns):
        raise ShapeMismatchError(
            subject, found=f"{array.dtype} {list(array.shape)}", expected=f"float32 [{rows}, {columns}]"
        )
    return array.astype(np.float32, copy=False)
