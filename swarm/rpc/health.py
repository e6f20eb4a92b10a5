"""`grpc.health.v1` of a server: it lives as long as it runs, and a service is ready while it can answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

LOOK_S: Final = 0.5
"""Watchers hear of a service that became ready, or is not any more, within so long; of the end at once."""
_REPLY: Final[Any] = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """Implements gRPC's `HealthServicer`. `ready`: each service's name, and whether it can answer now.

    The empty name, the server as a whole, is for liveness: SERVING until the server is told to end.
    """

    def __init__(self, ready: Mapping[str, Callable[[], bool]]) -> None:
        self._ready = {"": lambda: True, **ready}
        self._is_ending = self._is_over = False
        self._news = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> Any:
        """Return a service's status; NOT_FOUND for one that is not served here."""
        if request.service not in self._ready:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {request.service[:80]!r}: none here")
        return _REPLY(status=self._status(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> AsyncIterator[Any]:
        """Yield a service's status now and whenever it changes, until the server stops."""
        said: Any = None
        while not self._is_over:
            news, status = self._news, self._status(request.service)
            if status != said:
                yield _REPLY(status=status)
                said = status
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await news.wait()

    def end(self) -> None:
        """Say NOT_SERVING from now on, of everything."""
        self._is_ending = True
        self._tell()

    def stop(self) -> None:
        """End, and let watchers' calls end, too."""
        self._is_ending = self._is_over = True
        self._tell()

    def _status(self, service: str) -> Any:
        ready = self._ready.get(service)
        if ready is None:
            return _REPLY.SERVICE_UNKNOWN
        return _REPLY.SERVING if not self._is_ending and ready() else _REPLY.NOT_SERVING

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
