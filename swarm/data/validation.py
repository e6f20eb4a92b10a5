"""What stays back before anything else is done: a validation split."""

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training rows, validation rows), int64, rising, disjoint, together all rows of labels [N].

    Stratified: every class of n >= 2 samples gives round(n * fraction) of them, at least 1 and at most n - 1,
    to validation; a lone sample is trained on. Raises InvalidInputError where no class has two samples.
    """
    if not 0 < fraction < 1:
        raise InvalidInputError(
            "validation fraction", found=str(fraction), expected="between 0 and 1", remedy="for example 0.1"
        )
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= 2:
            count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
            held_out[rng.permutation(rows)[:count]] = True
    if not held_out.any():
        raise InvalidInputError(
            "validation split",
            found=f"{len(labels)} samples, no class with two",
            expected="a class with at least two samples",
            remedy="bring more samples",
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
