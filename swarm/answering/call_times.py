"""How long nodes take to answer and how much they have to do: whom to ask, and when to ask another, too.

What is expected of a node is the moving average of its newest calls of about as many rows, and more where
other calls wait there. What is not known is expected to be as good as the best that is: so it is found out.
Asking a second node before the first has answered is hedging (Dean & Barroso, The tail at scale, 2013).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from swarm.domain.ids import NodeId

NEWEST_SHARE: Final = 0.25
"""How much the newest call counts in a node's average."""
REMEMBERED: Final = 64
FEW: Final = 8
"""Of fewer calls nobody can say what nearly all of them take."""
FRESH_S: Final = 1.0
STALE_S: Final = 60.0
"""What a node took says nothing of it so much later: at first, and at most. The time doubles whenever a node
that is asked again is slow again."""
FIRST_S: Final = 0.05
FIRST_HEDGE_S: Final = 0.25
"""What a call, and what nearly all calls take where nothing is known."""
LEAST_HEDGE_S: Final = 0.005
ABOUT_AS_GOOD: Final = 1.5
ABOUT_AS_GOOD_S: Final = 0.002
"""The node that comes first is asked unless another is expected to be faster by more than both say."""
LITTLE_TO_DO: Final = 16
"""Nodes answer about so many rows at once in the time of one."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
"""So long a node that failed is asked after all others; twice as long each time in a row."""
LAST_OF_ALL_S: Final = 3600.0
BUSY_S: Final = 60.0
"""Over about this time it is counted how much a node was asked."""


@dataclass(slots=True, eq=False)
class _Times:
    """What one node took for calls of about as many rows."""

    average_s: float = 0.0
    newest: float = 0.0
    trusted_s: float = FRESH_S
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def is_fresh(self, now: float) -> bool:
        return bool(self.seconds) and now - self.newest <= min(self.trusted_s, STALE_S)

    def note(self, seconds: float, now: float, best_other_s: float) -> None:
        is_fresh = self.is_fresh(now)
        self.average_s += (seconds - self.average_s) * (NEWEST_SHARE if is_fresh else 1.0)
        if self.average_s <= ABOUT_AS_GOOD * best_other_s:
            self.trusted_s = FRESH_S
        elif self.seconds and not is_fresh:
            self.trusted_s = min(2 * self.trusted_s, STALE_S)
        self.newest = now
        self.seconds.append(seconds)

    @property
    def nearly_all_s(self) -> float:
        """What 95 of 100 calls take."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]


@dataclass(slots=True, eq=False)
class _Node:
    outstanding: int = 0
    asked: float = 0.0
    asked_at: float = 0.0
    pause_s: float = 0.0
    paused_until: float = 0.0


class CallTimes:
    """The calls of one process to all nodes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[int, dict[NodeId, _Times]] = {}
        self._nodes: dict[NodeId, _Node] = {}

    def started(self, node: NodeId, rows: int) -> None:
        """A call of so many rows is on its way."""
        known, now = self._of(node), self._clock()
        known.outstanding += rows
        known.asked, known.asked_at = self.rows_lately(node) + rows, now

    def ended(self, node: NodeId, rows: int) -> None:
        """Nothing more is expected of that call, whatever came of it."""
        self._of(node).outstanding -= rows

    def took(self, node: NodeId, rows: int, seconds: float) -> None:
        """A call was answered."""
        known = self._of(node)
        known.pause_s = known.paused_until = 0.0
        self._note(node, rows, seconds)

    def took_longer(self, node: NodeId, rows: int, seconds: float) -> None:
        """A call was given up after so long: who has been waited for is to be waited for as long again.
        Nothing is said by one that was given up sooner than it was expected."""
        if seconds > self.expected_s(node, rows):
            self._note(node, rows, 2 * seconds)

    def failed(self, node: NodeId) -> None:
        """A node refused a call, or could not be reached: others come first for a while."""
        known = self._of(node)
        known.pause_s = min(max(known.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        known.paused_until = self._clock() + known.pause_s

    def forget(self, node: NodeId) -> None:
        """Drop what is known of a node that is gone for good."""
        self._nodes.pop(node, None)
        for nodes in self._times.values():
            nodes.pop(node, None)

    def expected_s(self, node: NodeId, rows: int) -> float:
        """Return how long a call of so many rows is expected to take, what waits there counted in."""
        known = self._of(node)
        if self._clock() < known.paused_until:
            return LAST_OF_ALL_S
        fresh = self._fresh(rows)
        alone = fresh.get(node, min(fresh.values(), default=FIRST_S))
        return alone * (1 + known.outstanding / max(rows, LITTLE_TO_DO))

    def best(self, nodes: Sequence[NodeId], rows: int) -> int:
        """Return which of the nodes to ask: the first while it is about as good as the best, else that."""
        if len(nodes) == 1:
            return 0
        expected = [self.expected_s(node, rows) for node in nodes]
        least = min(expected)
        return 0 if expected[0] <= ABOUT_AS_GOOD * least + ABOUT_AS_GOOD_S else expected.index(least)

    def hedge_after_s(self, other: NodeId, rows: int) -> float:
        """Return when to ask another node, too: once nearly all of its calls would have been answered."""
        known = self._class_of(rows)
        enough = {name: times for name, times in known.items() if len(times.seconds) >= FEW}
        if other in enough:
            return max(enough[other].nearly_all_s, LEAST_HEDGE_S)
        return max(min((each.nearly_all_s for each in enough.values()), default=FIRST_HEDGE_S), LEAST_HEDGE_S)

    def rows_lately(self, node: NodeId) -> float:
        """Return about how many rows a node was asked lately: each counts by half after BUSY_S."""
        known = self._nodes.get(node)
        return 0.0 if known is None else known.asked * 0.5 ** ((self._clock() - known.asked_at) / BUSY_S)

    def _note(self, node: NodeId, rows: int, seconds: float) -> None:
        others = [average for name, average in self._fresh(rows).items() if name != node]
        times = self._class_of(rows).setdefault(node, _Times())
        times.note(seconds, self._clock(), min(others, default=seconds))

    def _fresh(self, rows: int) -> dict[NodeId, float]:
        """Return the averages that still say something, of calls of about so many rows."""
        now = self._clock()
        return {n: times.average_s for n, times in self._class_of(rows).items() if times.is_fresh(now)}

    def _of(self, node: NodeId) -> _Node:
        return self._nodes.setdefault(node, _Node())

    def _class_of(self, rows: int) -> dict[NodeId, _Times]:
        """Return the times of calls of about so many rows: within a factor of four."""
        return self._times.setdefault((max(rows, 1).bit_length() + 1) // 2, {})


class HedgeBudget:
    """Lets a small share of all calls be asked of a second node, and some more at once after a quiet time."""

    def __init__(self, share: float = 0.05, at_once: float = 20.0) -> None:
        self._share, self._most = share, at_once
        self._left = at_once

    def call(self) -> None:
        """A call was begun."""
        self._left = min(self._most, self._left + self._share)

    def take(self) -> bool:
        """Say whether a call may be asked of a second node now; it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
