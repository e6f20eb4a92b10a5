"""Which of very many regions score highest by the analytic gate, without scoring all of them.

A region's score is the product of a query's features with the region's columns. Columns are sketched: of the
directions in which prototypes differ, the few that tell regions' scores apart are kept. Columns whose
sketches point in one direction share a cell. Cells are ranked by what their mean column scores and by how
near the query lies to its direction, which err in different ways; the regions of the best ones are scored by
their own columns. How far the best of these stands out from all regions' scores, whose mean and spread the
sketch knows, says whether that is enough; where it is not, more are scored, at last all.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from swarm.domain.errors import ShapeMismatchError
from swarm.gating.cells import cell_count, cells_of
from swarm.gating.distances import Floats
from swarm.gating.whole_numbers import with_lengths

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

SKETCHED = 256
"""So many directions are kept."""
FINER = 4
"""So many times the cells of an index of points: what tells columns apart has more directions."""
STAGES = ((600, 17.0), (2_400, 13.0), (9_600, 10.5))
"""So many regions are scored; if the best stands out by so many spreads, no more (chosen on validation data:
docs/gate-lookup.md)."""
_LENGTH = 2_000.0
"""Directions as whole numbers: products of two of that length add up exactly in float32."""
_LEAST_SPREAD = 1e-6
_DRAWN = 20_000
_SEED = 20240229


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnIndex:
    """R regions in C cells, those of cell c at starts[c] up to starts[c + 1]; int64 [C + 1].

    table float32 [R, M] are their columns in that order, rows int64 [R] their places. A query q [M] has the
    sketch (q - origin) basis, float64 [M] and [M, S]. directions float32 [C, S] are those of the cells' mean
    columns' sketches, in whole numbers, lengths float64 [C] their lengths, and offsets float64 [C] what the
    mean columns score at the origin. mean float64 [S + 1] and spread [S + 1, S + 1] give the mean and the
    variance of all regions' scores, from the sketch with a 1 behind it.
    """

    table: Floats
    rows: Integers
    starts: Integers
    origin: Doubles
    basis: Doubles
    directions: Floats
    lengths: Doubles
    offsets: Doubles
    mean: Doubles
    spread: Doubles
    _blocks: tuple[Floats, ...] = field(init=False, repr=False)
    _sizes: Integers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        bounds = pairwise(self.starts.tolist())
        object.__setattr__(self, "_blocks", tuple(self.table[start:end] for start, end in bounds))
        object.__setattr__(self, "_sizes", np.diff(self.starts))

    @classmethod
    def of(cls, columns: Floats, points: Floats) -> "ColumnIndex":
        """Return the index of regions with these columns, float32 [R, M].

        points float32 [K, M] are what features are like: prototypes in fixed point. The same arrays give the
        same index on one kind of machine. Takes a minute for 100,000 regions: call it outside the event loop.
        """
        if columns.ndim != 2 or points.ndim != 2 or columns.shape[1] != points.shape[1] or not len(columns):
            raise ShapeMismatchError(
                "indexed columns",
                found=f"{list(columns.shape)} and points {list(points.shape)}",
                expected="[R, M] and [K, M], R >= 1",
            )
        with threadpool_limits(limits=1, user_api="blas"):
            return cls._of(columns, points)

    @classmethod
    def _of(cls, columns: Floats, points: Floats) -> "ColumnIndex":
        origin = points.mean(axis=0, dtype=np.float64)
        to_sketch, from_columns = _sketch(columns, points, origin)
        sketches = columns @ from_columns.astype(np.float32)
        offsets = (columns @ origin.astype(np.float32)).astype(np.float64)
        codes = with_lengths(np.stack([_direction(each)[0] for each in sketches]))
        count = min(len(columns), FINER * cell_count(len(columns)))
        centres, labels = cells_of(codes, count, np.random.default_rng(_SEED))
        order = np.argsort(labels, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(centres)))])
        scored = np.concatenate([sketches.astype(np.float64), offsets[:, None]], axis=1)
        means = np.add.reduceat(scored[order], starts[:-1], axis=0) / np.diff(starts)[:, None]
        pointing = [_direction(each) for each in means[:, :-1]]
        mean = scored.mean(axis=0)
        return cls(
            table=np.ascontiguousarray(columns[order]),
            rows=order,
            starts=starts,
            origin=origin,
            basis=to_sketch,
            directions=np.stack([direction for direction, _ in pointing]),
            lengths=np.array([length for _, length in pointing]),
            offsets=means[:, -1],
            mean=mean,
            spread=scored.T @ scored / len(scored) - np.outer(mean, mean),
        )

    @property
    def size_bytes(self) -> int:
        """Memory beside the gate's own columns."""
        parts = (self.table, self.rows, self.starts, self.basis, self.directions, self.spread)
        return sum(part.nbytes for part in parts)

    @property
    def flops_per_search(self) -> int:
        """The sketch, the cells, the spread of all scores, and the first stage's columns."""
        size, kept = self.basis.shape
        seen = min(len(self.rows), STAGES[0][0])
        return int(2 * (size * kept + self.directions.size + kept * kept + seen * size))

    def best(self, point: Floats, most: int) -> tuple[Integers, Floats]:
        """Return the regions that score highest of those that are looked at, at most `most`, int64 [n],
        rising, and their scores, float32 [n]. point float32 [M] are features in fixed point."""
        sketch = (point - self.origin) @ self.basis
        ranked = self._ranked(sketch)
        sizes = self._sizes[ranked]
        scores = self._scored(point, np.append(sketch, 1.0), ranked, sizes.cumsum())
        sizes = sizes[: int(np.searchsorted(sizes.cumsum(), len(scores))) + 1]
        begin = self.starts[ranked[: len(sizes)]] - (sizes.cumsum() - sizes)
        places = np.arange(len(scores)) + np.repeat(begin, sizes)
        if len(scores) > most:
            kept = np.argpartition(-scores, most)[:most]
            places, scores = places[kept], scores[kept]
        rows = self.rows[places]
        order = np.argsort(rows)
        return rows[order], scores[order]

    def _scored(self, point: Floats, sketch: Doubles, ranked: Integers, ends: Integers) -> Floats:
        """Return the scores of the first cells' regions, of as many as it takes until one stands out."""
        middle, spread = float(self.mean @ sketch), math.sqrt(max(float(sketch @ self.spread @ sketch), 0.0))
        found: list[Floats] = []
        highest = -np.inf
        for seen, stands_out in (*STAGES, (len(self.rows), -np.inf)):
            cells = ranked[len(found) : int(np.searchsorted(ends, seen)) + 1]
            found += (new := [self._blocks[cell].dot(point) for cell in cells.tolist()])
            highest = max([highest, *(float(part.max()) for part in new)])
            if highest - middle >= stands_out * spread:
                break
        return np.concatenate(found)

    def _ranked(self, sketch: Doubles) -> Integers:
        """Return the cells, the best first: by their direction, and by what their mean column scores."""
        direction, length = _direction(sketch)
        near = self.directions.dot(direction).astype(np.float64)
        scores = near * self.lengths * (length / _LENGTH**2) + self.offsets
        ranked: Integers = np.argsort(-_standing(near) - _standing(scores), kind="stable")
        return ranked


def _sketch(columns: Floats, points: Floats, origin: Doubles) -> tuple[Doubles, Doubles]:
    """Return what makes sketches of features, float64 [M, S], and of columns, [M, S]: products of the two are
    those of features less their origin with columns, as far as S directions can say."""
    some = points[:: max(1, len(points) // _DRAWN)].astype(np.float64) - origin
    values, vectors = np.linalg.eigh(some.T @ some / len(some))
    roots = np.sqrt(np.maximum(values, _LEAST_SPREAD * max(float(values[-1]), 1e-30)))
    drawn = columns[:: max(1, len(columns) // _DRAWN)].astype(np.float64)
    outer = (vectors * roots).T @ (drawn.T @ drawn) @ (vectors * roots)
    _, told = np.linalg.eigh(outer)
    kept = told[:, ::-1][:, :SKETCHED]
    return (vectors / roots) @ kept, (vectors * roots) @ kept


def _direction(sketch: NDArray[np.floating]) -> tuple[Floats, float]:
    """Return where a sketch [S] points, as whole numbers of one length, and its own length; 0 stays 0."""
    wide = sketch.astype(np.float64)
    length = math.sqrt(float(wide @ wide))
    return np.rint(wide * (_LENGTH / max(length, 1e-300))).astype(np.float32), length


def _standing(values: Doubles) -> Doubles:
    """Return values [C] from their mean, over their mean distance to it."""
    away = values - values.mean()
    found: Doubles = away / max(float(np.abs(away).mean()), 1e-300)
    return found
