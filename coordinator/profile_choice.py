"""Who answers an asker: the owners who agree with its examples, or all.

What an asker shows may not be all that it will ask. So nobody is left out, and no class with them, without a
reason beyond chance.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.agreement import agreeing_owners, is_clearly_better
from swarm.answering.active_gate import ActiveGate
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.gating.class_columns import ClassColumns

Roots = Callable[[Sequence[Sequence[NodeId]]], Awaitable[list[ClassColumns]]]
"""Solves for each group of owners."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Whose root answers, and which examples it and the root of all owners get right, bool [N] each."""

    owners: tuple[NodeId, ...]
    root: ClassColumns
    right: NDArray[np.bool_]
    right_by_all: NDArray[np.bool_]


async def choose(
    active: ActiveGate,
    beside: Sequence[NodeId],
    roots: Roots,
    q: NDArray[np.int16],
    labels: NDArray[np.int64],
) -> Chosen:
    """Return whose root answers an asker of examples q [N, M], labels int64 [N].

    That is the owners who agree with them if their root gets clearly more right than that of all owners.
    Where two conventions are mixed evenly, the root of all gets half of what conflicts right by luck, and a
    few dozen examples may not tell. If nothing is lost by leaving the others out (no class, no example, and
    nobody kept aside comes in), it is enough that those get clearly fewer right of the classes they know.
    """
    everyone, of_all = _in_gate(active.value), _root_of_all(active)

    async def right(root: ClassColumns) -> NDArray[np.bool_]:
        return await asyncio.to_thread(root.right, q, labels)

    by_all = await right(of_all)
    all_of_them = Chosen(owners=everyone, root=of_all, right=by_all, right_by_all=by_all)
    owners = sorted({*everyone, *beside})
    alone = dict(zip(owners, await roots([[owner] for owner in owners]), strict=True))
    correct = {owner: int((await right(root)).sum()) for owner, root in alone.items()}
    agreeing = agreeing_owners(correct, len(labels), beside, int(by_all.sum()))
    if agreeing == everyone:
        return all_of_them
    root = alone[agreeing[0]] if len(agreeing) == 1 else (await roots([agreeing]))[0]
    by_some = await right(root)
    some = Chosen(owners=agreeing, root=root, right=by_some, right_by_all=by_all)
    if is_clearly_better(by_some, by_all):
        return some
    loses_nothing = (
        set(agreeing) < set(everyone)
        and np.array_equal(root.known, of_all.known)
        and by_some.sum() >= by_all.sum()
    )
    if not loses_nothing:
        return all_of_them
    others = (await roots([[owner for owner in everyone if owner not in agreeing]]))[0]
    known = np.isin(labels, others.known)
    by_others = await right(others)
    return some if is_clearly_better(by_some[known], by_others[known]) else all_of_them


def _in_gate(gate: GateStatement) -> tuple[NodeId, ...]:
    return tuple(sorted({leaf.owner for leaf in gate.leaves if leaf.has_columns}))


def _root_of_all(active: ActiveGate) -> ClassColumns:
    analytic = active.analytic
    assert analytic is not None, "checked before"
    return analytic.class_columns
