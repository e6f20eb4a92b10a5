"""Points in whole coordinates that are so small that float32 reckons their distances without rounding."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from swarm.gating.distances import Floats

_EXACT = 1 << 24
"""float32 holds every whole number up to this one."""
_FAR = 8.0
"""Points beyond so many typical distances from the middle do not make everybody's coordinates coarse."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeFrame:
    """Whole coordinates around `origin` float32 [D], `scale` of them to a unit, within a ball.

    The ball's radius is such that |c|^2 - 2 q.c stays below 2^24 for all q and c in it, each partial sum
    of it included, because those are at most |q| |c| too.
    """

    origin: Floats
    scale: float

    @classmethod
    def around(cls, points: Floats) -> "WholeFrame":
        """Return the frame of points [N, D], N >= 1: the finest in which they lie in the ball, apart from
        those that lie far out. Medians and powers of 2 come out alike on every machine."""
        origin = np.median(points, axis=0).astype(np.float32)
        lengths = _lengths(points.astype(np.float64) - origin)
        reach = min(float(lengths.max()), _FAR * float(np.median(lengths)) or float(lengths.max()))
        scale = 1.0 if reach <= 0 else 2.0 ** np.floor(np.log2(_radius(points.shape[1]) / reach))
        return cls(origin=origin, scale=float(scale))

    def codes(self, points: Floats) -> Floats:
        """Return whole coordinates float32 [N, D + 1] with the squared length behind them.

        A point outside the ball is taken to its surface, which brings it nearer to all that lies in the ball.
        """
        inside = (points.astype(np.float64) - self.origin) * self.scale
        outer = _lengths(inside)[:, None]
        radius = _radius(points.shape[1])
        codes = np.rint(np.where(outer > radius, inside * (radius / np.maximum(outer, 1)), inside))
        return with_lengths(codes)

    def query(self, point: NDArray[np.floating]) -> tuple[Floats, float] | None:
        """Return (-2 q, 1) float32 [D + 1] of a point [D], and |q|^2; None where it lies outside the ball.

        Its product with a code is |c|^2 - 2 q.c: the squared distance but for |q|^2.
        """
        code = np.empty(len(point) + 1, dtype=np.float32)
        whole = code[:-1]
        np.subtract(point, self.origin, out=whole)
        whole *= self.scale
        np.rint(whole, out=whole)
        length = float(whole.dot(whole))
        if not length <= _radius(len(point)) ** 2:
            return None
        whole *= -2
        code[-1] = 1
        return code, length


def with_lengths(codes: NDArray[np.floating]) -> Floats:
    """Return whole coordinates [N, D] as float32 [N, D + 1], their squared length behind them."""
    narrow = codes.astype(np.float32)
    return np.concatenate([narrow, np.einsum("nd,nd->n", narrow, narrow)[:, None]], axis=1)


def as_queries(codes: Floats) -> Floats:
    """Return codes with lengths [N, D + 1] as queries (-2 q, 1)."""
    found = codes * np.float32(-2)
    found[:, -1] = 1
    return found


@cache
def _radius(size: int) -> float:
    """Rounding takes a coordinate up to 1/2 farther out."""
    return float(np.floor(np.sqrt(_EXACT / 3) - np.sqrt(size)))


def _lengths(points: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", points, points))
    return found
