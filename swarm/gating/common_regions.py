"""Regions that several nodes' novel samples have in common, as an add brings them to one of these nodes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.domain.growth import MAX_REGIONS_BYTES
from swarm.gating.distances import Floats

_DTYPE = np.dtype("<f4")


def found_regions(arrays: Mapping[str, NDArray[np.generic]]) -> Floats:
    """Return the centres float32 [K, R] of a federated k-means' result that some samples are near to."""
    centres, counts = arrays["centres"], arrays["counts"]
    found: Floats = centres[np.flatnonzero(counts)].astype(np.float32)
    return found


def packed_regions(centres: Floats) -> bytes:
    """Return centres float32 [K, R] as they travel: little-endian, row by row."""
    return np.ascontiguousarray(centres, dtype=_DTYPE).tobytes()


def unpacked_regions(data: bytes, columns: int, most: int) -> Floats:
    """Return the centres float32 [K, columns] that were packed.

    Raises InvalidInputError unless they are 1 to `most` rows of finite numbers, in MAX_REGIONS_BYTES.
    """
    rows, left = divmod(len(data), columns * _DTYPE.itemsize)
    if left or not 1 <= rows <= most or len(data) > MAX_REGIONS_BYTES:
        raise InvalidInputError(
            "common regions",
            found=f"{len(data)} bytes",
            expected=f"1 to {most} rows of {columns} float32, at most {MAX_REGIONS_BYTES} bytes",
        )
    centres = np.frombuffer(data, dtype=_DTYPE).reshape(rows, columns).astype(np.float32)
    if not np.isfinite(centres).all():
        raise InvalidInputError("common regions", found="numbers that are not finite", expected="finite ones")
    return centres
