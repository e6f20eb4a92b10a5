"""Arrays on disk: whole or not at all, and large ones without a second copy in memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.digests import blake3
from swarm.domain.ids import Digest
from swarm.domain.tensors import TensorEntry

_ALIGNMENT = 64


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as .npz, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_blob(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, TensorEntry], int]:
    """Write arrays as one blob, as `swarm.modules.packing.pack_single` lays it out, array by array.

    Returns the tensors' entries by name and the blob's size in bytes. The file is whole or not there.
    """
    temporary = path.with_name(f".{path.name}")
    hasher, offsets, size_bytes = blake3(), dict[str, int](), 0
    with temporary.open("wb") as file:
        for name, array in arrays.items():
            flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
            padding = bytes(-size_bytes % _ALIGNMENT)
            offsets[name] = size_bytes + len(padding)
            for part in (padding, flat.view(np.uint8).data):
                hasher.update(part)
                file.write(part)
                size_bytes += len(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    blob = Digest(hasher.hexdigest())
    entries = {
        name: TensorEntry(
            name=name,
            dtype=array.dtype.name,
            shape=array.shape,
            blob=blob,
            offset=offsets[name],
            size_bytes=array.nbytes,
        )
        for name, array in arrays.items()
    }
    return entries, size_bytes
