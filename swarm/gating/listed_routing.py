"""Plans from shortlists: as `plan_route`, for the listed leaves alone, each row by itself."""

from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from swarm.gating.routing import RoutePlan, plan_route
from swarm.gating.shortlist import Shortlist


def plan_listed(
    shortlist: Shortlist,
    identity_of: Callable[[int], Hashable],
    top_k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> RoutePlan:
    """Return the plan for a shortlist, of `plan_route` for the leaves that it lists.

    identity_of(leaf) names a leaf's expert; of several listed leaves with one expert the first allowed stands
    for all. Where a row lists fewer than top_k distinct allowed experts, its choices end in -1 and the whole
    gate has to be asked. order is filled up with -1, and order_weights with 0.
    """
    plans = [_row(leaves, weights, identity_of, top_k, allowed) for leaves, weights, _ in shortlist.rows()]
    width = max(len(order) for order, _, _ in plans)
    batch = len(plans)
    order, order_weights = np.full((batch, width), -1, dtype=np.int64), np.zeros((batch, width), np.float32)
    choices, chosen = np.full((batch, top_k), -1, dtype=np.int64), np.zeros((batch, top_k), np.float32)
    for row, (some, shares, kept) in enumerate(plans):
        order[row, : len(some)], order_weights[row, : len(some)] = some, shares
        choices[row, : len(kept)], chosen[row, : len(kept)] = some[: len(kept)], kept
    return RoutePlan(
        choices=choices, weights=chosen, order=order, order_weights=order_weights, is_listed=True
    )


def _row(
    leaves: NDArray[np.int64],
    weights: NDArray[np.float64],
    identity_of: Callable[[int], Hashable],
    top_k: int,
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return one row's order, its weights, and those of what is chosen."""
    if allowed is not None:
        open_leaves = allowed[leaves]
        leaves, weights = leaves[open_leaves], weights[open_leaves]
    plan = plan_route(weights[None], [identity_of(leaf) for leaf in leaves.tolist()], top_k)
    kept = plan.weights[0, : plan.order.shape[1]]
    return leaves[plan.order[0]], plan.order_weights[0], kept
