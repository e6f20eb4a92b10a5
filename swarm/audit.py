"""The audit log: who was refused what, and why; one event `refused` each, however many come.

Of a caller that is refused more often than `burst` times at once and `per_second` in the long run the others
are counted, and told as `refused.more` with how often: by the caller's next event, after a minute,
or at the end. What stands in an event is the error's own text, cut short: no request's bytes, no secret.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from swarm.domain.errors import SwarmError

MOST_CALLERS: Final = 1024
TELL_AFTER_S: Final = 60.0
_MAX_TEXT: Final = 300
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Account:
    """What a caller may still be logged for, and what it was refused meanwhile, by method and code."""

    left: float
    since: float
    untold: Counter[tuple[str, str]] = field(default_factory=Counter)


class RefusalLog:
    """Logs refusals at one server. `clock`: seconds from any steady origin."""

    def __init__(
        self, *, burst: float = 50, per_second: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._told_at = clock()

    def refused(self, method: str, caller: str, error: SwarmError, *, peer: str = "") -> None:
        """Log that caller (`role/id`, empty: nobody who is known, told by peer) was refused method."""
        now, name = self._clock(), caller or _host(peer)
        account = self._accounts.pop(name, None) or _Account(self._burst, now)
        self._accounts[name] = account
        while len(self._accounts) > MOST_CALLERS:
            self._tell(*self._accounts.popitem(last=False))
        account.left = min(self._burst, account.left + (now - account.since) * self._per_second)
        account.since = now
        if now - self._told_at >= TELL_AFTER_S:
            self.flush()
        if account.left < 1:
            account.untold[(method, error.code)] += 1
            return
        account.left -= 1
        self._tell(name, account)
        _log.info(
            "refused",
            method=method,
            caller=caller,
            peer=peer,
            code=error.code,
            subject=error.subject[:_MAX_TEXT],
            reason=str(error)[:_MAX_TEXT],
        )

    def flush(self) -> None:
        """Tell what was counted and not told yet."""
        self._told_at = self._clock()
        for name, account in self._accounts.items():
            self._tell(name, account)

    def _tell(self, name: str, account: _Account) -> None:
        for (method, code), times in account.untold.items():
            _log.info("refused.more", method=method, caller=name, code=code, times=times)
        account.untold.clear()


def _host(peer: str) -> str:
    """Return a peer's address without its port: each connection has another."""
    return peer.rpartition(":")[0] if peer.count(":") > 1 else peer
