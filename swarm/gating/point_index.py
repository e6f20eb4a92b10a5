"""Which of very many points are near another one, without looking at all of them: an inverted file.

Points lie in cells around centres, and a search scans the cells whose centres are nearest. Coordinates are
whole numbers, so small that each distance between them is exact in float32 in whatever order it is added up:
the same points give the same cells and the same findings, however many threads or other rows are computed
beside them. Source: Jegou, Douze and Schmid 2011 (inverted files).
"""

import math
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from swarm.gating.cells import cell_count, cells_of
from swarm.gating.distances import Floats
from swarm.gating.whole_numbers import WholeFrame, as_queries

Integers = NDArray[np.int64]
RECALL = 0.99
"""So many searches find the nearest point of all."""
_FOUND = (0.997, 0.94)
"""So many of the searches that are tried out, which are not the real ones, have to find the nearest point,
and so many of them the nearest point of another cell, too: more than one weighs in an answer."""
_FIRST = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96)
"""So many cells may be what every search looks into; which, and what then ends a search, is tried out."""
_ENDS = (0.998, 0.999, 1.0)
"""The cells that hold the nearest point of so many of them may be the most that a search looks into."""
_TRIED = 3000
_TRIED_AT_A_TIME = 64
_DIRECTIONS = 8
_SEED = 20240229


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointIndex:
    """Points in cells: those of cell c have the numbers rows[starts[c] : starts[c + 1]].

    cells are C arrays float32 [D + 1, n] whose columns are points: whole coordinates in `frame` with the
    squared length behind them; the columns of centres float32 [D + 1, C] are the like. rows int64 [N], starts
    int64 [C + 1]. A search looks into the `least` cells whose centres are nearest, and then into those whose
    centres are up to `reach` times as far, in squared distance, as the nearest point so far: into `probes`
    cells at most.
    """

    frame: WholeFrame
    cells: tuple[Floats, ...]
    rows: Integers
    centres: Floats
    starts: Integers
    probes: int
    reach: float
    least: int
    _sizes: Integers = field(init=False, repr=False)
    _ends: Integers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sizes", np.diff(self.starts))
        object.__setattr__(self, "_ends", self.starts[1:])

    @classmethod
    def of(cls, points: Floats, radii: NDArray[np.floating]) -> "PointIndex":
        """Return the index of points float32 [N, D], N >= 2, the same for the same points.

        radii [N, Q] say how far from its point what is searched for lies: by them it finds out how many cells
        are to be probed. Takes seconds for 100,000 points: call it outside the event loop.
        """
        frame = WholeFrame.around(points)
        codes = frame.codes(points)
        rng = np.random.default_rng(_SEED)
        centres, labels = cells_of(codes, cell_count(len(points)), rng)
        order = np.argsort(labels, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(centres)))])
        tried = _searches(points, radii, order, starts, labels, rng)
        codes = codes[order]
        probes, reach, least = _probes(frame.codes(tried), codes, starts, centres)
        return cls(
            frame=frame,
            cells=tuple(np.ascontiguousarray(cell.T) for cell in np.split(codes, starts[1:-1])),
            rows=order,
            centres=np.ascontiguousarray(centres.T),
            starts=starts,
            probes=probes,
            reach=reach,
            least=least,
        )

    @property
    def size_bytes(self) -> int:
        """Memory beside the points themselves."""
        points = sum(cell.nbytes for cell in self.cells)
        return points + self.rows.nbytes + self.centres.nbytes + self.starts.nbytes

    @property
    def flops_per_search(self) -> int:
        """Distances to the centres, and to the points of as many average cells as are probed."""
        size, count = self.centres.shape
        return int(2 * size * (count + self.probes * len(self.rows) // count))

    def near(self, point: NDArray[np.floating], most: int) -> Integers | None:
        """Return the nearest of the points that a search sees, at most `most`, by their numbers, in order.

        The nearest comes first. point float [D]; None where it lies so far out that only a full scan can
        tell.
        """
        query = self.frame.query(point)
        if query is None:
            return None
        cells, costs = self._looked_into(*query)
        found = costs.argpartition(most)[:most] if len(costs) > most else np.arange(len(costs))
        found = found[costs[found].argsort(kind="stable")]
        ends = self._sizes[cells].cumsum()
        places = ends.searchsorted(found, side="right")
        rows: Integers = self.rows[found + (self._ends[cells] - ends)[places]]
        return rows

    def _looked_into(self, code: Floats, length: float) -> tuple[Integers, Floats]:
        """Return the cells that a search looks into, and what their points cost, one cell after the other.

        code and length are of `WholeFrame.query`; a cost is a squared distance without that length.
        """
        to_centres = code.dot(self.centres)
        cells = to_centres.argpartition(self.probes - 1)[: self.probes]
        to_centres = to_centres[cells]
        order = to_centres.argsort(kind="stable")
        cells = cells[order]
        costs = np.concatenate([code.dot(self.cells[cell]) for cell in cells[: self.least].tolist()])
        bound = self.reach * (float(costs.min()) + length) - length
        looked = max(self.least, int(to_centres[order].searchsorted(bound, side="right")))
        more = [code.dot(self.cells[cell]) for cell in cells[self.least : looked].tolist()]
        return cells[:looked], np.concatenate([costs, *more]) if more else costs


def _searches(
    points: Floats,
    radii: NDArray[np.floating],
    order: Integers,
    starts: Integers,
    labels: Integers,
    rng: np.random.Generator,
) -> Floats:
    """Return what might be searched for, [S, D]: points moved as far as their radii say, in directions in
    which the points of their cell differ."""
    rows = rng.integers(len(points), size=_TRIED)
    far = radii[rows, rng.integers(radii.shape[1], size=len(rows))].astype(np.float64)
    first, sizes = starts[labels[rows]], np.diff(starts)[labels[rows]]
    moved = np.zeros((len(rows), points.shape[1]))
    for _ in range(_DIRECTIONS):
        one, other = (order[first + (rng.random(len(rows)) * sizes).astype(np.int64)] for _ in range(2))
        moved += rng.normal(size=len(rows))[:, None] * (points[one].astype(np.float64) - points[other])
    lengths = np.sqrt(np.einsum("nd,nd->n", moved, moved))
    steps = np.where(lengths > 0, far / np.where(lengths > 0, lengths, 1), 0)
    # Every other one goes as far as points of its cell lie apart, for what nobody's samples were like.
    steps[::2] = np.maximum(steps[::2], math.sqrt(0.5 / _DIRECTIONS))
    return (points[rows] + moved * steps[:, None]).astype(np.float32)


def _probes(searches: Floats, codes: Floats, starts: Integers, centres: Floats) -> tuple[int, float, int]:
    """Return `probes`, `reach` and `least` with which searches find what they have to and look into the
    fewest cells: in the mean and in the median, added up.

    searches and centres are codes [., D + 1], codes float32 [N, D + 1] those of all points by cell.
    """
    if len(centres) <= _FIRST[0]:
        return len(centres), 0.0, len(centres)
    far, nearest = _by_rank(searches, codes, starts, centres)
    ranks = np.maximum.accumulate(nearest.argpartition((0, 1), axis=1)[:, :2], axis=1)
    own = np.take_along_axis(far, ranks, axis=1)
    np.minimum.accumulate(nearest, axis=1, out=nearest)
    in_another = int(np.quantile(ranks[:, 1], _FOUND[1], method="higher"))
    found = []
    for least, end in product((first for first in _FIRST if first <= len(centres)), _ENDS):
        so_far = nearest[:, least - 1 : least]
        probes = max(least, 1 + in_another, 1 + int(np.quantile(ranks[:, 0], end, method="higher")))
        needed = np.where(ranks < probes, own / np.maximum(so_far, 1), np.inf)
        needed[ranks < least] = 0
        reach = max(
            float(np.quantile(each, share, method="higher"))
            for each, share in zip(needed.T, _FOUND, strict=True)
        )
        looked = (far <= reach * so_far).sum(axis=1).clip(least, probes)
        found.append((float(looked.mean() + np.median(looked)), probes, reach, least))
    _, probes, reach, least = min(found)
    return probes, reach, least


def _by_rank(searches: Floats, codes: Floats, starts: Integers, centres: Floats) -> tuple[Floats, Floats]:
    """Return each search's squared distances to the centres, rising, and to the nearest point of each of
    their cells, float32 [S, C]."""
    queries, lengths = as_queries(searches), searches[:, -1:]
    far, nearest = np.empty((2, len(queries), len(centres)), dtype=np.float32)
    for start in range(0, len(queries), _TRIED_AT_A_TIME):
        some = slice(start, start + _TRIED_AT_A_TIME)
        to_centres = queries[some] @ centres.T
        to_cells = np.minimum.reduceat(queries[some] @ codes.T, starts[:-1], axis=1)
        order = to_centres.argsort(axis=1, kind="stable")
        far[some] = np.take_along_axis(to_centres, order, axis=1) + lengths[some]
        nearest[some] = np.take_along_axis(to_cells, order, axis=1) + lengths[some]
    return far, nearest
