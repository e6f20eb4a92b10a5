"""Squared Euclidean distances by one matrix product, in the units that stay finite."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError

Floats = NDArray[np.float32]
_CHUNK = 8192
_Real = TypeVar("_Real", np.float32, np.float64)


def check_features(
    features: NDArray[np.generic], size: int | None = None, subject: str = "features"
) -> Floats:
    """Return features as float32 [N, D].

    Raises ShapeMismatchError unless they are a matrix of numbers (with D = size where given), and
    InvalidInputError where one is not finite.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] < 1:
        raise ShapeMismatchError(
            subject, found=f"{array.dtype} {list(array.shape)}", expected="numbers [N, D] with D >= 1"
        )
    if size is not None and array.shape[1] != size:
        raise ShapeMismatchError(subject, found=f"{array.shape[1]} columns", expected=f"{size}")
    if array.dtype == np.float32:
        narrow = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(narrow).all():
        row = int(np.flatnonzero(~np.isfinite(narrow).all(axis=1))[0])
        raise InvalidInputError(
            subject, found=f"a value that is not finite in row {row}", expected="finite float32"
        )
    return narrow


def squared_distances(
    points: NDArray[np.floating], centres: NDArray[_Real], norms: NDArray[_Real] | None = None
) -> NDArray[_Real]:
    """Return |point - centre|^2 >= 0, [N, K], reckoned in the dtype of the centres.

    `norms` are the centres' squared lengths, where the caller keeps them. Rounding is that of
    |p|^2 - 2 p.c + |c|^2: float32 wants points near the origin (see `Frame`).
    """
    if norms is None:
        norms = np.einsum("kd,kd->k", centres, centres)
    found = np.empty((len(points), len(centres)), dtype=centres.dtype)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK].astype(centres.dtype, copy=False)
        block = part @ centres.T
        block *= -2
        block += norms
        block += np.einsum("nd,nd->n", part, part)[:, None]
        np.maximum(block, 0, out=found[start : start + _CHUNK])
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """Coordinates with the data's mean at the origin and its largest coordinate 1, where float32 is safe."""

    origin: NDArray[np.float64]
    scale: float

    @classmethod
    def around(cls, features: Floats) -> "Frame":
        """Return the frame of features [N, D], N >= 1."""
        origin = features.mean(axis=0, dtype=np.float64)
        largest = max(
            float(np.abs(features[start : start + _CHUNK] - origin).max())
            for start in range(0, len(features), _CHUNK)
        )
        return cls(origin=origin, scale=largest if largest > 0 else 1.0)

    def inward(self, features: Floats) -> Floats:
        """Return features in this frame, float32."""
        inside = np.empty(features.shape, dtype=np.float32)
        for start in range(0, len(features), _CHUNK):
            inside[start : start + _CHUNK] = (features[start : start + _CHUNK] - self.origin) / self.scale
        return inside

    def outward(self, centres: NDArray[np.floating]) -> Floats:
        """Return centres of this frame in the features' own coordinates, float32."""
        return (centres.astype(np.float64) * self.scale + self.origin).astype(np.float32)
