"""From leaf weights to the experts that shall answer: top-k over DISTINCT experts."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutePlan:
    """Who answers each row, as leaf rows; of several leaves with one expert the first allowed stands for all.

    choices int64 [B, k], falling weight, -1 where there are fewer than k distinct experts; weights float32
    [B, k], rows sum to 1, 0 at -1. For fallbacks, order int64 [B, L'] lists all L' distinct allowed leaves by
    falling weight, and order_weights float32 [B, L'] their shares of all, rows sum to 1.
    """

    choices: NDArray[np.int64]
    weights: NDArray[np.float32]
    order: NDArray[np.int64]
    order_weights: NDArray[np.float32]
    is_listed: bool = False
    """Only some leaves are in the order (`plan_listed`)."""


def plan_route(
    weights: NDArray[np.floating],
    leaf_identity: Sequence[Hashable],
    top_k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> RoutePlan:
    """Return the plan for weights [B, L] (>= 0, finite) of leaves with the experts that leaf_identity names.

    Leaves with the same identity are one expert with the sum of their weights (in float64, so that the leaves
    of a branch come to the branch's weight to the bit). `allowed` bool [L] masks leaves out (None: all).
    Ties: the lower leaf row. Total: every row gets an expert while any leaf is allowed (equal shares where
    all chosen weights are 0); with none allowed all choices are -1.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if shares.ndim != 2 or shares.shape[1] != len(leaf_identity):
        raise ShapeMismatchError(
            "leaf weights", found=str(list(shares.shape)), expected=f"[B, {len(leaf_identity)}]"
        )
    if top_k < 1:
        raise InvalidInputError("top_k", found=str(top_k), expected="at least 1")
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise InvalidInputError("leaf weights", found="a weight that is negative or not finite")
    open_leaves = np.ones(shares.shape[1], dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    if open_leaves.shape != (shares.shape[1],):
        raise ShapeMismatchError(
            "allowed leaves", found=str(open_leaves.shape), expected=f"[{shares.shape[1]}]"
        )

    speakers: dict[Hashable, int] = {}
    columns: list[int] = []
    rows = np.flatnonzero(open_leaves)
    for row in rows:
        columns.append(speakers.setdefault(leaf_identity[int(row)], len(speakers)))
    leaf_of = np.full(len(speakers), -1, dtype=np.int64)
    for row, column in zip(rows[::-1], columns[::-1], strict=True):
        leaf_of[column] = row
    merged = np.zeros((len(shares), len(speakers)))
    for row, column in zip(rows, columns, strict=True):
        merged[:, column] += shares[:, row]

    if not np.isfinite(merged).all():
        raise InvalidInputError("leaf weights", found="weights whose sum is not finite")
    ranked = np.argsort(-merged, axis=1, kind="stable")
    order = leaf_of[ranked]
    order_weights = _normalised(np.take_along_axis(merged, ranked, axis=1))
    kept = min(top_k, len(speakers))
    choices = np.full((len(shares), top_k), -1, dtype=np.int64)
    chosen = np.zeros((len(shares), top_k))
    choices[:, :kept] = order[:, :kept]
    chosen[:, :kept] = _normalised(order_weights[:, :kept])
    return RoutePlan(
        choices=choices,
        weights=chosen.astype(np.float32),
        order=order,
        order_weights=order_weights.astype(np.float32),
    )


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    if not weights.shape[1]:
        return weights
    largest = weights.max(axis=1, keepdims=True)
    scaled = np.where(largest > 0, weights / np.where(largest > 0, largest, 1.0), 1.0)
    shares: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return shares
