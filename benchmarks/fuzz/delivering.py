"""One message to one method: in this process through the whole guard, or as bytes over a TLS connection."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from swarm.rpc import methods as m
from swarm.rpc.callers import Gatekeeper
from swarm.rpc.interceptors import CallGuard
from swarm.rpc.methods import AnyMethod
from swarm.rpc.server import Service

PATIENCE_S: Final = 60.0
"""Longer than any call may take; who needs more hangs."""
_LISTENING_S: Final = 0.02
"""How long a stream that could go on for ever is listened to."""
_MOST_REPLIES: Final = 3
_ENDED_WHILE_WRITING: Final = "Internal error from Core"
"""What gRPC's client makes of a call that the server ended while it was writing: the server's reason is lost.
A server's own INTERNAL names its method."""
ENDLESS: Final = frozenset({m.EVENTS})
"""What goes on until its caller goes; every other call has to end within PATIENCE_S."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What travels in one call: its messages, more than one where the method streams in, and its metadata."""

    parts: tuple[bytes, ...]
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: a status code's name, `CRASH` for what escaped the guard, `HANG` for no end."""

    code: str
    details: str = ""


class _Enough(BaseException):
    """Ends a stream of replies that is listened to no longer."""


class InProcess:
    """Calls the guarded handlers of services as gRPC's server does, without a socket."""

    def __init__(self, gatekeeper: Gatekeeper, services: Iterable[Service]) -> None:
        self._guard = CallGuard(gatekeeper)
        self._services = {service.name: service.handler() for service in services}

    async def call(self, method: AnyMethod, sent: Sent, pem: bytes) -> Outcome:
        """Return how the method answers a caller with this certificate."""
        details = _Details(method.path, sent.metadata)
        handler = self._services[method.full_service].service(details)  # type: ignore[arg-type]

        async def found(_: grpc.HandlerCallDetails) -> Any:
            return handler

        guarded = await self._guard.intercept_service(found, details)  # type: ignore[arg-type]
        # The guard reads each message itself, also where there is one only.
        kind = f"stream_{'stream' if method.streams_out else 'unary'}"
        context = _Context(pem, sent.metadata, guarded.response_serializer)
        request = _messages(sent.parts, endless=method.streams_in and method.streams_out)
        work = self._run(getattr(guarded, kind), request, context)
        return await _outcome(work, context, is_endless=method in ENDLESS)

    async def _run(self, behaviour: Any, request: Any, context: "_Context") -> None:
        reply = await behaviour(request, context)
        if reply is not None:
            context.serialized(reply)


async def over_socket(channel: grpc.aio.Channel, method: AnyMethod, sent: Sent) -> Outcome:
    """Return how a server answers the raw bytes."""
    kind = "_".join("stream" if streams else "unary" for streams in (method.streams_in, method.streams_out))
    make = getattr(channel, kind)(method.path)
    given = iter(sent.parts) if method.streams_in else sent.parts[0]
    call = make(given, metadata=sent.metadata, timeout=PATIENCE_S)
    try:
        if not method.streams_out:
            await call
        else:
            for _ in range(_MOST_REPLIES):
                async with asyncio.timeout(_LISTENING_S * 10 if method in ENDLESS else PATIENCE_S):
                    if await call.read() is grpc.aio.EOF:
                        break
    except TimeoutError:
        return Outcome("OK" if method in ENDLESS else "HANG")
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL and error.details() == _ENDED_WHILE_WRITING:
            return Outcome("CANCELLED", _ENDED_WHILE_WRITING)
        hung = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and error.details() == "Deadline Exceeded"
        return Outcome("HANG" if hung else error.code().name, error.details() or "")
    finally:
        call.cancel()
    return Outcome("OK")


async def _outcome(work: Any, context: "_Context", *, is_endless: bool) -> Outcome:
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=_LISTENING_S if is_endless else PATIENCE_S)
        if not done and is_endless and not context.written:
            done, _ = await asyncio.wait({task}, timeout=_LISTENING_S * 10)
        if not done:
            return Outcome("OK") if is_endless else Outcome("HANG")
        try:
            task.result()
        except (grpc.aio.AbortError, _Enough):
            pass
        except asyncio.CancelledError:
            return Outcome("CRASH", "cancelled")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return Outcome("CRASH", f"{type(error).__name__}: {error}")
        return Outcome(context.code, context.details)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _messages(parts: Sequence[bytes], *, endless: bool) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if endless:
        await asyncio.sleep(_LISTENING_S / 2)


@dataclass(slots=True)
class _Details:
    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Context:
    """What a handler may ask of gRPC's context."""

    pem: bytes
    metadata: tuple[tuple[str, str], ...]
    serializer: Any
    code: str = "OK"
    details: str = ""
    written: int = field(default=0)

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {"x509_pem_cert": [self.pem]}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def time_remaining(self) -> float:
        return 30.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, message: Any) -> None:
        self.serialized(message)
        self.written += 1
        if self.written >= _MOST_REPLIES:
            raise _Enough

    def serialized(self, message: Any) -> bytes:
        data: bytes = message if self.serializer is None else self.serializer(message)
        return data

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...]
    ) -> None:
        self.code, self.details = code.name, details
        raise grpc.aio.AbortError("Locally aborted.")
