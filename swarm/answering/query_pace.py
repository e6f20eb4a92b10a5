"""How much work ends in a second, and how much of it is done at once.

More is done at once while that takes about as long as one query alone (which fills batches), less where it
takes longer: delay is the sign of congestion (TCP Vegas, Brakmo & Peterson 1995).
"""

import math
from collections.abc import Callable
from typing import Final

LEAST_WIDTH: Final = 4
"""So many queries are worked on at once, however long they take."""
_FIRST_WIDTH: Final = 16
_SLOWER: Final = 4.0
_HARDLY_ANY: Final = 1
_SHORT_S: Final = 0.05
"""What takes less than this is not too slow."""
_NARROWING: Final = 0.98
_NEWEST_COUNTS: Final = 0.05
_MEMORY_S: Final = 5.0
"""Over how long the pace of the work is averaged."""


class Pace:
    """How much work ends in a second while somebody waits: decayed sums of cost and of time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cost = self._seconds = 0.0
        self._since: float | None = None
        self.takes_s = 0.0
        """What a query took lately once it was its turn."""

    def somebody_waits(self) -> None:
        """Note that from now on the work is as fast as it can be."""
        if self._since is None:
            self._since = self._clock()

    def ended(self, cost: int, took_s: float, *, somebody_waits: bool) -> None:
        """Note that a query ended after so long, and whether others wait still."""
        now = self._clock()
        self.takes_s += (took_s - self.takes_s) * _NEWEST_COUNTS
        if self._since is not None:
            passed = max(now - self._since, 0.0)
            kept = math.exp(-passed / _MEMORY_S)
            self._cost = self._cost * kept + cost
            self._seconds = self._seconds * kept + passed
        self._since = now if somebody_waits else None

    def seconds_for(self, cost: float) -> float:
        """Return how long so much takes, 0 before anything is known."""
        if self._seconds <= 0 or self._cost <= 0:
            return 0.0
        return cost * self._seconds / self._cost


class Width:
    """How many queries are worked on at once: as many as take no longer than `_SLOWER` times what one takes
    that has hardly any company."""

    def __init__(self, most: int) -> None:
        self._most, self._width = most, float(min(most, _FIRST_WIDTH))
        self._alone_s = self._least_s = math.inf

    @property
    def queries(self) -> int:
        return int(self._width)

    def ended(self, took_s: float, *, company: int, is_full: bool) -> None:
        """Note how long a query took that began with so many others, and whether more of them waited."""
        self._least_s = min(took_s, self._least_s)
        if company <= _HARDLY_ANY:
            known = math.isfinite(self._alone_s)
            self._alone_s += (took_s - self._alone_s) * _NEWEST_COUNTS if known else 0.0
            self._alone_s = self._alone_s if known else took_s
        usual_s = self._alone_s if math.isfinite(self._alone_s) else self._least_s
        if took_s > max(_SHORT_S, _SLOWER * usual_s):
            self._width = max(min(self._most, LEAST_WIDTH), self._width * _NARROWING)
        elif is_full:
            self._width = min(self._most, self._width + 1 / self._width)
