"""Rows in tiles of one size, so that what else is computed beside a row does not change a bit of it.

Matrix products of other shapes add in another order: a row alone, among 5 others or among 500 may differ in
its last bits. In tiles every product has one shape, whatever the query's size and whoever else asks.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

TILE = 16
"""Rows of a tile."""
_Number = TypeVar("_Number", bound=np.generic)


def in_tiles(
    compute: Callable[[NDArray[np.generic]], NDArray[_Number]], rows: NDArray[np.generic]
) -> NDArray[_Number]:
    """Return compute's results for rows [B, ...], B >= 1, computed TILE rows at a time.

    The last tile is filled with copies of its last row. `compute` gives one result for each row.
    """
    parts = []
    for start in range(0, len(rows), TILE):
        part = rows[start : start + TILE]
        lacking = TILE - len(part)
        if lacking:
            part = np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)])
        parts.append(compute(part)[: TILE - lacking])
    return np.concatenate(parts)
