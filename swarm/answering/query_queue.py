"""Whose query is answered next: so many at once, callers in turn, and what would come too late is refused.

Callers take turns by deficit round robin (Shreedhar & Varghese 1996): each gets the same share of the work,
however many queries the others send. How long a newcomer would wait is reckoned from how fast waiting ones
went lately; where that is longer than its deadline, or the waiting room is full, it hears so at once, with
the time after which to ask again. How many are worked on at once follows how long they take
(`swarm.answering.query_pace`). A lone query waits for nobody.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from swarm.answering.query_pace import LEAST_WIDTH, Pace, Width
from swarm.domain.errors import DeadlineError, ExhaustedError, NotReadyError
from swarm.domain.inference import MAX_QUERY_ROWS

QUERY_COST: Final = 16
"""A query costs about as much as so many more rows: its message, its calls, its answer."""
_QUANTUM: Final = 256
_SHARE_OF_DEADLINE: Final = 0.5
"""Whoever waits for more of its time than this would often be answered too late, and the work be lost."""
_SMALL_ROWS: Final = 256
"""Queries of more rows take longer anyway: they say nothing of how much there is to do."""
_MOST_WORK_S: Final = 0.5
"""Beyond the least width, no more is worked on at once than takes so long."""
_LEAST_HINT_S: Final = 0.05
_LONGEST_HINT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many queries and rows are worked on at once at most, may wait, and for how long (seconds)."""

    working_queries: int = 256
    working_rows: int = 4 * MAX_QUERY_ROWS
    waiting_queries: int = 1024
    waiting_rows: int = 32 * MAX_QUERY_ROWS
    longest_wait_s: float = 5.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    rows: int
    turn: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Line:
    """One caller's queries, the longest waiting first."""

    queries: deque[_Waiting] = field(default_factory=deque)
    credit: int = 0
    cost: int = 0


@dataclass(slots=True, eq=False)
class _Arrivals:
    """One caller's queries that are being read."""

    queries: int = 0
    cost: int = 0


_NOTHING_ARRIVES: Final = _Arrivals()


class QueryQueue:
    """Gives out turns. For one event loop. `clock`: seconds from any steady origin."""

    def __init__(
        self, limits: QueueLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits if limits is not None else QueueLimits()
        self._clock, self._pace = clock, Pace(clock)
        self._width = Width(self.limits.working_queries)
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._working_queries = self._working_rows = 0
        self._waiting_queries = self._waiting_rows = 0
        self._arriving: dict[str, _Arrivals] = {}
        self._arriving_queries = 0
        self._closing = ""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """How many queries wait."""
        return self._waiting_queries

    @property
    def working(self) -> int:
        """How many queries are worked on."""
        return self._working_queries

    @property
    def takes_s(self) -> float:
        """What a query took lately once it was its turn, in seconds."""
        return self._pace.takes_s

    @property
    def is_closing(self) -> bool:
        """Say whether nothing new is taken up any more."""
        return bool(self._closing)

    def arrive(self, caller: str, timeout_s: float = math.inf) -> "Arriving":
        """Return the context in which a query of this caller's is read; until then it counts as one that
        waits. Raises as `turn` does where that would refuse a query like those that this caller waits with,
        of one row where it waits with none: reading one costs several times as much as refusing it.

        ExhaustedError where too much waits and this caller has its share of it, or its turn would come too
        late; NotReadyError at the end.
        """
        self._check_room(caller)
        line = self._lines.get(caller)
        usual = line.cost // len(line.queries) if line else 1 + QUERY_COST
        own = self._arriving.get(caller, _NOTHING_ARRIVES)
        is_free = self._fits(1) and self._working_queries + self._before(own) < self._width.queries
        if self._waiting_queries or not is_free:
            self._check_wait(caller, usual + own.cost, timeout_s)
        return Arriving(self, caller, usual)

    def _before(self, own: "_Arrivals") -> int:
        """Return how many queries that are being read come before one more of a caller's: of each of the
        others as many as of its own at most, or who sends nothing would keep everybody out."""
        if self._working_queries + self._arriving_queries < self._width.queries:
            return self._arriving_queries
        others = sum(min(each.queries, own.queries) for each in self._arriving.values() if each is not own)
        return own.queries + others

    def _check_room(self, caller: str) -> None:
        if self._closing:
            raise NotReadyError(
                self._closing,
                found="it is being stopped, and answers what it has taken up",
                expected="one that runs",
                remedy="ask again: another one, or this one once it is back",
            )
        if self._is_full(1) and not self._has_less_than_most(caller):
            raise self._busy(self._wait_s())

    @asynccontextmanager
    async def turn(self, caller: str, rows: int, timeout_s: float) -> AsyncIterator[None]:
        """Wait for a turn and hold it while the context lasts.

        Raises ExhaustedError, with when to ask again, where the turn would come after most of timeout_s
        or after the longest wait, or the waiting room is full of others' or own queries; NotReadyError
        while the queue ends; DeadlineError where the turn did not come within timeout_s.
        """
        self._check_room(caller)
        if self._waiting_queries or not self._fits(rows):
            await self._wait(caller, rows, timeout_s)
        else:
            self._begin(rows)
        began, company, is_full = self._clock(), self._working_queries - 1, self._waiting_queries > 0
        try:
            yield
        finally:
            self._working_queries -= 1
            self._working_rows -= rows
            took_s = self._clock() - began
            self._pace.ended(rows + QUERY_COST, took_s, somebody_waits=self._waiting_queries > 0)
            if rows <= _SMALL_ROWS:
                is_full = is_full or self._waiting_queries > 0
                self._width.ended(took_s, company=company, is_full=is_full)
            self._give_turns()
            if not self._working_queries and not self._waiting_queries:
                self._idle.set()

    async def drain(self, what: str, grace_s: float) -> bool:
        """Take up nothing new; return whether all that was taken up ended within the grace (seconds)."""
        self._closing = what
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            return False
        return True

    def _begin(self, rows: int) -> None:
        self._working_queries += 1
        self._working_rows += rows
        self._idle.clear()

    def _fits(self, rows: int) -> bool:
        if self._working_queries >= self._width.queries:
            return False
        if not self._working_queries:
            return True
        if self._working_queries >= LEAST_WIDTH:
            # A few large queries are as much work as many small ones: whoever comes next waits for it all.
            work = self._working_rows + rows + QUERY_COST * (self._working_queries + 1)
            if self._pace.seconds_for(work) > _MOST_WORK_S:
                return False
        return self._working_rows + rows <= self.limits.working_rows

    async def _wait(self, caller: str, rows: int, timeout_s: float) -> None:
        self._check_wait(caller, rows + QUERY_COST, timeout_s)
        while self._is_full(rows):
            if not self._has_less_than_most(caller, rows + QUERY_COST):
                raise self._busy(self._wait_s())
            self._send_away(self._longest_line())
        waiting = _Waiting(rows=rows, turn=asyncio.get_running_loop().create_future())
        line = self._lines.setdefault(caller, _Line())
        line.queries.append(waiting)
        line.cost += rows + QUERY_COST
        self._waiting_queries += 1
        self._waiting_rows += rows
        self._pace.somebody_waits()
        try:
            async with asyncio.timeout(timeout_s):
                await waiting.turn
        except BaseException as error:
            if waiting in line.queries:
                self._forget(caller, line, waiting)
                line.queries.remove(waiting)
                self._drop_empty(caller)
            elif waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
                # The turn came at the same moment: give it on.
                self._working_queries -= 1
                self._working_rows -= rows
            self._give_turns()
            if not self._working_queries and not self._waiting_queries:
                self._idle.set()
            if isinstance(error, TimeoutError):
                raise DeadlineError(
                    "query",
                    found=f"no turn within {timeout_s:g} s",
                    expected="fewer queries before it",
                    remedy="ask again later, or with a longer deadline",
                ) from None
            raise

    def _check_wait(self, caller: str, cost: int, timeout_s: float) -> None:
        line = self._lines.get(caller)
        wait_s = self._wait_s(caller, cost + (line.cost if line else 0))
        most_s = min(_SHARE_OF_DEADLINE * timeout_s - self._pace.takes_s, self.limits.longest_wait_s)
        if wait_s > max(most_s, 0.0):
            raise self._busy(wait_s)

    def _give_turns(self) -> None:
        while self._lines:
            caller, line = next(iter(self._lines.items()))
            first = line.queries[0]
            if not self._fits(first.rows):
                return
            cost = first.rows + QUERY_COST
            if line.credit < cost:
                line.credit += _QUANTUM
                self._lines.move_to_end(caller)
                continue
            line.credit -= cost
            line.queries.popleft()
            self._forget(caller, line, first)
            self._drop_empty(caller)
            if not first.turn.done():
                self._begin(first.rows)
                first.turn.set_result(None)

    def _forget(self, caller: str, line: _Line, waiting: _Waiting) -> None:
        line.cost -= waiting.rows + QUERY_COST
        self._waiting_queries -= 1
        self._waiting_rows -= waiting.rows

    def _drop_empty(self, caller: str) -> None:
        line = self._lines.get(caller)
        if line is not None and not line.queries:
            del self._lines[caller]

    def _is_full(self, rows: int) -> bool:
        if not self._waiting_queries:
            return False
        return (
            self._waiting_queries >= self.limits.waiting_queries
            or self._waiting_rows + rows > self.limits.waiting_rows
        )

    def _longest_line(self) -> str:
        return max(self._lines, key=lambda caller: self._lines[caller].cost)

    def _has_less_than_most(self, caller: str, more: int = 1 + QUERY_COST) -> bool:
        """Say whether a caller would wait with less than whoever waits with most: that one makes room."""
        own = self._lines[caller].cost if caller in self._lines else 0
        return own + more < max((line.cost for line in self._lines.values()), default=0)

    def _send_away(self, caller: str) -> None:
        """Refuse the newest query of a caller, which makes room for one who has less."""
        line = self._lines[caller]
        last = line.queries.pop()
        self._forget(caller, line, last)
        self._drop_empty(caller)
        if not last.turn.done():
            last.turn.set_exception(self._busy(self._wait_s()))

    def _wait_s(self, caller: str = "", own: float = math.inf) -> float:
        """Return how long a caller waits with so much of its own, itself included: others take turns, so of
        each of them as much at most. Without a caller: how long all take together."""
        others = (line.cost for name, line in self._lines.items() if name != caller)
        before = sum(min(cost, own) for cost in others)
        return self._pace.seconds_for(before + (own if caller else 0))

    def _busy(self, wait_s: float) -> ExhaustedError:
        hint_s = min(max(wait_s, _LEAST_HINT_S), _LONGEST_HINT_S)
        return ExhaustedError(
            "queries",
            found=f"{self._waiting_queries} waiting before this one, {self._working_queries} being answered",
            expected="room for one more",
            remedy=f"ask again in {hint_s:.2g} s",
            retry_after_s=hint_s,
        )


class Arriving:
    """A query that is being read, as `QueryQueue.arrive` lets it."""

    __slots__ = ("_caller", "_cost", "_queue")

    def __init__(self, queue: QueryQueue, caller: str, cost: int) -> None:
        self._queue, self._caller, self._cost = queue, caller, cost

    def __enter__(self) -> None:
        self._count(self._cost, 1)

    def __exit__(self, *_: object) -> None:
        self._count(-self._cost, -1)

    def _count(self, cost: int, queries: int) -> None:
        queue = self._queue
        own = queue._arriving.setdefault(self._caller, _Arrivals())
        own.cost += cost
        own.queries += queries
        queue._arriving_queries += queries
        if not own.queries:
            del queue._arriving[self._caller]
