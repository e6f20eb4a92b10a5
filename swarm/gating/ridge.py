"""Ridge regression from owners' sums: W = (sum w_j G_j + ridge I)^-1 sum w_j C_j.

Closed form in sums, so one round gives exactly the solution over pooled data, and leaving an owner's sums out
gives exactly the solution that never had them. Sums are added in the order of the owners' names, never
patched: the same owners give the same bits, whatever came and went before. Source: ACIL (Zhuang et al.
2022), AFL (He et al. 2024).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.cholesky import Factor, factor_of, solve_by
from swarm.gating.sums import (
    MAX_INT8,
    MAX_INT16,
    MAX_SAMPLES,
    CompactSums,
    OwnerSums,
    constant_of,
    triangle_length,
)

__all__ = [
    "RIDGES",
    "UNBALANCED",
    "Further",
    "OwnerSums",
    "check_sums",
    "owner_weights",
    "solve",
    "solve_with",
    "total_sums",
    "weight_by_owner",
]

Doubles = NDArray[np.float64]
Further = tuple[str, NDArray[np.int64]]
"""An owner, and columns F't int64 [M, t] of its samples to solve for besides its sums' own."""
RIDGES = (30.0, 100.0, 300.0, 1000.0, 3000.0)
"""The grid on which validation data choose, in units of the features (not of their fixed point)."""
UNBALANCED = 4.0
"""Owners count alike, not by their samples, where the largest has more than this many medians of them."""
_BLOCK = 512
_COMPACT_TOLERANCE = 1e-3
_JITTER, _OF_LEAST_RIDGE = 1e-8, 0.01
"""Of the largest entry, added to the diagonal before a test for positive semi-definiteness: what rounding in
the factorisation of some thousands of features may take away, and at most a hundredth of the least ridge."""


def owner_weights(samples: Sequence[int]) -> Doubles:
    """Return how much each owner's sums count, float64 [owners].

    All 1, unless one owner has more than UNBALANCED times the median's samples: then median / samples, so
    that everybody counts as many as the median. Either way nobody's weighted samples exceed UNBALANCED
    medians: that caps an owner's influence, on the solution and on how much the ridge weighs beside the
    sums. The median is the lower one, so that of two owners one alone can not set it.
    """
    counts = np.asarray(samples, dtype=np.float64)
    if not len(counts) or counts.min() < 1:
        raise InvalidInputError(
            "samples", found=str(list(samples))[:80], expected="at least 1 from each owner"
        )
    median = float(np.quantile(counts, 0.5, method="lower"))
    if counts.max() <= UNBALANCED * median:
        return np.ones(len(counts))
    weights: Doubles = median / counts
    return weights


def weight_by_owner(owners: Sequence[OwnerSums]) -> dict[str, float]:
    """Return `owner_weights` by the owners' names."""
    weights = owner_weights([each.samples for each in owners])
    return {each.owner: float(weight) for each, weight in zip(owners, weights, strict=True)}


def solve(owners: Sequence[OwnerSums], ridges: Sequence[float], fixed_point: float) -> Doubles:
    """Return W for each ridge, float64 [R, M, T]; targets in the order of the owners' columns.

    W takes features in fixed point: scores = q @ W. A ridge is in units of the features, hence
    ridge * fixed_point^2 on the diagonal. Exact sums are added as whole numbers where owners weigh alike.
    Where all sums are compact and small together, (D + L L')^-1 C is solved by Woodbury's identity instead
    of the dense Cholesky factorisation. Raises InvalidInputError for a ridge that does not make the sums
    positive definite, for owners twice or none, ShapeMismatchError where their features differ in number.
    """
    return solve_with(owners, ridges, fixed_point, ())[0]


def solve_with(
    owners: Sequence[OwnerSums], ridges: Sequence[float], fixed_point: float, further: Sequence[Further]
) -> tuple[Doubles, list[Doubles]]:
    """Return what `solve` does, and W float64 [R, M, t] for each further block of columns.

    Each block is solved by itself: it changes no bit of the others, nor they of it.
    """
    _check_owners(owners, ridges)
    order = sorted(range(len(owners)), key=lambda row: owners[row].owner)
    ordered = [owners[row] for row in order]
    weight_of = weight_by_owner(ordered)
    weights = np.array([weight_of[each.owner] for each in ordered])
    targets = np.concatenate([weight_of[each.owner] * each.columns for each in ordered], axis=1)
    blocks = [targets, *(weight_of[owner] * columns for owner, columns in further)]
    strengths = [float(ridge) * fixed_point**2 for ridge in ridges]
    ranks = [each.compact.rank for each in ordered if each.compact is not None]
    # From about half the features on, factors cost more than one dense factorisation.
    if len(ranks) == len(ordered) and 2 * sum(ranks) <= ordered[0].size:
        found = _by_factors(ordered, weights, blocks, strengths)
    else:
        found = _dense(ordered, weights, blocks, strengths)
    return found[0][:, :, _places(ordered, order)], found[1:]


def _places(ordered: Sequence[OwnerSums], order: Sequence[int]) -> NDArray[np.int64]:
    """Return where each target of the callers' order lies in the order of names."""
    ends = np.cumsum([each.columns.shape[1] for each in ordered])
    rows = [np.arange(end - each.columns.shape[1], end) for each, end in zip(ordered, ends, strict=True)]
    back = np.argsort(order)
    return np.concatenate([rows[place] for place in back])


def _check_owners(owners: Sequence[OwnerSums], ridges: Sequence[float]) -> None:
    names = [each.owner for each in owners]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(
            "owners", found="none" if not names else "one twice", expected="distinct owners"
        )
    if not ridges or not all(np.isfinite(ridge) and ridge > 0 for ridge in ridges):
        raise InvalidInputError("ridges", found=str(list(ridges))[:80], expected="positive numbers")
    size = owners[0].size
    for each in owners:
        if each.size != size:
            raise ShapeMismatchError(
                f"columns of {each.owner}", found=f"{each.size} features", expected=str(size)
            )


def _dense(
    owners: Sequence[OwnerSums], weights: Doubles, blocks: Sequence[Doubles], strengths: Sequence[float]
) -> list[Doubles]:
    size = owners[0].size
    total = _added(owners, weights)
    found = [np.empty((len(strengths), *block.shape)) for block in blocks]
    work = np.zeros((size, size))
    for row, strength in enumerate(strengths):
        _fill_upper(work, total)
        work[np.diag_indices(size)] += strength
        factor = _factor(work)
        for block, solved in zip(blocks, found, strict=True):
            solved[row] = solve_by(factor, block)
    return found


def total_sums(owners: Sequence[OwnerSums], weight_of: Mapping[str, float]) -> Doubles:
    """Return sum w_j G_j, float64 [M, M], symmetric, added in the order of the owners' names."""
    ordered = sorted(owners, key=lambda each: each.owner)
    packed = _added(ordered, np.array([weight_of[each.owner] for each in ordered]))
    total = np.zeros((ordered[0].size, ordered[0].size))
    _fill_upper(total, packed)
    total += np.triu(total, 1).T
    return total


def _added(owners: Sequence[OwnerSums], weights: Doubles) -> Doubles:
    total = np.zeros(triangle_length(owners[0].size))
    for each, weight in zip(owners, weights, strict=True):
        if each.compact is not None:
            _add_compact(total, each.compact, float(weight))
        else:
            _add_scaled(total, each.triangle(), float(weight))
    return total


def _factor(work: Doubles, subject: str = "sums") -> Factor:
    """Return the Cholesky factor of the symmetric matrix whose upper triangle is in work, made in place."""
    try:
        # The upper triangle by rows is LAPACK's lower one by columns: the transposed view needs no copy.
        return factor_of(work.T, in_place=True)
    except np.linalg.LinAlgError as error:
        raise InvalidInputError(
            subject, found="F'F that is not positive definite", expected="sums of features"
        ) from error


def _fill_upper(work: Doubles, packed: NDArray[np.integer] | Doubles) -> None:
    """Write a packed triangle into the upper triangle of work [M, M]."""
    end, size = 0, len(work)
    for row in range(size):
        start, end = end, end + size - row
        work[row, row:] = packed[start:end]


def _add_scaled(total: Doubles, packed: NDArray[np.integer], weight: float) -> None:
    step = 1 << 22
    for start in range(0, len(total), step):
        part = packed[start : start + step]
        total[start : start + step] += part if weight == 1.0 else weight * part


def _add_compact(total: Doubles, sums: CompactSums, weight: float) -> None:
    factors = sums.scaled()
    factors *= np.sqrt(weight)
    size, end = len(factors), 0
    for first in range(0, size, _BLOCK):
        block = factors[first : first + _BLOCK] @ factors[first:].T
        for row in range(first, min(first + _BLOCK, size)):
            start, end = end, end + size - row
            total[start:end] += block[row - first, row - first :]
            total[start] += weight * float(sums.diagonal[row])


def _by_factors(
    owners: Sequence[OwnerSums], weights: Doubles, blocks: Sequence[Doubles], strengths: Sequence[float]
) -> list[Doubles]:
    """(D + L L')^-1 C = D^-1 C - D^-1 L (I + L' D^-1 L)^-1 L' D^-1 C. Source: Woodbury 1950."""
    pairs = [
        (each.compact, float(w)) for each, w in zip(owners, weights, strict=True) if each.compact is not None
    ]
    factors = np.concatenate([np.sqrt(w) * sums.scaled() for sums, w in pairs], axis=1)
    diagonal = sum((w * sums.diagonal.astype(np.float64) for sums, w in pairs), np.zeros(len(factors)))
    found = [np.empty((len(strengths), *block.shape)) for block in blocks]
    for row, strength in enumerate(strengths):
        inverse = 1.0 / (diagonal + strength)
        shrunk = factors * np.sqrt(inverse)[:, None]
        inner = shrunk.T @ shrunk
        inner[np.diag_indices(len(inner))] += 1.0
        factor = _factor(inner)
        for block, solved in zip(blocks, found, strict=True):
            plain = inverse[:, None] * block
            through = solve_by(factor, factors.T @ plain)
            solved[row] = plain - inverse[:, None] * (factors @ through)
    return found


def check_sums(owner: OwnerSums, class_counts: NDArray[np.integer], fixed_point: float) -> None:
    """Raise InvalidInputError, naming what is wrong, unless the sums can be those of features in fixed point.

    class_counts int64 [t] are the samples of each column. Bounds: every feature within +-32767, the last one
    constant (so that it counts samples and adds up columns: exactly for exact sums, within the rounding of
    factors for compact ones), columns within what F'F allows (Cauchy-Schwarz); and exact sums less the
    columns' own share, F'F - sum over c of C_c C_c' / n_c, are positive semi-definite.
    """
    subject = f"sums of {owner.owner}"
    constant, counts = constant_of(fixed_point), np.asarray(class_counts, dtype=np.int64)
    if counts.shape != (owner.columns.shape[1],) or counts.min() < 1 or int(counts.max()) > MAX_SAMPLES:
        raise InvalidInputError(
            subject,
            found=f"class counts {str(counts.tolist())[:80]}",
            expected=f"{owner.columns.shape[1]} counts of 1 to {MAX_SAMPLES}",
        )
    if owner.samples != int(counts.sum()) or owner.samples > MAX_SAMPLES:
        raise InvalidInputError(
            subject,
            found=f"{owner.samples} samples, {int(counts.sum())} by class",
            expected=f"the same number, at most {MAX_SAMPLES}",
        )
    columns = owner.columns.astype(np.float64)
    _refuse(subject, np.abs(columns) > MAX_INT16 * counts, "a column beyond what its samples can sum to")
    _refuse(subject, columns[-1] != constant * counts, "columns whose constant does not count their samples")
    gram = _whole(owner) if owner.compact is None else None
    diagonal, last, slack = _seen_through(owner, gram)
    total, count = columns.sum(axis=1) * constant, owner.samples
    loose = 1.0 + (0.0 if owner.compact is None else _COMPACT_TOLERANCE)
    _refuse(subject, diagonal > loose * MAX_INT16**2 * count, "F'F beyond what its samples can sum to")
    _refuse(subject, np.abs(last[-1:] - constant**2 * count) > slack[-1:], "F'F that counts other samples")
    _refuse(subject, np.abs(last - total) > slack, "columns that do not add up to F'F's constant")
    _refuse(subject, columns**2 > loose * diagonal[:, None] * counts, "columns larger than F'F allows")
    if gram is not None:
        gram -= (columns / counts) @ columns.T
        least = min(RIDGES) * fixed_point**2
        gram[np.diag_indices(len(gram))] += min(_JITTER * float(diagonal.max()), _OF_LEAST_RIDGE * least)
        _factor(gram, subject)


def _whole(owner: OwnerSums) -> Doubles:
    packed = owner.triangle()
    subject = f"sums of {owner.owner}"
    if packed.dtype not in {np.dtype(np.int32), np.dtype(np.int64)}:
        raise InvalidInputError(subject, found=f"F'F of {packed.dtype}", expected="int32 or int64")
    gram = np.zeros((owner.size, owner.size))
    _fill_upper(gram, packed)
    return gram


def _seen_through(owner: OwnerSums, gram: Doubles | None) -> tuple[Doubles, Doubles, Doubles]:
    """Return F'F's diagonal [M], its constant's row [M], and by how much that row may be off [M]."""
    if owner.compact is None:
        assert gram is not None
        return gram.diagonal().copy(), gram[:, -1].copy(), np.zeros(len(gram))
    sums, subject = owner.compact, f"sums of {owner.owner}"
    for name, values in (("factor_scales", sums.factor_scales), ("diagonal", sums.diagonal)):
        _refuse(
            subject,
            ~np.isfinite(values) | (values < 0),
            f"{name} with a value that is negative or not finite",
        )
    peaks = [np.abs(each.astype(np.int32)).max(axis=0) for each in (sums.factors, sums.minor_factors)]
    room = np.concatenate([peaks[0] < MAX_INT16 - 1, peaks[1] < MAX_INT8 - 1])
    _refuse(subject, room & (sums.factor_scales > 0), "factors that do not fill their integers")
    factors = sums.scaled()
    diagonal = np.square(factors).sum(axis=1) + sums.diagonal
    last = factors @ factors[-1]
    last[-1] += sums.diagonal[-1]
    rounding = (np.abs(factors) + np.abs(factors[-1])) @ (sums.factor_scales / 2)
    return diagonal, last, rounding + _COMPACT_TOLERANCE * np.sqrt(diagonal * diagonal[-1])


def _refuse(subject: str, wrong: NDArray[np.bool_], found: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
        raise InvalidInputError(
            subject, found=f"{found} (feature {row})", expected="sums of features in fixed point"
        )
