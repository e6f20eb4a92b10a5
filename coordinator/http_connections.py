"""Connections of an HTTP port: whoever says nothing, or takes no answer, holds none of them for long.

uvicorn bounds how many there are, and refuses everybody beyond that; it does not bound how long one of them
may stay that asks nothing.
"""

import asyncio
import socket
import time
from typing import Any, Final, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_S: Final = 10.0
"""So long a connection may be open without a request that has begun."""
UNREAD_S: Final = 60.0
"""So long a caller may take nothing of an answer."""


class PatientProtocol(H11Protocol):
    """One connection. Where there are as many as may be, a new one takes the place of the one that has been
    without a request for the longest time."""

    silent_s, unread_s = SILENT_S, UNREAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, at the cost of another connection if need be."""
        super().connection_made(transport)
        # asyncio leaves Nagle's algorithm on where a socket does not name its protocol, as accepted ones do
        # not: an answer's body would wait for its caller to acknowledge the header, 40 ms on Linux.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._idle_since = time.monotonic()
        self._unread, self._unread_since = 0, self._idle_since
        self._looking = self.loop.call_later(self._look_s, self._look)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            others = (cast(PatientProtocol, each) for each in self.connections if each is not self)
            idle = min((each for each in others if each._is_idle), key=_since, default=None)
            if idle is not None:
                idle._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._looking.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the silence anew."""
        self._idle_since = time.monotonic()
        super().on_response_complete()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _look_s(self) -> float:
        return min(self.silent_s, self.unread_s) / 4

    def _look(self) -> None:
        now, left = time.monotonic(), cast(Any, self.transport).get_write_buffer_size()
        if not self.flow.write_paused or left != self._unread:
            self._unread, self._unread_since = left, now
        is_silent = self._is_idle and now - self._idle_since > self.silent_s
        if is_silent or (now - self._unread_since > self.unread_s and self.flow.write_paused):
            self._abort()
        else:
            self._looking = self.loop.call_later(self._look_s, self._look)

    def _abort(self) -> None:
        self.connections.discard(self)
        self.transport.abort()


def _since(protocol: PatientProtocol) -> float:
    return protocol._idle_since
