"""A leaf's summary when samples are added: old prototypes and those of the new samples, no more than allowed.

The old samples themselves are not needed, so nobody has to keep them.
"""

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError
from swarm.gating.distances import squared_distances
from swarm.gating.regions import QUANTILES, LeafSummary

_MASSES = np.diff([0.0, *QUANTILES, 1.0])


def joined_summary(old: LeafSummary, new: LeafSummary, *, prototypes: int) -> LeafSummary:
    """Return the summary of both's samples together, with at most `prototypes` prototypes.

    While there are more, the two whose union adds the least to the summed squared distances are joined: the
    mean of all their samples, hence again of at least as many as either. Counts add. A joined prototype's
    radii are the quantiles of its parts' samples, each part's placed at its own quantiles, moved out by the
    distance of its old prototype. Source: Ward, "Hierarchical grouping to optimize an objective function",
    1963.
    """
    if old.prototypes.shape[1:] != new.prototypes.shape[1:] or prototypes < 1:
        raise InvalidInputError(
            "leaf summaries",
            found=f"{list(old.prototypes.shape)} and {list(new.prototypes.shape)}, {prototypes} prototypes",
            expected="as many features in both, and at least 1 prototype",
        )
    points = np.concatenate([old.prototypes, new.prototypes]).astype(np.float64)
    counts = np.concatenate([old.counts, new.counts]).astype(np.int64)
    radii = np.concatenate([old.radii, new.radii]).astype(np.float64)
    centres, weights, members, flops = _joined(points, counts, prototypes)
    found = [
        _radii(centre, points[rows], counts[rows], radii[rows])
        for centre, rows in zip(centres, members, strict=True)
    ]
    return LeafSummary(
        prototypes=centres.astype(np.float32),
        counts=weights,
        radii=np.minimum(np.array(found), np.finfo(np.float32).max).astype(np.float32),
        flops=flops,
    )


def _joined(
    points: NDArray[np.float64], counts: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[NDArray[np.int64]], int]:
    """Return centres, counts, which points each stands for, and FLOPs; ties go to the lower rows."""
    centres, weights = points.copy(), counts.copy()
    members = [[row] for row in range(len(points))]
    alive = np.ones(len(points), dtype=bool)
    costs = squared_distances(centres, centres) * _harmonic(weights[:, None], weights[None, :])
    costs[np.tril_indices(len(points))] = np.inf
    flops = 2 * len(points) * points.size
    for _ in range(len(points) - most):
        first, second = divmod(int(costs.argmin()), len(points))
        total = weights[first] + weights[second]
        centres[first] += (centres[second] - centres[first]) * (weights[second] / total)
        weights[first] = total
        members[first] += members[second]
        alive[second] = False
        costs[second, :] = costs[:, second] = np.inf
        row = squared_distances(centres[first : first + 1], centres)[0] * _harmonic(total, weights)
        row[~alive] = np.inf
        costs[first, first + 1 :] = row[first + 1 :]
        costs[:first, first] = row[:first]
        flops += 2 * points.size
    kept = np.flatnonzero(alive)
    return centres[kept], weights[kept], [np.sort(members[row]) for row in kept.tolist()], flops


def _harmonic(first: NDArray[np.int64] | np.int64, second: NDArray[np.int64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = first / (first + second) * second
    return product


def _radii(
    centre: NDArray[np.float64],
    parts: NDArray[np.float64],
    counts: NDArray[np.int64],
    radii: NDArray[np.float64],
) -> NDArray[np.float64]:
    moved = np.square(parts - centre).sum(axis=1)
    # The last share of a part's samples lies beyond its .99 radius; how far is not known.
    knots = np.concatenate([radii, radii[:, -1:]], axis=1)
    distances = np.sqrt(np.square(knots) + moved[:, None]).reshape(-1)
    masses = (counts[:, None] * _MASSES).reshape(-1)
    order = np.argsort(distances, kind="stable")
    reached = np.cumsum(masses[order]) / masses.sum()
    # A part alone gives its own radii back.
    at = np.searchsorted(reached, np.array(QUANTILES) - 1e-9)
    found: NDArray[np.float64] = distances[order][np.minimum(at, len(order) - 1)]
    return found
