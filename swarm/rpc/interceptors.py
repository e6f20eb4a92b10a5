"""One interceptor for all servers and all kinds of calls: who may call, and how errors leave.

A domain error becomes the gRPC status of `swarm.rpc.status`, with the whole error as a `Problem` in the
trailing metadata `swarm-problem-bin`; anything else is logged and leaves as INTERNAL without details.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from swarm.audit import RefusalLog
from swarm.domain.errors import ExhaustedError, InvalidInputError, SwarmError
from swarm.rpc import status
from swarm.rpc.callers import Gatekeeper, Standing, claimed_caller, set_current_caller
from swarm.rpc.convert import problem_to_pb

PROBLEM_KEY: Final = "swarm-problem-bin"
RECHECK_S: Final = 1.0
HEARD_OUT_S: Final = 60.0
_MAX_TEXT: Final = 1_000
_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any] | AsyncIterator[Any]]


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Admits callers, re-checks streams every second, and maps errors, for every method of a server."""

    def __init__(
        self, gatekeeper: Gatekeeper, recheck_s: float = RECHECK_S, refusals: RefusalLog | None = None
    ) -> None:
        self._gatekeeper, self._recheck_s = gatekeeper, recheck_s
        self._refusals = refusals if refusals is not None else RefusalLog()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler with this guard around it; None (UNIMPLEMENTED) where there is none."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        guarded = _Guarded(
            path=handler_call_details.method,
            behaviour=getattr(handler, kind),
            read=handler.request_deserializer,
            streams_in=handler.request_streaming,
            uploads=handler.request_streaming and not handler.response_streaming,
            streaming=handler.request_streaming or handler.response_streaming,
            gatekeeper=self._gatekeeper,
            recheck_s=self._recheck_s,
            refusals=self._refusals,
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        # Messages are read inside: gRPC answers UNKNOWN, with a traceback, to bytes that are none.
        return make(guarded.serve, None, handler.response_serializer)


@dataclass(frozen=True, slots=True)
class _Guarded:
    path: str
    behaviour: Behaviour
    read: Callable[[bytes], Any] | None
    streams_in: bool
    uploads: bool
    streaming: bool
    gatekeeper: Gatekeeper
    recheck_s: float
    refusals: RefusalLog

    async def serve(self, request: Any, context: Context) -> Any:
        """Run the method; whatever goes wrong leaves through `_refuse`."""
        started = time.monotonic()
        who = ""
        try:
            standing = self.gatekeeper.admit(self.path, context)
            who = f"{standing.caller.role}/{standing.caller.id}"
            set_current_caller(standing.caller)
            received = _Received(request, self._message) if self.streams_in else self._message(request)
            work = _run(self.behaviour, received, context)
            reply = await (self._while_standing(work, standing) if self.streaming else work)
        except SwarmError as error:
            self.refusals.refused(self.path, who or claimed_caller(context), error, peer=context.peer())
            if self.uploads:
                await _heard_out(request)
            await _refuse(context, error)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                await self._fail(context, who, error)
            await _refuse(context, _disk_full(error))
        except Exception as error:
            await self._fail(context, who, error)
        else:
            _log.debug(
                "rpc.served", method=self.path, caller=who, duration_s=round(time.monotonic() - started, 6)
            )
            return reply

    def _message(self, data: bytes) -> Any:
        try:
            return data if self.read is None else self.read(data)
        except DecodeError as error:
            raise InvalidInputError(
                self.path.lstrip("/"), found="bytes that are no message", expected="the method's request"
            ) from error

    async def _while_standing(self, work: Coroutine[Any, Any, Any], standing: Standing) -> Any:
        """Return work's result; end it within `recheck_s` after its caller lost its standing."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self.recheck_s)
                if not task.done():
                    self.gatekeeper.check(standing)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
            # Also where the call was cancelled at the moment it ended: its error is nobody's any more.
            await asyncio.gather(task, return_exceptions=True)

    async def _fail(self, context: Context, who: str, error: Exception) -> None:
        _log.error("rpc.failed", method=self.path, caller=who, exc_info=error)
        problem = SwarmError(
            self.path.lstrip("/"),
            found=f"an internal error ({type(error).__name__})",
            remedy="the server's log has the details; this is a defect, please report it",
        )
        await _refuse(context, problem)


class _Received:
    """The messages of a stream, each read as it comes."""

    def __init__(self, source: AsyncIterable[bytes], read: Callable[[bytes], Any]) -> None:
        self._source, self._read = source, read
        self._messages: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> _Received:
        return self

    async def __anext__(self) -> Any:
        if self._messages is None:
            self._messages = aiter(self._source)
        return self._read(await anext(self._messages))


async def _run(behaviour: Behaviour, request: Any, context: Context) -> Any:
    answer = behaviour(request, context)
    if not isinstance(answer, AsyncIterator):
        return await answer
    try:
        async for message in answer:
            await context.write(message)
    finally:
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()
    return None


async def _heard_out(messages: AsyncIterable[bytes]) -> None:
    """Take in the rest of a refused upload and drop it, for a while: a caller that is still sending when its
    call ends does not hear why (gRPC says "internal error")."""
    with suppress(Exception):
        async with asyncio.timeout(HEARD_OUT_S):
            async for _ in messages:
                pass


async def _refuse(context: Context, error: SwarmError) -> None:
    """End the call with error's status. Texts are cut: metadata has a limit of 8 KiB."""
    cut = status.error_from_parts(
        error.code, *(text[:_MAX_TEXT] for text in (error.subject, error.found, error.expected, error.remedy))
    )
    await context.abort(
        grpc.StatusCode[status.status_of(error).grpc],
        str(error)[:_MAX_TEXT],
        ((PROBLEM_KEY, problem_to_pb(cut).SerializeToString()),),
    )


def _disk_full(error: OSError) -> ExhaustedError:
    return ExhaustedError(
        f"disk of {error.filename}" if error.filename else "the server's disk",
        found=error.strerror or "no space left",
        expected="room for what was sent",
        remedy="free some space and try again; nothing was stored",
    )


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
