"""Leaves of features to look up: mixtures that overlap, that lie apart, and a cloud without any structure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 64
SAMPLES_A_PROTOTYPE = 20
_LLOYD = 5
_LEAVES_AT_A_TIME = 256
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A family of data: `groups` of leaves, the leaves' spread within their group and the samples' within
    their leaf, both in units of the groups' own spread; coordinate i has the standard deviation
    (i + 1) ** -decay."""

    groups: int
    leaf_spread: float
    sample_spread: float
    decay: float


KINDS = {
    "overlapping": Kind(groups=30, leaf_spread=1.0, sample_spread=1.0, decay=0.5),
    "apart": Kind(groups=100, leaf_spread=0.5, sample_spread=0.1, decay=0.5),
    "cloud": Kind(groups=1, leaf_spread=1.0, sample_spread=1.0, decay=0.5),
    "isotropic": Kind(groups=1, leaf_spread=1.0, sample_spread=1.0, decay=0.0),
}
"""`overlapping` is what figures without a name are of. In `cloud` leaves have no groups and spread as wide as
what lies between them; `isotropic` is the same without a direction that says more than another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaves:
    """Prototypes float32 [L * P, D], their leaves int32, counts int64 and radii float32 [L * P, 3], as
    k-means of each leaf's own samples gives them; `drawn(count, seed)` gives new samples float32 [count, D]
    of leaves drawn evenly, and the leaves int64 [count]."""

    prototypes: Floats
    leaf_rows: NDArray[np.int32]
    counts: NDArray[np.int64]
    radii: Floats
    drawn: Callable[[int, int], tuple[Floats, NDArray[np.int64]]]


def leaves_of(kind: Kind, leaves: int, prototypes_each: int, seed: int) -> Leaves:
    """Return so many leaves with so many prototypes each."""
    rng = np.random.default_rng(seed)
    scales = (np.arange(SIZE) + 1.0) ** -kind.decay
    groups = rng.normal(size=(kind.groups, SIZE)) * (kind.groups > 1)
    centres = groups[rng.integers(kind.groups, size=leaves)]
    centres = ((centres + kind.leaf_spread * rng.normal(size=(leaves, SIZE))) * scales).astype(np.float32)
    spread = (kind.sample_spread * scales).astype(np.float32)

    def drawn(count: int, number: int) -> tuple[Floats, NDArray[np.int64]]:
        own = np.random.default_rng((seed, 1, number))
        rows = own.integers(leaves, size=count)
        return centres[rows] + spread * own.normal(size=(count, SIZE)).astype(np.float32), rows

    parts = []
    for start in range(0, leaves, _LEAVES_AT_A_TIME):
        some = centres[start : start + _LEAVES_AT_A_TIME, None]
        shape = (len(some), SAMPLES_A_PROTOTYPE * prototypes_each, SIZE)
        samples = some + spread * rng.standard_normal(shape, dtype=np.float32)
        parts.append(_clustered(samples, prototypes_each))
    prototypes, counts, radii = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Leaves(
        prototypes=prototypes.reshape(-1, SIZE),
        leaf_rows=np.repeat(np.arange(leaves, dtype=np.int32), prototypes_each),
        counts=counts.reshape(-1),
        radii=radii.reshape(-1, 3),
        drawn=drawn,
    )


def _clustered(samples: Floats, k: int) -> tuple[Any, Any, Any]:
    """Return k-means of each leaf's samples [L, n, D]: centres [L, k, D], counts [L, k], radii [L, k, 3]."""
    centres = samples[:, :k].copy()
    for _ in range(_LLOYD):
        labels = _costs(samples, centres).argmin(axis=2)
        own = (labels[:, None, :] == np.arange(k)[None, :, None]).astype(np.float32)
        counts = own.sum(axis=2)
        means = own @ samples / np.maximum(counts, 1)[:, :, None]
        centres = np.where(counts[:, :, None] > 0, means, centres)
    costs = _costs(samples, centres)
    labels = costs.argmin(axis=2)
    own = labels[:, None, :] == np.arange(k)[None, :, None]
    far = np.where(own, np.sqrt(np.maximum(costs.transpose(0, 2, 1), 0)), np.nan)
    far[~own.any(axis=2)] = 0
    radii = (
        np.nanquantile(far, (0.5, 0.9, 0.99), axis=2) if k > 1 else np.quantile(far, (0.5, 0.9, 0.99), axis=2)
    )
    return (
        centres,
        np.maximum(own.sum(axis=2), 1).astype(np.int64),
        radii.transpose(1, 2, 0).astype(np.float32),
    )


def _costs(samples: Floats, centres: Floats) -> Floats:
    found: Floats = (
        (samples**2).sum(axis=2)[:, :, None]
        - 2 * samples @ centres.transpose(0, 2, 1)
        + (centres**2).sum(axis=2)[:, None, :]
    )
    return found
