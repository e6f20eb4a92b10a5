"""Some of very many leaves, with weights: what a gate says of a row where all leaves are too many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError

Listed = tuple[NDArray[np.int64], NDArray[np.float64], float]
"""One row's leaves, rising, their weights, and the weight of each other leaf."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shortlist:
    """For each of B rows up to n leaves: `leaves` int64 [B, n], rising in a row and then -1, and their
    weights float64 [B, n], 0 at -1. Every other one of the `total` leaves has the weight `rest` float64 [B].
    """

    leaves: NDArray[np.int64]
    weights: NDArray[np.float64]
    rest: NDArray[np.float64]
    total: int

    def __post_init__(self) -> None:
        if (
            self.leaves.ndim != 2
            or self.weights.shape != self.leaves.shape
            or self.rest.shape != (len(self),)
        ):
            raise ShapeMismatchError(
                "shortlist",
                found=f"{list(self.leaves.shape)}, {list(self.weights.shape)}, {list(self.rest.shape)}",
                expected="[B, n], [B, n] and [B]",
            )

    def __len__(self) -> int:
        return len(self.leaves)

    def dense(self) -> NDArray[np.float64]:
        """Return the weight of every leaf, [B, total]."""
        found = np.repeat(self.rest[:, None], self.total, axis=1)
        rows, places = np.nonzero(self.leaves >= 0)
        found[rows, self.leaves[rows, places]] = self.weights[rows, places]
        return found

    @classmethod
    def of_rows(cls, rows: Sequence[Listed], total: int) -> "Shortlist":
        """Return the shortlist of B >= 1 rows."""
        if len(rows) == 1:
            [(some, shares, rest)] = rows
            return cls(leaves=some[None], weights=shares[None], rest=np.array([rest]), total=total)
        width = max(len(leaves) for leaves, _, _ in rows)
        leaves = np.full((len(rows), width), -1, dtype=np.int64)
        weights = np.zeros((len(rows), width))
        for row, (some, shares, _) in enumerate(rows):
            leaves[row, : len(some)] = some
            weights[row, : len(some)] = shares
        return cls(leaves=leaves, weights=weights, rest=np.array([rest for _, _, rest in rows]), total=total)

    @classmethod
    def joined(cls, parts: Sequence["Shortlist"]) -> "Shortlist":
        """Return the rows of all parts, one after the other."""
        return cls.of_rows([row for part in parts for row in part.rows()], parts[0].total)

    def first(self, count: int) -> "Shortlist":
        """Return the first so many rows."""
        return replace(self, leaves=self.leaves[:count], weights=self.weights[:count], rest=self.rest[:count])

    def rows(self) -> list[Listed]:
        """Return each row by itself."""
        lengths = (self.leaves >= 0).sum(axis=1)
        return [
            (self.leaves[row, :length], self.weights[row, :length], float(self.rest[row]))
            for row, length in enumerate(lengths)
        ]
