"""The gate of kind `prototypes`: softmax(-d^2 / T + log prior) over all prototypes, summed per leaf.

A pure function of what owners contributed, in the given order. Temperatures are in the units of squared
distances, so they are chosen relative to the gate's own `scale`. Source: Gross, Ranzato and Szlam 2017 (hard
mixtures); c-BTM (top-k at inference).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.distances import Floats, check_features, squared_distances
from swarm.gating.regions import LeafSummary

WEIGHT_FLOOR = 1e-12
"""No leaf's weight falls below this, so that its logarithm exists."""
TEMPERATURE_FACTORS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
"""The grid on which validation data choose, in units of the gate's scale."""
DEFAULT_FACTOR = 0.2
"""The temperature of a gate without validation evidence, in the same unit."""
PROTOTYPES = "prototypes"
INFLUENCE_CAP = 4.0
"""All counts of an owner weigh at most as much as those of this many median owners."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypeGate:
    """K prototypes and the leaf that each belongs to.

    prototypes float32 [K, D], leaf_rows int32 [K] below leaves, log_prior float32 [K], radii float32 [K, 3].
    """

    prototypes: Floats
    leaf_rows: NDArray[np.int32]
    log_prior: Floats
    radii: Floats
    leaves: int
    temperature: float
    _wide: NDArray[np.float64] = field(init=False, repr=False)
    _norms: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_features(self.prototypes, subject="gate prototypes")
        count = len(self.prototypes)
        shapes = (self.leaf_rows.shape, self.log_prior.shape, self.radii.shape)
        if count < 1 or shapes != ((count,), (count,), (count, 3)):
            raise ShapeMismatchError(
                "gate arrays",
                found=f"{count} prototypes with {shapes}",
                expected="[K], [K] and [K, 3], K >= 1",
            )
        rows = self.leaf_rows
        if rows.dtype.kind not in "iu" or set(np.unique(rows).tolist()) != set(range(self.leaves)):
            raise InvalidInputError(
                "gate leaf rows",
                found="a leaf without prototypes or a row out of range",
                expected=f"0..{self.leaves - 1}",
            )
        if not (
            np.isfinite(self.log_prior).all() and np.isfinite(self.radii).all() and (self.radii >= 0).all()
        ):
            raise InvalidInputError("gate arrays", found="a prior or radius that is not finite")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidInputError(
                "gate temperature", found=str(self.temperature), expected="a positive number"
            )
        object.__setattr__(self, "_wide", self.prototypes.astype(np.float64))
        object.__setattr__(self, "_norms", np.einsum("kd,kd->k", self._wide, self._wide))

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], *, leaves: int, temperature: float
    ) -> "PrototypeGate":
        """Return the gate that `arrays()` gave. ShapeMismatchError where an array is missing or misshapen."""
        names = [f"{PROTOTYPES}.{row}" for row in range(leaves)]
        missing = [name for name in (*names, "log_prior", "radii") if name not in arrays]
        if missing or not names:
            raise ShapeMismatchError("gate arrays", found=f"no {', '.join(missing[:5]) or 'leaves'}")
        parts = [arrays[name].astype(np.float32, copy=False) for name in names]
        for name, part in zip(names, parts, strict=True):
            check_features(part, parts[0].shape[-1], name)
        return cls(
            prototypes=np.concatenate(parts),
            leaf_rows=np.repeat(np.arange(leaves, dtype=np.int32), [len(part) for part in parts]),
            log_prior=arrays["log_prior"].astype(np.float32, copy=False),
            radii=arrays["radii"].astype(np.float32, copy=False),
            leaves=leaves,
            temperature=temperature,
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of the gate's statement, by their names there, in the order of the leaves.

        Each leaf's prototypes stand alone, so that they keep their address from version to version and a
        node fetches only those that are new to it.
        """
        order = np.argsort(self.leaf_rows, kind="stable")
        of_leaf = {
            f"{PROTOTYPES}.{row}": self.prototypes[self.leaf_rows == row] for row in range(self.leaves)
        }
        return {**of_leaf, "log_prior": self.log_prior[order], "radii": self.radii[order]}

    @property
    def feature_size(self) -> int:
        size: int = self.prototypes.shape[1]
        return size

    @property
    def flops_per_query(self) -> int:
        """Distances to all prototypes, their softmax, and the sums per leaf."""
        count, size = self.prototypes.shape
        return int(2 * count * size + 2 * size + 8 * count)

    @property
    def scale(self) -> float:
        """The unit of temperatures: the median over prototypes of the squared median radius.

        That is a typical squared distance of a sample to its own prototype. Where radii are 0: the median
        squared distance from a prototype to the nearest other one, else 1.
        """
        tiny = 1e-12 * max(float(self._norms.max()), 1e-300)
        typical = np.square(self.radii[:, 0].astype(np.float64))
        if not (typical > tiny).any():
            distances = squared_distances(self._wide, self._wide, self._norms)
            np.fill_diagonal(distances, np.inf)
            typical = distances.min(axis=1)
        positive = typical[np.isfinite(typical) & (typical > tiny)]
        return float(np.median(positive)) if len(positive) else 1.0

    def with_temperature(self, temperature: float) -> "PrototypeGate":
        """Return the same gate at another temperature."""
        return replace(self, temperature=float(temperature))

    def leaf_weights(self, features: NDArray[np.generic], temperature: float | None = None) -> Floats:
        """Return each leaf's weight, float32 [B, leaves]: positive, finite, rows sum to 1.

        features float32 [B, D] of the gate's trunk; `temperature` replaces the gate's own.
        Raises ShapeMismatchError if D differs, InvalidInputError where features are not finite.
        """
        degree = self.temperature if temperature is None else float(temperature)
        if not (np.isfinite(degree) and degree > 0):
            raise InvalidInputError("temperature", found=str(degree), expected="a positive number")
        logits = self._distances(features)
        np.negative(logits, out=logits)
        with np.errstate(over="ignore"):
            logits /= degree
        np.maximum(logits, -np.finfo(np.float64).max / 4, out=logits)
        logits += self.log_prior
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        return _floored(self._per_leaf(logits))

    def novelty(self, features: NDArray[np.generic]) -> Floats:
        """Return how far out each row is, float32 [B]: distance to the nearest prototype over its .99 radius.

        Above 1: farther than 99 of 100 samples that the prototype stands for.
        """
        costs = self._distances(features)
        nearest = costs.argmin(axis=1)
        reach = np.maximum(self.radii[nearest, 2].astype(np.float64), np.finfo(np.float32).tiny)
        ratio = np.sqrt(costs[np.arange(len(costs)), nearest]) / reach
        novel: Floats = np.minimum(ratio, np.finfo(np.float32).max).astype(np.float32)
        return novel

    def _distances(self, features: NDArray[np.generic]) -> NDArray[np.float64]:
        points = check_features(features, self.feature_size, "query features")
        return squared_distances(points, self._wide, self._norms)

    def _per_leaf(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        order = np.argsort(self.leaf_rows, kind="stable")
        starts = np.searchsorted(self.leaf_rows[order], np.arange(self.leaves))
        return np.add.reduceat(shares[:, order], starts, axis=1)


def build_prototype_gate(
    summaries: Sequence[LeafSummary],
    temperature: float | None = None,
    owners: Sequence[str] | None = None,
) -> PrototypeGate:
    """Return the gate over the leaves, in the given order; temperature None: DEFAULT_FACTOR times its scale.

    A prototype's prior is log(count + 1), counts of an owner that outweighs INFLUENCE_CAP median owners
    scaled down to that; the median is the lower one, so that of two owners one alone can not set it.
    `owners`: whose each leaf is; None: each leaf has one of its own. Raises InvalidInputError without leaves,
    owners or prototypes, ShapeMismatchError where D differs.
    """
    if not summaries:
        raise InvalidInputError("gate", found="no leaves", expected="at least one contribution with a leaf")
    size = int(summaries[0].prototypes.shape[-1])
    for row, summary in enumerate(summaries):
        check_features(summary.prototypes, size, f"prototypes of leaf {row}")
        expected = (len(summary.prototypes),)
        if not expected[0] or summary.counts.shape != expected or (summary.counts < 0).any():
            raise InvalidInputError(
                f"leaf {row}",
                found=f"counts {summary.counts.shape}",
                expected=f"{expected}, none negative, at least one",
            )
    scales = _owner_scales(summaries, range(len(summaries)) if owners is None else owners)
    priors = [np.log1p(summary.counts * scale) for summary, scale in zip(summaries, scales, strict=True)]
    gate = PrototypeGate(
        prototypes=np.concatenate([summary.prototypes for summary in summaries]).astype(np.float32),
        leaf_rows=np.repeat(np.arange(len(summaries)), [len(s.prototypes) for s in summaries]).astype(
            np.int32
        ),
        log_prior=np.concatenate(priors).astype(np.float32),
        radii=np.concatenate([summary.radii for summary in summaries]).astype(np.float32),
        leaves=len(summaries),
        temperature=1.0 if temperature is None else float(temperature),
    )
    return gate if temperature is not None else gate.with_temperature(DEFAULT_FACTOR * gate.scale)


def _owner_scales(summaries: Sequence[LeafSummary], owners: Sequence[Hashable]) -> list[float]:
    """Return by what each leaf's counts are multiplied: 1, or less to bring its owner down to the cap."""
    if len(owners) != len(summaries):
        raise InvalidInputError(
            "owners", found=str(len(owners)), expected=f"one of each of {len(summaries)} leaves"
        )
    totals: dict[Hashable, int] = {}
    for owner, summary in zip(owners, summaries, strict=True):
        totals[owner] = totals.get(owner, 0) + int(summary.counts.sum())
    cap = INFLUENCE_CAP * float(np.quantile(list(totals.values()), 0.5, method="lower"))
    return [min(1.0, cap / max(totals[owner], 1)) for owner in owners]


def temperature_grid(gate: PrototypeGate) -> tuple[float, ...]:
    """Return the temperatures to try on validation data, rising: multiples of the gate's scale."""
    scale = gate.scale
    return tuple(factor * scale for factor in TEMPERATURE_FACTORS)


def _floored(weights: NDArray[np.float64]) -> Floats:
    weights = weights / weights.sum(axis=1, keepdims=True)
    weights = np.maximum(weights, WEIGHT_FLOOR)
    floored: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return floored
