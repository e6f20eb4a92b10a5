"""How an array or a module lies in blobs. Raw little-endian bytes only: nothing is ever unpickled."""

import math
from dataclasses import dataclass
from typing import ClassVar

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest

FORBID_UNKNOWN = {"extra": "forbid"}
"""Signed records refuse fields that they do not know."""

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
MAX_TENSOR_BYTES = 1 << 36
MAX_ASKED_BLOBS = 10_000
"""A registry is asked for so many blobs at once."""

OWN_MODULE = "_own"
"""Holds the parameters and buffers that belong to no child of a net."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor: its dtype and shape and where its bytes lie inside a blob (offset and size in bytes)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    name: str
    dtype: str
    shape: tuple[int, ...]
    blob: Digest
    offset: int
    size_bytes: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise InvalidInputError(
                f"tensor {self.name}", found=f"dtype {self.dtype!r}", expected=", ".join(DTYPE_BYTES)
            )
        largest = math.prod(max(side, 1) for side in self.shape[:8])
        negative = any(side < 0 for side in self.shape) or self.offset < 0
        if len(self.shape) > 8 or negative or largest > MAX_TENSOR_BYTES:
            raise InvalidInputError(f"tensor {self.name}", found=f"shape {self.shape} at {self.offset}"[:200])
        promised = math.prod(self.shape) * DTYPE_BYTES[self.dtype]
        if self.size_bytes != promised or promised > MAX_TENSOR_BYTES:
            raise InvalidInputError(
                f"tensor {self.name}",
                found=f"{self.size_bytes} bytes",
                expected=f"{promised} bytes for {self.dtype} {list(self.shape)}, at most {MAX_TENSOR_BYTES}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleEntry:
    """A named part of a network's weights. `digest` is that of its tensors' names, types and bytes."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    name: str
    digest: Digest
    tensors: tuple[TensorEntry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


def state_name(module: str, tensor: str) -> str:
    """Return the name that a module's tensor has in its net's state dict."""
    return tensor if module == OWN_MODULE else f"{module}.{tensor}"
