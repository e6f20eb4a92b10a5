"""How many rows a caller may ask about in the long run: a token bucket for each."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from swarm.domain.errors import ExhaustedError

BURST_S: Final = 10.0
"""A caller that was silent may ask at once about what it may ask about in so many seconds."""
MOST_CALLERS: Final = 4096
_LEAST_HINT_S: Final = 0.05


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class RateLimits:
    """Rows a second of each caller. For one event loop. `clock`: seconds from any steady origin."""

    def __init__(
        self,
        rows_per_s: float = 0.0,
        of_callers: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rows_per_s` is everybody's rate (0: no limit), `of_callers` that of those named in it."""
        self._rate, self._of_callers, self._clock = rows_per_s, dict(of_callers or {}), clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def rate(self, caller: str) -> float:
        """Return a caller's rows a second, 0 where it has no limit."""
        return self._of_callers.get(caller, self._rate)

    def check(self, caller: str) -> None:
        """Raise ExhaustedError, with when to ask again, where a caller has asked for more than it may."""
        rate = self.rate(caller)
        if rate <= 0:
            return
        left = self._bucket(caller, rate).left
        if left <= 0:
            wait_s = max(_LEAST_HINT_S, (1 - left) / rate)
            raise ExhaustedError(
                f"queries of {caller}",
                found=f"more than {rate:g} rows a second",
                expected=f"at most {rate:g} rows a second, {rate * BURST_S:g} at once",
                remedy=f"ask again in {wait_s:.2g} s; the operator sets the rate",
                retry_after_s=wait_s,
            )

    def spend(self, caller: str, rows: int) -> None:
        """Count rows that a caller asks about; raises as `check`. Where some are left, a query may take more
        than those: the caller then waits for longer."""
        self.check(caller)
        rate = self.rate(caller)
        if rate > 0:
            self._bucket(caller, rate).left -= rows

    def _bucket(self, caller: str, rate: float) -> _Bucket:
        now, most = self._clock(), rate * BURST_S
        bucket = self._buckets.pop(caller, None) or _Bucket(most, now)
        bucket.left = min(most, bucket.left + max(now - bucket.at, 0.0) * rate)
        bucket.at = now
        self._buckets[caller] = bucket
        while len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return bucket
