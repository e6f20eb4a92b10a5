"""Who is asked what where the gate lists only some of very many leaves: pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swarm.answering.answer_board import AnswerBoard, Rows
from swarm.answering.known_head import KnownHead
from swarm.gating.listed_routing import plan_listed
from swarm.gating.routing import RoutePlan, plan_route
from swarm.gating.shortlist import Shortlist


def planned_listed(
    shortlist: Shortlist,
    weights_in_full: Callable[[Rows], NDArray[np.floating]] | None,
    leaves: Sequence[KnownHead | None],
    top_k: int,
    allowed: NDArray[np.bool_],
    *,
    root_stands_in: bool,
) -> AnswerBoard:
    """Return who is asked what; rows whose listed leaves do not suffice ask the whole gate.

    They do not where fewer than top_k distinct experts among them are allowed, or where all of them failed.
    """

    def identity_of(leaf: int) -> str:
        head = leaves[leaf]
        return "" if head is None else head.identity

    def in_full(rows: Rows, listed: Sequence[Rows]) -> RoutePlan:
        assert weights_in_full is not None, "a reading with a shortlist can give all weights"
        identities = [identity_of(leaf) for leaf in range(len(leaves))]
        speakers: dict[str, int] = {}
        for leaf in np.flatnonzero(allowed).tolist():
            speakers.setdefault(identities[leaf], leaf)
        most = max(min(top_k, len(speakers)), 1)
        plan = plan_route(weights_in_full(rows), identities, most, allowed)
        order, choices = plan.order.copy(), plan.choices.copy()
        for place, own in enumerate(listed):
            for leaf in own.tolist():
                speaker = speakers[identities[leaf]]
                order[place][plan.order[place] == speaker] = leaf
                choices[place][plan.choices[place] == speaker] = leaf
        return replace(plan, order=order, choices=choices)

    plan = plan_listed(shortlist, identity_of, max(top_k, 1), allowed)
    return AnswerBoard(
        plan,
        len(leaves),
        root_stands_in=root_stands_in,
        in_full=in_full if weights_in_full is not None and allowed.any() else None,
    )
