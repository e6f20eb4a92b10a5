"""Who is asked what where the gate lists only some of very many leaves: pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swarm.answering.answer_board import AnswerBoard, Rows
from swarm.answering.roster import Allowed
from swarm.gating.listed_routing import plan_listed
from swarm.gating.routing import RoutePlan, plan_among
from swarm.gating.shortlist import Shortlist


def planned_listed(
    shortlist: Shortlist,
    weights_in_full: Callable[[Rows], NDArray[np.floating]] | None,
    top_k: int,
    allowed: Allowed,
    *,
    root_stands_in: bool,
) -> AnswerBoard:
    """Return who is asked what; rows whose listed leaves do not suffice ask the whole gate.

    They do not where fewer than top_k distinct experts among them are allowed, or where all of them failed.
    """

    def in_full(rows: Rows, listed: Sequence[Rows]) -> RoutePlan:
        assert weights_in_full is not None, "a reading with a shortlist can give all weights"
        experts = allowed.experts
        plan = plan_among(weights_in_full(rows), experts, max(min(top_k, len(experts)), 1))
        order, choices = plan.order.copy(), plan.choices.copy()
        for place, own in enumerate(listed):
            for leaf in own.tolist():
                speaker = experts.speaker_of(leaf)
                if speaker != leaf:
                    order[place][plan.order[place] == speaker] = leaf
                    choices[place][plan.choices[place] == speaker] = leaf
        return replace(plan, order=order, choices=choices)

    plan = plan_listed(shortlist, allowed.identity_of, max(top_k, 1), allowed.leaves)
    return AnswerBoard(
        plan,
        len(allowed.leaves),
        root_stands_in=root_stands_in,
        in_full=in_full if weights_in_full is not None and not allowed.is_empty else None,
    )
