"""The calls of one query, until every row has its answers or nobody is left to ask.

Each leaf's rows are asked of one node that holds its version, or an exact copy; all that one node is asked at
once goes in one call. A call that fails is asked of another holder at once, whatever else is under way. One
that takes longer than nearly all calls of another holder do is asked of that one as well (a hedge): the first
good answer counts, and the other call is ended.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swarm.answering.answer_board import Rows
from swarm.answering.combining import Reply
from swarm.answering.expert_calls import Asked, ExpertCalls
from swarm.answering.known_head import KnownHead
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.inference import ExpertForm

Speakers = Sequence[tuple[int, KnownHead]]
"""Whose versions can speak for a leaf: its own row and version first, then exact copies."""
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asking:
    """What all calls of one query have in common. `deadline` is of the monotonic clock."""

    inputs: NDArray[np.generic]
    gate: GateStatement
    form: ExpertForm
    deadline: float
    replayable: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Part:
    """Rows that are asked of one leaf. `asked`: everybody who was, `calls` how many of them still are."""

    leaf: int
    rows: Rows
    asked: set[NodeId] = field(default_factory=set)
    calls: int = 0
    answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """Who can be asked for a part, by which version, speaking for which row of the gate; `is_expected` to
    have it."""

    node: NodeId
    speaker: int
    head: KnownHead
    is_expected: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """One call under way: its parts by leaf, and from when on it may be hedged."""

    node: NodeId
    parts: dict[int, tuple[_Part, _Place]]
    hedge_at: float = NEVER

    @property
    def is_wanted(self) -> bool:
        return any(not part.answered for part, _ in self.parts.values())


class Gathering:
    """Asks for one query's leaves.

    `lost` is told the rows of the leaves that nobody is left to answer for, and says what is wanted instead.
    """

    def __init__(
        self,
        calls: ExpertCalls,
        asking: Asking,
        speakers: Callable[[int], Speakers],
        lost: Callable[[Mapping[int, Rows]], Mapping[int, Rows]],
    ) -> None:
        self._calls, self._asking, self._speakers, self._lost = calls, asking, speakers, lost
        self._running: dict[asyncio.Task[dict[int, Asked]], _Call] = {}
        self.failed: dict[int, set[NodeId]] = {}
        """Who was asked for a leaf and did not answer."""
        self._replies: list[Reply] = []

    async def replies(self, wanted: Mapping[int, Rows]) -> list[Reply]:
        """Return the answers to these rows of these leaves, or to what was wanted instead, ordered by leaf
        and row, whoever was first. Raises DeadlineError where no time is left."""
        try:
            self._want(wanted)
            while self._running:
                done, _ = await asyncio.wait(
                    self._running, timeout=self._hedge_in_s(), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    self._take(self._running.pop(task), task.result())
                self._end_unwanted()
                self._hedge()
        finally:
            await self._end(list(self._running))
        return sorted(self._replies, key=lambda reply: (reply.leaf, int(reply.rows[0])))

    def _want(self, wanted: Mapping[int, Rows]) -> None:
        self._ask([_Part(leaf=leaf, rows=rows) for leaf, rows in wanted.items()])

    def _ask(self, parts: Sequence[_Part]) -> None:
        """Start the calls for these parts; what nobody is left for is lost."""
        lost: dict[int, list[Rows]] = {}
        chosen: list[tuple[_Part, _Place, Sequence[_Place]]] = []
        for part in parts:
            places = self._places(part)
            if not places:
                for _, head in self._speakers(part.leaf)[:1]:
                    self._calls.nobody(head, self.failed.get(part.leaf, ()))
                lost.setdefault(part.leaf, []).append(part.rows)
                continue
            best = self._best(places, len(part.rows))
            others = [place for place in places if place is not best and place.is_expected]
            chosen.append((part, best, others))
        beside = {id(part): rest for part, _, rest in chosen}
        for call in _by_node((part, place) for part, place, _ in chosen):
            self._calls.hedges.call()
            self._start(call, [beside[id(part)] for part, _ in call.parts.values()])
        if lost:
            self._want(self._lost({leaf: np.unique(np.concatenate(rows)) for leaf, rows in lost.items()}))

    def _places(self, part: _Part) -> list[_Place]:
        """Return who can be asked for a part and was not: holders of its own version, then of its copies."""
        passed = part.asked | self.failed.get(part.leaf, set())
        found: dict[NodeId, _Place] = {}
        for speaker, head in self._speakers(part.leaf):
            for node in self._calls.holders(head):
                if node not in passed:
                    expected = self._calls.is_expected(node, head)
                    place = _Place(node=node, speaker=speaker, head=head, is_expected=expected)
                    found.setdefault(node, place)
        return list(found.values())

    def _best(self, places: Sequence[_Place], rows: int) -> _Place:
        """Return whom of these to ask first: who is expected to have the version, where anybody is."""
        likely = [place for place in places if place.is_expected] or places
        return likely[self._calls.times.best([place.node for place in likely], rows)]

    def _start(self, call: _Call, others: Sequence[Sequence[_Place]] = ()) -> None:
        """Begin a call; `others`: who could be asked for each of its parts as well (none: no hedge)."""
        asking = self._asking
        for part, place in call.parts.values():
            part.asked.add(place.node)
            part.calls += 1
        rows = sum(len(part.rows) for part, _ in call.parts.values())
        if others and all(others) and not asking.replayable:
            after = max(self._calls.times.hedge_after_s(places[0].node, rows) for places in others)
            call.hedge_at = time.monotonic() + after
        work = self._calls.ask(
            call.node,
            asking.inputs,
            {leaf: part.rows for leaf, (part, _) in call.parts.items()},
            {leaf: place.head for leaf, (_, place) in call.parts.items()},
            asking.gate,
            asking.form,
            asking.deadline,
            asking.replayable,
        )
        self._running[asyncio.create_task(work)] = call

    def _take(self, call: _Call, found: Mapping[int, Asked]) -> None:
        """Count a call's answers, and ask others for what it did not answer and nobody else is asked for."""
        again = []
        for leaf, (part, place) in call.parts.items():
            part.calls -= 1
            if leaf not in found:
                self.failed.setdefault(leaf, set()).add(call.node)
                if not part.answered and not part.calls:
                    again.append(part)
            elif not part.answered:
                part.answered = True
                self._replies.append(
                    Reply(leaf=leaf, rows=part.rows, answer=found[leaf], speaker=place.speaker)
                )
        if again:
            self._ask(again)

    def _hedge(self) -> None:
        """Ask other holders for what takes too long, as far as the budget lets."""
        now = time.monotonic()
        for call in list(self._running.values()):
            if now < call.hedge_at:
                continue
            call.hedge_at = NEVER
            open_parts = [part for part, _ in call.parts.values() if not part.answered]
            choices = [[each for each in self._places(part) if each.is_expected] for part in open_parts]
            if not all(choices) or not self._calls.hedges.take():
                continue
            best = [
                self._best(places, len(part.rows)) for part, places in zip(open_parts, choices, strict=True)
            ]
            for hedge in _by_node(zip(open_parts, best, strict=True)):
                self._start(hedge)

    def _hedge_in_s(self) -> float | None:
        first = min((call.hedge_at for call in self._running.values()), default=NEVER)
        return None if first == NEVER else max(0.0, first - time.monotonic())

    def _end_unwanted(self) -> None:
        """End the calls whose rows others have answered."""
        for task, call in list(self._running.items()):
            if not call.is_wanted:
                del self._running[task]
                task.add_done_callback(_forget)
                task.cancel()

    async def _end(self, tasks: Sequence["asyncio.Task[dict[int, Asked]]"]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _by_node(chosen: Iterable[tuple[_Part, _Place]]) -> list[_Call]:
    """Return one call for each node, with all that it is asked; a leaf that comes twice has two calls."""
    found: list[_Call] = []
    for part, place in chosen:
        call = next((one for one in found if one.node == place.node and part.leaf not in one.parts), None)
        if call is None:
            call = _Call(node=place.node, parts={})
            found.append(call)
        call.parts[part.leaf] = (part, place)
    return found


def _forget(task: "asyncio.Task[dict[int, Asked]]") -> None:
    """Take what came of a call that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
