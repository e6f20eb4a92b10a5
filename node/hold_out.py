"""Which samples stay back for validation: decided by each sample's own bytes, once and for all."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from swarm.digests import blake3
from swarm.domain.errors import InvalidInputError

VALIDATION_FRACTION = 0.1
_SCALE = float(1 << 64)


def hold_out(
    inputs: NDArray[np.generic],
    labels: NDArray[np.int64],
    fraction: float,
    validated: Collection[int] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training rows, validation rows), int64, rising, disjoint, together all rows.

    A sample is held out if the hash of its bytes, as a number 0..1, is below fraction. So whatever is trained
    on now is never judged on later: not when data are added or reordered, nor under another seed; equal
    samples of a class are on one side. A class of two or more different samples keeps at least one on either
    side, or on the training side alone if it is among the `validated`, the labels that there are validation
    samples of already: else a stream's small mega-batches would give far more than the fraction away. (Of
    such a class a sample that was trained on may be held out later, by a training without `validated`.)
    Raises InvalidInputError where no class has two different samples, and none is validated.
    """
    places = np.array([_place(sample) for sample in np.ascontiguousarray(inputs)], dtype=np.float64)
    held_out = places < fraction
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= 2 and label not in validated:
            held_out[rows[places[rows] == places[rows].min()]] = True
        if held_out[rows].all():
            held_out[rows[places[rows] == places[rows].max()]] = False
    if not held_out.any() and not len(validated):
        raise InvalidInputError(
            "validation split",
            found=f"{len(labels)} samples, no class with two different ones",
            expected="a class with at least two different samples",
            remedy="bring more samples",
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _place(sample: NDArray[np.generic]) -> float:
    return int.from_bytes(blake3(sample.tobytes()).digest(8), "big") / _SCALE
