"""A leaf's sums for the analytic gate: F't and F'F of its training samples in fixed point.

They are kept leaf by leaf, so that a leaf without new data takes part in later contributions with what was
summed when it was trained last; a contribution's F'F is joined from its leaves' own.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from swarm.domain.agent import SumsForm
from swarm.domain.errors import InvalidInputError
from swarm.gating.sums import (
    CompactSums,
    compact_sums,
    exact_bytes,
    exact_gram,
    pack_triangle,
    rank_for,
    sketch_width,
    unpack_triangle,
)

PADDING_BYTES = 64
"""What a tensor's place in its blob may cost beyond its own bytes."""
STATEMENT_BYTES = 4096
"""What the signed statement around a contribution's arrays takes, and somewhat more."""
_MEGABYTE = 1e6
_OVERSAMPLING = 10
_WEAKEST = 1e-12
"""Directions this much weaker than the strongest are rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GramSums:
    """F'F over `samples` samples: `gram`, the packed upper triangle [M (M + 1) / 2], or `compact`."""

    samples: int
    gram: NDArray[Any] | None = None
    compact: CompactSums | None = None

    @property
    def rank(self) -> int:
        """The rank of compact sums, 0 for exact ones."""
        return self.compact.rank if self.compact is not None else 0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays under the names that `FeatureSums` gives them."""
        if self.compact is not None:
            return self.compact.arrays()
        assert self.gram is not None
        return {"gram": self.gram}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeafSums:
    """One leaf's sums. `columns` int64 [M, classes]: F't for the leaf's classes, sorted by name."""

    columns: NDArray[np.int64]
    f: GramSums

    def save(self, path: Path) -> None:
        """Write the sums as .npz, whole or not at all."""
        arrays = {"columns": self.columns, "samples": np.array(self.f.samples), **self.f.arrays()}
        save_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path, size: int) -> "LeafSums | None":
        """Return the sums in a file over `size` features; None where there are none that can be read."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            columns, samples = arrays["columns"], int(arrays["samples"])
            compact = None if "gram" in arrays else CompactSums.from_arrays(arrays)
        except (OSError, ValueError, KeyError, EOFError, InvalidInputError, zipfile.BadZipFile):
            return None
        if columns.shape[:1] != (size,):
            return None
        return cls(columns=columns, f=GramSums(samples=samples, gram=arrays.get("gram"), compact=compact))


def chosen_rank(form: SumsForm, budget_mb: float, size: int, other_bytes: int) -> int:
    """Return the rank of a contribution's compact F'F over `size` features, 0 for an exact one.

    budget_mb counts for the whole contribution, of which other_bytes are prototypes, columns and counts; it
    binds `auto` and `compact`. Raises InvalidInputError where nothing fits into it.
    """
    budget = int(budget_mb * _MEGABYTE) if 0 < budget_mb < float("inf") else 0
    if not budget:
        raise InvalidInputError("sums' budget", found=f"{budget_mb} MB", expected="more than 0 megabytes")
    other_bytes += STATEMENT_BYTES
    fits = exact_bytes(size) + PADDING_BYTES + other_bytes <= budget
    if form == "exact" or (form == "auto" and fits):
        return 0
    return rank_for(budget, size, other_bytes + 4 * PADDING_BYTES)


def summed(q: NDArray[np.int16], rank: int, seed: int) -> tuple[GramSums, int]:
    """Return F'F of q [N, M], exact for rank 0, and the FLOPs that it cost."""
    count, size = q.shape
    if rank:
        compact = compact_sums(q, rank, seed)
        # Four products with the basis (two of them for the power iteration), and orthogonal bases between.
        width = sketch_width(rank - 1, count, size)
        flops = 8 * count * size * width + 6 * (count + size) * width**2 + 2 * count * size
        return GramSums(samples=count, compact=compact), flops
    return GramSums(samples=count, gram=pack_triangle(exact_gram(q))), 2 * count * size**2


def joined(parts: Sequence[LeafSums], rank: int, seed: int) -> tuple[GramSums, int]:
    """Return the F'F of all parts' samples together, exact for rank 0, and the FLOPs that joining cost.

    Exact parts give any form; compact ones only a compact one (InvalidInputError for rank 0).
    """
    samples = sum(part.f.samples for part in parts)
    first = parts[0].f
    if len(parts) == 1 and first.rank <= rank and bool(first.rank) == bool(rank):
        return first, 0
    if rank == 0:
        grams = [part.f.gram for part in parts if part.f.gram is not None]
        if len(grams) < len(parts):
            raise InvalidInputError(
                "exact sums",
                found="a leaf without new data whose sums are kept compact only",
                expected="exact sums of every leaf",
                remedy="bring that leaf's data too, or contribute compact sums: swarm train --sums compact",
            )
        total = grams[0].astype(np.int64)
        for gram in grams[1:]:
            total += gram
        return GramSums(samples=samples, gram=narrowed(total)), len(total) * (len(parts) - 1)
    compact, flops = _compacted(parts, samples, rank, seed)
    return GramSums(samples=samples, compact=compact), flops


def _compacted(parts: Sequence[LeafSums], samples: int, rank: int, seed: int) -> tuple[CompactSums, int]:
    """Return compact sums of what the parts say of F'F, and the FLOPs.

    The first factor is the samples' mean, as in `compact_sums`. The others are a Nystroem approximation of
    the rest, which leaves a positive semi-definite remainder; its diagonal is kept. Source: Halko,
    Martinsson and Tropp 2011.
    """
    grams = [_Gram(part.f, len(part.columns)) for part in parts]
    size = len(parts[0].columns)
    diagonal = np.sum([gram.diagonal for gram in grams], axis=0)
    total = np.sum([part.columns.sum(axis=1) for part in parts], axis=0)
    mean = (total / np.sqrt(samples))[:, None]

    def rest_times(block: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = -mean @ (mean.T @ block)
        for gram in grams:
            found += gram.times(block)
        return found

    factors, width = mean, min(rank - 1 + _OVERSAMPLING, size)
    if rank > 1:
        basis = np.random.default_rng(seed).standard_normal((size, width))
        for _ in range(2):
            basis = np.linalg.qr(rest_times(basis))[0]
        image = rest_times(basis)
        inner = basis.T @ image
        strengths, vectors = np.linalg.eigh((inner + inner.T) / 2)
        kept = np.flatnonzero(strengths > max(_WEAKEST * strengths[-1], 0))[-(rank - 1) :][::-1]
        factors = np.concatenate([mean, image @ (vectors[:, kept] / np.sqrt(strengths[kept]))], axis=1)
    flops = sum(3 * 2 * gram.cost * width for gram in grams) + 10 * size * width**2
    return CompactSums.of(factors, diagonal), flops


class _Gram:
    """One part's F'F as a matrix that can be multiplied with; `cost` is the multiply-adds for one vector."""

    def __init__(self, f: GramSums, size: int) -> None:
        if f.compact is None:
            assert f.gram is not None
            self._whole: NDArray[np.float64] | None = unpack_triangle(f.gram, size)
            self.diagonal = self._whole.diagonal().copy()
            self.cost = size**2
        else:
            self._whole, self._factors = None, f.compact.scaled()
            self._remainder = f.compact.diagonal.astype(np.float64)
            self.diagonal = np.square(self._factors).sum(axis=1) + self._remainder
            self.cost = 2 * self._factors.size + size

    def times(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._whole is not None:
            return self._whole @ block
        return self._factors @ (self._factors.T @ block) + self._remainder[:, None] * block


def narrowed(values: NDArray[np.int64]) -> NDArray[Any]:
    """Return integers as int32 where all fit."""
    limits = np.iinfo(np.int32)
    fits = int(values.min()) >= limits.min and int(values.max()) <= limits.max
    return values.astype(np.int32) if fits else values
