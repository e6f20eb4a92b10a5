"""Which of very many points are near another one, without looking at all of them: an inverted file.

Points lie in cells around centres, and a search scans the cells whose centres are nearest. Coordinates are
whole numbers, so small that each distance between them is exact in float32 in whatever order it is added up:
the same points give the same cells and the same findings, however many threads or other rows are computed
beside them. Source: Jegou, Douze and Schmid 2011 (inverted files).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.gating.cells import cell_count, cells_of
from swarm.gating.distances import Floats
from swarm.gating.whole_numbers import WholeFrame, as_queries

Integers = NDArray[np.int64]
RECALL = 0.99
"""So many searches find the nearest point of all."""
_QUANTILE = 0.996
"""Cells are probed until so many of the searches that are tried out find it: those are not the real ones."""
_SURELY = 0.975
"""The cells that are probed in any case hold what so many of them look for."""
_FEWEST = 6
_TRIED = 3000
_TRIED_AT_A_TIME = 64
_DIRECTIONS = 8
_SEED = 20240229


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointIndex:
    """Points in cells: those of cell c stand at starts[c] up to starts[c + 1].

    codes float32 [N, D + 1] are whole coordinates in `frame` with the squared length behind them, rows int64
    [N] the points' own numbers, centres float32 [C, D + 1] like codes, starts int64 [C + 1]. A search looks
    into the cells whose centres are, in squared distance, within `margin` of the nearest one, but into the
    `least` nearest in any case and into the `probes` nearest at most.
    """

    frame: WholeFrame
    codes: Floats
    rows: Integers
    centres: Floats
    starts: Integers
    probes: int
    margin: float
    least: int
    _cells: tuple[Floats, ...] = field(init=False, repr=False)
    _sizes: Integers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cells", tuple(np.split(self.codes, self.starts[1:-1])))
        object.__setattr__(self, "_sizes", np.diff(self.starts))

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
        probes, margin, least = _probes(frame.codes(tried), codes, labels, centres)
        return cls(
            frame=frame,
            codes=codes[order],
            rows=order,
            centres=centres,
            starts=starts,
            probes=probes,
            margin=margin,
            least=least,
        )

    @property
    def size_bytes(self) -> int:
        """Memory beside the points themselves."""
        return int(self.codes.nbytes + self.rows.nbytes + self.centres.nbytes + self.starts.nbytes)

    @property
    def flops_per_search(self) -> int:
        """Distances to the centres, and to the points of as many average cells as are probed."""
        seen = len(self.centres) + self.probes * len(self.codes) // len(self.centres)
        return int(2 * self.codes.shape[1] * seen)

    def near(self, point: NDArray[np.floating], most: int) -> Integers | None:
        """Return the nearest of the points that a search sees, at most `most`, by their numbers, in no order.

        point float [D]; None where it lies so far out that only a full scan can tell.
        """
        query = self.frame.query(point)
        if query is None:
            return None
        to_centres = self.centres.dot(query)
        nearest = to_centres.copy()
        nearest.partition(self.least - 1)
        bound = max(nearest[: self.least].min() + self.margin, nearest[self.least - 1])
        cells = (to_centres <= bound).nonzero()[0]
        if len(cells) > self.probes:
            cells = cells[to_centres[cells].argpartition(self.probes)[: self.probes]]
        costs = np.concatenate([self._cells[cell].dot(query) for cell in cells.tolist()])
        ends = self._sizes[cells].cumsum()
        found = costs.argpartition(most)[:most] if len(costs) > most else np.arange(len(costs))
        places = ends.searchsorted(found, side="right")
        rows: Integers = self.rows[found + (self.starts[1:][cells] - ends)[places]]
        return rows


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


def _probes(searches: Floats, codes: Floats, labels: Integers, centres: Floats) -> tuple[int, float, int]:
    """Return to how many cells at most, how much farther than the nearest centre, and to how many cells at
    least a search has to go to find the nearest point as often as wanted; searches are codes [S, D + 1].

    Of points far out that distance says little: the third sees to those.
    """
    queries = as_queries(searches)
    ranks, gaps = [], []
    for start in range(0, len(queries), _TRIED_AT_A_TIME):
        some = queries[start : start + _TRIED_AT_A_TIME]
        nearest = (some @ codes.T).argmin(axis=1)
        to_centres = some @ centres.T
        own = to_centres[np.arange(len(some)), labels[nearest]]
        ranks.append((to_centres <= own[:, None]).sum(axis=1))
        gaps.append(own - to_centres.min(axis=1))
    rank, gap = (np.quantile(np.concatenate(each), _QUANTILE, method="higher") for each in (ranks, gaps))
    sure = np.quantile(np.concatenate(ranks), _SURELY, method="higher")
    least = min(max(int(sure), _FEWEST), len(centres))
    return max(int(rank), least), float(gap), least
