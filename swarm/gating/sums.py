"""What an owner sums up for the analytic gate: F't and F'F of features in fixed point.

Features are rounded to int16, so that their sums are integers: adding and taking away owners is exact,
whatever the order. F'F is given in full (`exact_gram`) or as its leading part (`CompactSums`). Source:
analytic federated learning (AFL, He et al. 2024).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.distances import check_features

Int16s = NDArray[np.int16]
T = TypeVar("T", np.int8, np.int16)
MAX_INT16, MAX_INT8 = 32767, 127
WIDE = 8
"""So many factors of compact sums have 16 bits, the others 8."""
MAX_SAMPLES = 2**53 // MAX_INT16**2
"""No sum over so many samples (8.4 million) can leave the integers that float64 holds exactly."""
_ROWS = 2048
_LEAST_OVERSAMPLING, _MOST_OVERSAMPLING = 10, 200
_POWER_ITERATIONS = 1


def constant_of(fixed_point: float) -> int:
    """Return the value of the constant feature 1 in fixed point. InvalidInputError where int16 lacks it."""
    if not (np.isfinite(fixed_point) and 1 <= round(fixed_point) <= MAX_INT16):
        raise InvalidInputError("fixed point", found=str(fixed_point), expected=f"1 to {MAX_INT16}")
    return round(fixed_point)


def quantised(features: NDArray[np.generic], fixed_point: float, has_constant: bool) -> Int16s:
    """Return features float32 [N, D] in fixed point, int16 [N, M]: round(fixed_point * f), within +-32767.

    The last column is the constant 1, round(fixed_point) in each row: appended unless the trunk has it.
    Raises ShapeMismatchError or InvalidInputError for features that are no finite matrix.
    """
    constant = constant_of(fixed_point)
    points = check_features(features)
    found = np.full((len(points), points.shape[1] + (not has_constant)), constant, dtype=np.int16)
    width = points.shape[1] - has_constant
    for start in range(0, len(points), _ROWS):
        part = points[start : start + _ROWS, :width].astype(np.float64) * fixed_point
        found[start : start + _ROWS, :width] = np.clip(np.rint(part), -MAX_INT16, MAX_INT16)
    return found


def target_columns(q: Int16s, labels: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Return F't, int64 [M, classes]: each class's sum of its rows of q [N, M], exact."""
    if labels.shape != (len(q),) or (len(q) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise InvalidInputError(
            "labels",
            found=f"shape {labels.shape} or a class out of range",
            expected=f"[{len(q)}], 0..{classes - 1}",
        )
    found = np.zeros((q.shape[1], classes), dtype=np.int64)
    for row in range(classes):
        found[:, row] = q[labels == row].sum(axis=0, dtype=np.int64)
    return found


def exact_gram(q: Int16s) -> NDArray[np.int64]:
    """Return F'F of q [N, M], int64 [M, M] symmetric, exact.

    Products are float64, whose every partial sum is an integer of at most 32767^2 N < 2^53: no rounding
    happens. Raises InvalidInputError for more than MAX_SAMPLES rows.
    """
    _check_rows(q)
    gram = np.zeros((q.shape[1], q.shape[1]))
    for start in range(0, len(q), _ROWS):
        part = q[start : start + _ROWS].astype(np.float64)
        gram += part.T @ part
    # Row by row in place: M is up to some thousands, and a second matrix would be hundreds of megabytes.
    whole = gram.view(np.int64)
    for row in range(len(gram)):
        whole[row] = gram[row].astype(np.int64)
    return whole


def triangle_length(size: int) -> int:
    """Return the entries in a packed triangle of a [size, size] matrix."""
    return size * (size + 1) // 2


def pack_triangle(gram: NDArray[np.int64]) -> NDArray[np.int32] | NDArray[np.int64]:
    """Return the upper triangle row by row, [M (M + 1) / 2], as int32 where all entries fit, else int64."""
    size = len(gram)
    if gram.shape != (size, size):
        raise ShapeMismatchError("F'F", found=str(list(gram.shape)), expected="a square matrix")
    limits = np.iinfo(np.int32)
    narrow = not size or (int(gram.min()) >= limits.min and int(gram.max()) <= limits.max)
    packed: NDArray[np.int32] | NDArray[np.int64]
    packed = np.empty(triangle_length(size), dtype=np.int32 if narrow else np.int64)  # type: ignore[assignment]
    end = 0
    for row in range(size):
        start, end = end, end + size - row
        packed[start:end] = gram[row, row:]
    return packed


def unpack_triangle(packed: NDArray[np.generic], size: int) -> NDArray[np.float64]:
    """Return the symmetric float64 [size, size] whose upper triangle is packed.

    Raises ShapeMismatchError for another number of entries.
    """
    check_triangle(packed, size)
    gram = np.empty((size, size))
    end = 0
    for row in range(size):
        start, end = end, end + size - row
        gram[row, row:] = packed[start:end]
        gram[row:, row] = packed[start:end]
    return gram


def check_triangle(packed: NDArray[np.generic], size: int) -> None:
    """Raise ShapeMismatchError unless packed is one row of as many entries as a triangle of that size."""
    if packed.shape != (triangle_length(size),):
        raise ShapeMismatchError(
            "F'F",
            found=f"{list(packed.shape)} entries",
            expected=f"[{triangle_length(size)}] for {size} features",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompactSums:
    """F'F of q, approximately L L' + diag(diagonal): its diagonal is kept.

    L [M, r] is `factors` int16 [M, w] and `minor_factors` int8 [M, r - w] side by side, times `factor_scales`
    float32 [r]; diagonal float32 [M] >= 0, in units of q. The first factor is the samples' mean, so that the
    constant's row of F'F is kept too and agrees with the columns. Only the WIDE strongest need 16 bits: what
    8 bits round away of the others is small beside the factors that fit into the bytes saved.
    """

    factors: Int16s
    minor_factors: NDArray[np.int8]
    factor_scales: NDArray[np.float32]
    diagonal: NDArray[np.float32]

    def __post_init__(self) -> None:
        size, wide = self.factors.shape if self.factors.ndim == 2 else (-1, -1)
        minor = self.minor_factors.shape[1] if self.minor_factors.ndim == 2 else -1
        if (
            size < 1
            or self.factors.dtype != np.int16
            or self.minor_factors.dtype != np.int8
            or self.minor_factors.shape != (size, minor)
            or self.factor_scales.shape != (wide + minor,)
            or self.diagonal.shape != (size,)
        ):
            raise ShapeMismatchError(
                "compact sums",
                found=f"{self.factors.dtype} {list(self.factors.shape)} and {self.minor_factors.dtype}"
                f" {list(self.minor_factors.shape)}, {list(self.factor_scales.shape)} and"
                f" {list(self.diagonal.shape)}",
                expected="int16 [M, w] and int8 [M, r - w], [r] and [M]",
            )

    @classmethod
    def of(cls, exact: NDArray[np.float64], total: NDArray[np.float64]) -> "CompactSums":
        """Return exact factors [M, r], strongest first, with few bits; total [M] is F'F's diagonal."""
        wide, wide_scales = _narrowed(exact[:, :WIDE], MAX_INT16, np.int16)
        minor, minor_scales = _narrowed(exact[:, WIDE:], MAX_INT8, np.int8)
        scales = np.concatenate([wide_scales, minor_scales])
        kept = np.concatenate([wide, minor], axis=1) * scales.astype(np.float64)
        diagonal = np.maximum(total - np.square(kept).sum(axis=1), 0).astype(np.float32)
        return cls(factors=wide, minor_factors=minor, factor_scales=scales, diagonal=diagonal)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "CompactSums":
        """Return the sums whose `arrays` these are. Raises KeyError for one that is missing."""
        factors = arrays["factors"]
        none = np.empty((len(factors), 0), dtype=np.int8)
        return cls(
            factors=factors,
            minor_factors=arrays.get("minor_factors", none),
            factor_scales=arrays["factor_scales"],
            diagonal=arrays["diagonal"],
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name; no minor factors where there are none."""
        minor = {"minor_factors": self.minor_factors} if self.minor_factors.shape[1] else {}
        others = {"factor_scales": self.factor_scales, "diagonal": self.diagonal}
        return {"factors": self.factors, **minor, **others}

    @property
    def rank(self) -> int:
        return len(self.factor_scales)

    def scaled(self) -> NDArray[np.float64]:
        """Return L, float64 [M, r]."""
        found = np.concatenate([self.factors, self.minor_factors], axis=1).astype(np.float64)
        found *= self.factor_scales
        return found


def _narrowed(
    exact: NDArray[np.float64], largest: int, dtype: type[T]
) -> tuple[NDArray[T], NDArray[np.float32]]:
    """Return columns as integers up to +-largest, and what each column's integers are to be multiplied by."""
    scales = (np.abs(exact).max(axis=0, initial=0.0) / largest).astype(np.float32)
    steps = np.where(scales > 0, scales, 1).astype(np.float64)
    return np.clip(np.rint(exact / steps), -largest, largest).astype(dtype), scales


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnerSums:
    """One owner's sums over its `samples`: columns F't int64 [M, t], and F'F in exactly one form.

    `exact` is the packed upper triangle; `load` returns it when it is needed, so that many owners' need not
    be in memory at once; `compact` is its leading part.
    """

    owner: str
    samples: int
    columns: NDArray[np.int64]
    exact: NDArray[np.integer] | None = None
    compact: CompactSums | None = None
    load: Callable[[], NDArray[np.integer]] | None = None

    def __post_init__(self) -> None:
        if sum(form is not None for form in (self.exact, self.compact, self.load)) != 1:
            raise InvalidInputError(f"sums of {self.owner}", found="no F'F or two", expected="one form")
        if self.columns.ndim != 2 or self.columns.shape[1] < 1:
            raise ShapeMismatchError(
                f"columns of {self.owner}", found=str(list(self.columns.shape)), expected="[M, t], t >= 1"
            )
        if self.compact is not None and len(self.compact.factors) != self.size:
            raise ShapeMismatchError(
                f"sums of {self.owner}",
                found=f"{len(self.compact.factors)} features",
                expected=str(self.size),
            )

    @property
    def size(self) -> int:
        """M, the number of features."""
        return int(self.columns.shape[0])

    def triangle(self) -> NDArray[np.integer]:
        """Return the packed upper triangle of exact sums."""
        packed = self.load() if self.load is not None else self.exact
        if packed is None:
            raise InvalidInputError(f"sums of {self.owner}", found="compact sums", expected="exact ones")
        check_triangle(packed, self.size)
        return packed


def compact_sums(q: Int16s, rank: int, seed: int = 0) -> CompactSums:
    """Return the leading part of F'F for q [N, M]: the mean and the rank - 1 strongest directions around it.

    The directions come from a randomised SVD; as L = F'U with orthonormal U, what L leaves out is positive
    semi-definite, and its diagonal is kept. Source: Halko, Martinsson and Tropp 2011.
    """
    _check_rows(q)
    if rank < 1 or not len(q):
        raise InvalidInputError(
            "compact sums", found=f"rank {rank}, {len(q)} samples", expected="1 each at least"
        )
    count, size = q.shape
    mean = q.mean(axis=0, dtype=np.float64)
    wanted = min(rank - 1, count - 1, size)
    directions = _strongest(q, mean, wanted, seed) if wanted > 0 else np.empty((size, 0))
    exact = np.concatenate([np.sqrt(count) * mean[:, None], directions], axis=1)
    return CompactSums.of(exact, np.einsum("nm,nm->m", q, q, dtype=np.float64))


def sketch_width(wanted: int, count: int, size: int) -> int:
    """Return how many random directions are looked at to find the `wanted` strongest of count samples."""
    # Strengths fall slowly: twice the width finds truer directions, worth .2 points of the root at rank 150.
    return min(wanted + max(min(wanted, _MOST_OVERSAMPLING), _LEAST_OVERSAMPLING), count, size)


def _strongest(q: Int16s, mean: NDArray[np.float64], wanted: int, seed: int) -> NDArray[np.float64]:
    """Return V * s for the `wanted` largest singular values of q - mean, [M, at most wanted]."""
    count, size = q.shape
    centred = q.astype(np.float32)
    centred -= mean.astype(np.float32)
    width = sketch_width(wanted, count, size)
    basis = _orthonormal(
        centred @ np.random.default_rng(seed).standard_normal((size, width), dtype=np.float32)
    )
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(centred @ (centred.T @ basis))
    inner = (centred.T @ basis).astype(np.float64)
    # Eigenvectors come with rising eigenvalues, here the squared singular values.
    rotation: NDArray[np.float64] = np.linalg.eigh(inner.T @ inner)[1][:, ::-1][:, :wanted]
    return inner @ rotation


def _orthonormal(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an orthonormal basis of the columns' span, without directions that are rounding only.

    By the small matrix of their products, twice (once leaves rounding): matrix products outrun a QR
    factorisation.
    """
    basis = columns.astype(np.float64)
    for _ in range(2):
        if not basis.shape[1]:
            break
        strengths, vectors = np.linalg.eigh(basis.T @ basis)
        kept = strengths > 1e-10 * max(float(strengths[-1]), 1e-300)
        basis = basis @ (vectors[:, kept] / np.sqrt(strengths[kept]))
    return basis.astype(np.float32)


def exact_bytes(size: int) -> int:
    """Return the bytes of an exact F'F of that many features whose entries fit into int32."""
    return 4 * triangle_length(size)


def compact_bytes(size: int, rank: int) -> int:
    """Return the bytes of compact sums."""
    wide = min(rank, WIDE)
    return 2 * size * wide + size * (rank - wide) + 4 * rank + 4 * size


def rank_for(budget_bytes: int, size: int, other_bytes: int) -> int:
    """Return the largest rank, at most `size`, whose compact sums and other_bytes fit into the budget.

    Raises InvalidInputError where no rank does.
    """
    left = budget_bytes - other_bytes - 4 * size
    rank = left // (2 * size + 4)
    if rank > WIDE:
        rank = WIDE + (left - WIDE * (2 * size + 4)) // (size + 4)
    rank = min(rank, size)
    if rank < 1:
        least = other_bytes + compact_bytes(size, 1)
        raise InvalidInputError(
            "compact sums",
            found=f"a budget of {budget_bytes} bytes",
            expected=f"at least {least} for {size} features",
            remedy=f"--sums-mb {(least // 10_000 + 1) / 100:.2f} or more, or --sums none",
        )
    return int(rank)


def _check_rows(q: Int16s) -> None:
    if q.ndim != 2 or q.dtype != np.int16 or q.shape[1] < 1:
        raise ShapeMismatchError(
            "features", found=f"{q.dtype} {list(q.shape)}", expected="int16 [N, M], M >= 1"
        )
    if len(q) > MAX_SAMPLES:
        raise InvalidInputError("samples", found=str(len(q)), expected=f"at most {MAX_SAMPLES}")
