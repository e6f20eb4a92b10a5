"""Short work is done where it stands, long work in another thread.

A turn of a thread takes a tenth of a millisecond on an idle machine, and on a busy one as long as the
interpreter's lock is waited for, 5 ms each time: four turns for each query were most of what a small one
took, and under load nearly all of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from swarm.answering.active_gate import ActiveGate
from swarm.domain.inference import Query

SHORT_VALUES: Final = 1 << 17
SHORT_PAIRS: Final = 1 << 10
"""Queries of so many values, and of so many pairs of a row and a leaf, are short work: well below 1 ms."""

Given = ParamSpec("Given")
Made = TypeVar("Made")


def is_small(query: Query) -> bool:
    """Say whether a query's inputs are looked through in no time."""
    return query.inputs.size <= SHORT_VALUES


def is_short(query: Query, active: ActiveGate) -> bool:
    """Say whether what a gate says of a query, who is asked, and the mixture are reckoned in no time."""
    pairs = len(query.inputs) * max(len(active.value.leaves), len(active.value.class_names))
    return is_small(query) and pairs <= SHORT_PAIRS and active.columns is None and active.indexed is None


async def worked(
    is_short: bool, work: Callable[Given, Made], *given: Given.args, **named: Given.kwargs
) -> Made:
    """Return what work gives, done here if it is short, else in another thread."""
    return work(*given, **named) if is_short else await asyncio.to_thread(work, *given, **named)
