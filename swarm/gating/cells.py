"""Very many points in cells around centres: k-means in whole numbers, the same for the same points.

Codes are points with whole coordinates and their squared length behind them (`swarm.gating.whole_numbers`):
no distance between them is rounded, in whatever order it is added up.
"""

import math

import numpy as np
from numpy.typing import NDArray

from swarm.gating.distances import Floats
from swarm.gating.whole_numbers import as_queries, with_lengths

Integers = NDArray[np.int64]
_ITERATIONS = 8
_TRAINED_ON = 32
_CROWDED = 4
_CHUNK = 4096


def cell_count(points: int) -> int:
    """Return a power of 2 near three times the root of their number."""
    return min(points, 1 << round(math.log2(3 * math.sqrt(points))))


def cells_of(codes: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Integers]:
    """Return centres float32 [C, D + 1] and each point's cell, int64 [N], no cell empty and none crowded."""
    trained = codes[np.sort(rng.permutation(len(codes))[: _TRAINED_ON * count])]
    centres = trained[np.sort(rng.permutation(len(trained))[:count])]
    for _ in range(_ITERATIONS):
        centres = _means(trained, _nearest(trained, centres), centres)
    labels = _nearest(codes, centres)
    for _ in range(2):
        # What lies too closely for the centres so far gets some of its own.
        sizes = np.bincount(labels, minlength=len(centres))
        crowded = np.flatnonzero(sizes > _CROWDED * len(codes) / len(centres))
        if not len(crowded):
            break
        added = [
            codes[np.flatnonzero(labels == cell)[:: max(1, sizes[cell] * len(centres) // len(codes))]]
            for cell in crowded.tolist()
        ]
        wanted = np.unique(np.concatenate([centres, *(some[: len(centres) // 8] for some in added)]), axis=0)
        centres = _means(codes, _nearest(codes, wanted), wanted)
        labels = _nearest(codes, centres)
    used, labels = np.unique(labels, return_inverse=True)
    return centres[used], labels.astype(np.int64)


def _means(codes: Floats, labels: Integers, centres: Floats) -> Floats:
    """Return the cells' means in whole numbers; a cell without points keeps its centre."""
    order = np.argsort(labels, kind="stable")
    used, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(codes[order, :-1].astype(np.float64), starts, axis=0)
    found = centres.copy()
    found[used] = with_lengths(np.rint(sums / counts[:, None]))
    return found


def _nearest(codes: Floats, centres: Floats) -> Integers:
    queries = as_queries(codes)
    parts = [
        (queries[start : start + _CHUNK] @ centres.T).argmin(axis=1) for start in range(0, len(codes), _CHUNK)
    ]
    return np.concatenate(parts).astype(np.int64)
