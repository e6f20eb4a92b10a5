"""The roots that are compared where classes are in regions: with one covariance, and with each owner's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swarm.gating.class_columns import ClassColumns
from swarm.gating.owner_discriminants import ByClass, solve_by_class
from swarm.gating.ridge import OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, target_columns

LEAST_SQUARES, ONE_COVARIANCE = "least squares", "one covariance"
TRIED = ((0.0, 0.0), (0.25, 1.0), (0.5, 0.0), (0.5, 1.0), (1.0, 1.0))
"""`common` and `handicap` of `solve_by_class`."""
Given = Mapping[str, tuple[NDArray[np.int16], NDArray[np.str_]]]
"""By owner: features in fixed point int16 [N, M], and for each row `region/class` [N]."""


def roots_of(
    given: Given, ridges: Sequence[float], fixed_point: float
) -> tuple[dict[str, list[ClassColumns]], list[str]]:
    """Return the roots by name, one for each ridge, and the names of the classes that they score."""
    owners, targets, owner_of = [], [], []
    for place, (owner, (q, labels)) in enumerate(sorted(given.items())):
        own, rows = np.unique(labels, return_inverse=True)
        columns, exact = target_columns(q, rows, len(own)), pack_triangle(exact_gram(q))
        owners.append(OwnerSums(owner=owner, samples=len(q), columns=columns, exact=exact))
        targets += [str(name) for name in own]
        owner_of += [place] * len(own)
    names, classes = np.unique([name.partition("/")[2] for name in targets], return_inverse=True)
    columns = np.concatenate([each.columns for each in owners], axis=1)
    solved = solve(owners, ridges, fixed_point)
    like = np.zeros((len(ridges), owners[0].size, len(names)))
    for target, row in enumerate(classes):
        like[:, :, row] += solved[:, :, target]
    found = {LEAST_SQUARES: [ClassColumns.summing(root, classes, len(names)) for root in solved]}
    for common, handicap in TRIED:
        by_class = solve_by_class(
            owners,
            columns,
            classes,
            np.array(owner_of),
            ridges,
            fixed_point,
            like,
            common=common,
            handicap=handicap,
        )
        assert by_class is not None, "exact sums are positive definite"
        if ONE_COVARIANCE not in found:  # the columns between owners, which have no handicap here
            between = by_class.weights[:, :, : len(by_class.targets)]
            found[ONE_COVARIANCE] = _columns(replace(by_class, weights=between, owners=None), len(names))
        name = f"each owner's, common {common:g}, handicap {handicap:g}"
        found[name] = _columns(by_class, len(names))
    return found, [str(name) for name in names]


def _columns(solved: ByClass, classes: int) -> list[ClassColumns]:
    return [
        ClassColumns(
            weights=weights.astype(np.float32), rows=solved.targets, classes=classes, owners=solved.owners
        )
        for weights in solved.weights
    ]
