"""Tensors of the Open Inference Protocol: raw bytes, typed contents and JSON to arrays, and back. Pure."""

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.open_inference import Numbers, OfferedTensor, OutputTensor, TensorMetadata

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
"""The datatypes that a swarm's inputs may have."""
MOST_NUMBERS: Final = 1 << 20
"""An input that comes as single numbers has at most so many: reading them keeps the process from all else."""
MOST_SIZES: Final = 64
"""No shape has more: their product, and naming it, would keep the process from all else."""
_LENGTH: Final = struct.Struct("<I")


def read_input(offered: Sequence[OfferedTensor], expected: TensorMetadata) -> NDArray[np.generic]:
    """Return the one input of a request as an array of the expected datatype, its rows first.

    Its rows and values are checked where queries are. Raises InvalidInputError for another name or datatype,
    no content or one that is no numbers, ShapeMismatchError for another shape, or a content that does not
    fill it.
    """
    if len(offered) != 1 or offered[0].name != expected.name:
        names = ", ".join(repr(tensor.name[:40]) for tensor in offered[:5])
        raise InvalidInputError(
            "inputs", found=names or "none", expected=f"one input, {expected.name!r}, {_described(expected)}"
        )
    tensor = offered[0]
    subject = f"input {tensor.name}"
    if tensor.datatype != expected.datatype:
        raise InvalidInputError(
            subject,
            found=f"datatype {tensor.datatype[:40]}" if tensor.datatype else "no datatype",
            expected=f"datatype {expected.datatype}",
        )
    _check_shape(tensor.shape, expected, subject)
    if "shared_memory_region" in tensor.parameters:
        raise InvalidInputError(
            subject, found="a region of shared memory", expected="its content in the request itself"
        )
    if tensor.content is None:
        raise InvalidInputError(
            subject, found="no content", expected=f"the numbers of {list(tensor.shape)}, row by row"
        )
    if isinstance(tensor.content, bytes | memoryview):
        return _from_raw(tensor.content, tensor, subject)
    return _from_numbers(tensor.content, tensor, subject)


def _check_shape(shape: tuple[int, ...], expected: TensorMetadata, subject: str) -> None:
    if len(shape) == len(expected.shape) and shape[1:] == expected.shape[1:] and shape[0] >= 0:
        return
    raise ShapeMismatchError(
        subject,
        found=f"shape {list(shape[:16])}",
        expected=f"shape {_rows_of(expected)}",
        remedy="the first size is the number of rows, 1 for a single one",
    )


def _from_raw(content: bytes | memoryview, tensor: OfferedTensor, subject: str) -> NDArray[np.generic]:
    dtype = DTYPES[tensor.datatype]
    promised = math.prod(tensor.shape) * dtype.itemsize
    if len(content) != promised:
        raise ShapeMismatchError(
            subject,
            found=f"{len(content)} bytes",
            expected=f"{promised} bytes for {tensor.datatype} {list(tensor.shape)}",
        )
    return np.frombuffer(content, dtype=dtype).reshape(tensor.shape)


def _from_numbers(content: Numbers, tensor: OfferedTensor, subject: str) -> NDArray[np.generic]:
    if len(content) > MOST_NUMBERS:
        raise InvalidInputError(
            subject,
            found=f"{len(content)} single numbers",
            expected=f"at most {MOST_NUMBERS}",
            remedy="send them as bytes: raw_input_contents, over HTTP binary_data_size",
        )
    try:
        # A text among numbers would make numpy hold all of them as texts of its length.
        found = np.array(content) if _has_numbers_alone(content) else np.empty(0, dtype=object)
    except (ValueError, OverflowError):  # rows of several lengths
        found = np.empty(0, dtype=object)
    kinds = "iuf" if tensor.datatype == "FP32" else "iu"
    if found.dtype.kind not in kinds and (found.size or len(content)):
        raise InvalidInputError(
            subject,
            found="a content that is no table of numbers",
            expected=f"{'' if 'f' in kinds else 'whole '}numbers, flat or nested as {list(tensor.shape)}",
        )
    if found.size != math.prod(tensor.shape) or (found.ndim > 1 and found.shape != tensor.shape):
        nested = f", nested as {list(found.shape)}" if found.ndim > 1 else ""
        raise ShapeMismatchError(
            subject,
            found=f"{found.size} numbers{nested}",
            expected=f"{math.prod(tensor.shape)} numbers for {tensor.datatype} {list(tensor.shape)}",
        )
    if tensor.datatype == "UINT8" and found.size and (found.min() < 0 or found.max() > 255):
        raise InvalidInputError(
            subject, found=f"numbers from {found.min()} to {found.max()}", expected="UINT8: 0 to 255"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return found.astype(DTYPES[tensor.datatype]).reshape(tensor.shape)


def _has_numbers_alone(content: Numbers) -> bool:
    """Say whether nothing but numbers is in a list, nested to one depth everywhere."""
    entries: Sequence[Any] = content
    while (kinds := set(map(type, entries))) == {list}:
        entries = list(chain.from_iterable(entries))
    return kinds <= {int, float}


def raw_of(output: OutputTensor) -> bytes:
    """Return an output's bytes: little-endian numbers, or texts each after its length in 4 bytes."""
    if isinstance(output.values, tuple):
        return b"".join(_LENGTH.pack(len(text)) + text for text in output.values)
    return output.values.astype(DTYPES["FP32"], copy=False).tobytes()


def _described(tensor: TensorMetadata) -> str:
    return f"{tensor.datatype} {_rows_of(tensor)}"


def _rows_of(tensor: TensorMetadata) -> str:
    return f"[rows, {', '.join(map(str, tensor.shape[1:]))}]"
