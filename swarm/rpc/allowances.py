"""What one member may have open at one server, so that nobody ends the service for all others.

A call counts from before its first message is read until its handler has ended, over all connections of its
member; a stream that its caller does not read lasts, and counts, until it reads or is gone. Streams count for
each method apart: whoever fetches too much at once still hears events and keeps its lease. The coordinator,
which everybody trusts, is not limited; nor is a unix socket, which only its owner opens.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from swarm.domain.errors import ExhaustedError

Kind = Literal["call", "upload", "stream"]

MOST_CALLS_OF_ALL: Final = 65_536
"""Beyond this a server refuses everybody: some twenty members that all go to their limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For each member: unary calls at once, and for each method uploads and other streams at once; and when a
    stream is given up whose caller does not read."""

    calls: int = 2048
    uploads: int = 32
    streams: int = 64
    unread_s: float = 120.0


class Allowances:
    """Counts the calls of each member at one server. For one event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def call(self, member: str, path: str, kind: Kind) -> Iterator[None]:
        """Count a call of a member (`role/id`) while the context lasts; ExhaustedError beyond what it may
        have open."""
        name = (member, "" if kind == "call" else path)
        most = {"call": self.limits.calls, "upload": self.limits.uploads, "stream": self.limits.streams}[kind]
        if self._open[name] >= most and not member.startswith("coordinator/"):
            raise ExhaustedError(
                f"{'calls' if kind == 'call' else path.lstrip('/')} of {member}",
                found=f"{self._open[name]} open",
                expected=f"at most {most} at once",
                remedy="end some of them, or wait until they have ended; nothing was done",
            )
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
