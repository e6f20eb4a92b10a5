"""Cholesky factors of positive definite matrices.

scipy.linalg is imported where the first one is computed: services, which compute none, start without it.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factor", "factor_of", "solve_by"]

Doubles = NDArray[np.float64]
Factor = tuple[Doubles, bool]


def factor_of(lower: Doubles, *, in_place: bool = False) -> Factor:
    """Return the factor of the symmetric matrix whose lower triangle is in `lower`, float64 [M, M].

    `in_place` may overwrite `lower`, where its columns are contiguous. Raises numpy.linalg.LinAlgError where
    it is not positive definite.
    """
    from scipy.linalg import cho_factor

    factor: Factor = cho_factor(lower, lower=True, overwrite_a=in_place, check_finite=False)
    return factor


def solve_by(factor: Factor, columns: Doubles) -> Doubles:
    """Return A^-1 B, float64 [M, t] or [M], for the factor of A and columns B of the same shape."""
    from scipy.linalg import cho_solve

    solved: Doubles = cho_solve(factor, columns, check_finite=False)
    return solved
