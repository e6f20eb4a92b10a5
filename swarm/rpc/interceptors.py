"""One interceptor for all servers and all kinds of calls: who may call, how much at once, how errors leave.

A domain error becomes the gRPC status of `swarm.rpc.status`, with the whole error as a `Problem` in the
trailing metadata `swarm-problem-bin`; anything else is logged and leaves as INTERNAL without details.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from swarm.audit import RefusalLog
from swarm.domain.errors import DeadlineError, ExhaustedError, InvalidInputError, SwarmError
from swarm.domain.membership import Caller
from swarm.rpc import status
from swarm.rpc.allowances import Allowances, Kind
from swarm.rpc.callers import Gatekeeper, Standing, claimed_caller, set_current_caller
from swarm.rpc.convert import problem_to_pb
from swarm.rpc.options import UNARY_TIMEOUT_S

PROBLEM_KEY: Final = "swarm-problem-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""How gRPC itself tells a client when to try again."""

RECHECK_S: Final = 1.0
HEARD_OUT_S: Final = 60.0
REFUSING_S: Final = 5.0
"""How long a refusal may wait behind bytes that the caller does not take."""

_SHARE_OF_TIME: Final = 0.95
_MAX_TEXT: Final = 1_000
_MAX_NAME: Final = 200
_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any] | AsyncIterator[Any]]
Admission = Callable[[Caller, float], AbstractContextManager[None]]
"""Gives the context in which a caller's request is read, for a call that may take so many seconds; raises the
domain error by which it is refused."""


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Admits callers, re-checks streams every second, and maps errors, for every method of a server.

    `allowances` None: nobody is limited. `admissions`, by methods' paths, may refuse a caller before any of
    its request is read. `served`: the services with their methods' names, to tell those who call others.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        recheck_s: float = RECHECK_S,
        refusals: RefusalLog | None = None,
        allowances: Allowances | None = None,
        admissions: Mapping[str, Admission] | None = None,
        served: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._gatekeeper, self._recheck_s, self._allowances = gatekeeper, recheck_s, allowances
        self._admissions, self._served = dict(admissions or {}), dict(served or {})
        self._refusals = refusals if refusals is not None else RefusalLog()
        self._made: dict[str, Any] = {}
        """The handlers of methods that were called, by path."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler with this guard around it; where there is none, UNIMPLEMENTED with what
        there is."""
        method = handler_call_details.method
        made = self._made.get(method)
        if made is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return _not_served(method, self._served)
            made = self._made[method] = self._guarded(method, handler)
        return made

    def _guarded(self, method: str, handler: Any) -> Any:
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        guarded = _Guarded(
            path=method,
            behaviour=getattr(handler, kind),
            read=handler.request_deserializer,
            streams_in=handler.request_streaming,
            uploads=handler.request_streaming and not handler.response_streaming,
            streaming=handler.request_streaming or handler.response_streaming,
            gatekeeper=self._gatekeeper,
            recheck_s=self._recheck_s,
            refusals=self._refusals,
            allowances=self._allowances,
            admission=self._admissions.get(method),
        )
        # Messages are read inside, also where there is one only: a caller is admitted and counted before,
        # and gRPC answers UNKNOWN, with a traceback, to bytes that are no message.
        make = getattr(grpc, f"stream_{_arity(handler.response_streaming)}_rpc_method_handler")
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
    allowances: Allowances | None
    admission: Admission | None

    async def serve(self, messages: AsyncIterable[bytes], context: Context) -> Any:
        """Run the method; whatever goes wrong leaves through `_refuse`."""
        started = time.monotonic()
        who = ""
        try:
            standing = self.gatekeeper.admit(self.path, context)
            who = f"{standing.caller.role}/{standing.caller.id}"
            set_current_caller(standing.caller)
            arriving = self._admitted(standing.caller, context)
            with self._counted(who, self.path, self._kind):
                received = _Received(messages, self._message)
                with arriving:
                    request = received if self.streams_in else await self._only(received)
                work = self._run(request, context)
                reply = await (self._while_standing(work, standing) if self.streaming else work)
        except SwarmError as error:
            named = who or claimed_caller(context)
            self.refusals.refused(self.path, named, error, peer=context.peer())
            if self.uploads:
                await self._hear_out(messages, named)
            await _refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not this call was cancelled but something that it waited for: gRPC would never end the call.
            await self._fail(context, who, error)
        except OSError as error:
            if (refusal := _exhausted(error)) is None:
                await self._fail(context, who, error)
            else:
                self.refusals.refused(self.path, who, refusal, peer=context.peer())
                await _refuse(context, refusal)
        except Exception as error:
            await self._fail(context, who, error)
        else:
            _log.debug(
                "rpc.served", method=self.path, caller=who, duration_s=round(time.monotonic() - started, 6)
            )
            return reply

    def _admitted(self, caller: Caller, context: Context) -> AbstractContextManager[None]:
        return nullcontext() if self.admission is None else self.admission(caller, time_left(context))

    @property
    def _kind(self) -> Kind:
        if self.uploads:
            return "upload"
        return "stream" if self.streaming else "call"

    async def _only(self, received: AsyncIterator[Any]) -> Any:
        """Return the message of a call that has one."""
        async for message in received:
            return message
        raise InvalidInputError(self.path.lstrip("/"), found="no message", expected="the method's request")

    def _counted(self, member: str, path: str, kind: Kind) -> AbstractContextManager[None]:
        return nullcontext() if self.allowances is None else self.allowances.call(member, path, kind)

    async def _hear_out(self, messages: AsyncIterable[bytes], member: str) -> None:
        """Take in the rest of a refused upload and drop it, for a while: a caller that is still sending when
        its call ends does not hear why (gRPC says "internal error"). Of a few at once for each member."""
        with suppress(Exception), self._counted(member, "uploads that were refused", "upload"):
            async with asyncio.timeout(HEARD_OUT_S):
                async for _ in messages:
                    pass

    async def _run(self, request: Any, context: Context) -> Any:
        answer = self.behaviour(request, context)
        if not isinstance(answer, AsyncIterator):
            return await answer
        try:
            async for message in answer:
                await self._write(context, message, answer)
        finally:
            await _closed(answer)
        return None

    async def _write(self, context: Context, message: Any, source: AsyncIterator[Any]) -> None:
        """Write a message. Where the caller does not read for too long, close the source; DeadlineError once
        it reads: gRPC keeps the message until then or the connection's end, so the call counts as long."""
        if self.allowances is None:
            await context.write(message)
            return
        unread_s, loop = self.allowances.limits.unread_s, asyncio.get_running_loop()
        closing: list[asyncio.Task[None]] = []
        timer = loop.call_later(unread_s, lambda: closing.append(loop.create_task(_closed(source))))
        try:
            await context.write(message)
        finally:
            timer.cancel()
        if closing:
            await closing[0]
            raise DeadlineError(
                f"stream {self.path.lstrip('/')}",
                found=f"a caller that read nothing for {unread_s:g} s",
                expected="one that reads what it asked for",
                remedy="ask again",
            )

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

    async def _fail(self, context: Context, who: str, error: BaseException) -> None:
        _log.error("rpc.failed", method=self.path, caller=who, exc_info=error)
        problem = SwarmError(
            self.path.lstrip("/"),
            found=f"an internal error ({type(error).__name__})",
            remedy="the server's log has the details; this is a defect, please report it",
        )
        await _refuse(context, problem)


def time_left(context: Context) -> float:
    """Return the seconds that a call may take: less than its caller waits, so that it hears our reason."""
    left: float | None = context.time_remaining()
    return UNARY_TIMEOUT_S if left is None else max(left, 0.0) * _SHARE_OF_TIME


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


async def _closed(source: AsyncIterator[Any]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()


async def _refuse(context: Context, error: SwarmError) -> None:
    """End the call with error's status. Texts are cut: metadata has a limit of 8 KiB."""
    texts = error.subject, error.found, error.expected, error.remedy
    cut = error
    if max(map(len, texts)) > _MAX_TEXT:
        cut = status.error_from_parts(error.code, *(text[:_MAX_TEXT] for text in texts))
    metadata: list[tuple[str, str | bytes]] = []
    if isinstance(error, ExhaustedError) and isinstance(cut, ExhaustedError) and error.retry_after_s > 0:
        cut.retry_after_s = error.retry_after_s
        metadata.append((PUSHBACK_KEY, str(math.ceil(error.retry_after_s * 1000))))
    metadata.append((PROBLEM_KEY, problem_to_pb(cut).SerializeToString()))
    task = asyncio.current_task()
    assert task is not None, "calls are served in tasks"
    # Not asyncio.timeout: who is refused is refused thousands of times a second.
    timer = asyncio.get_running_loop().call_later(REFUSING_S, task.cancel)  # ends it without a status
    try:
        await context.abort(
            grpc.StatusCode[status.status_of(error).grpc], str(error)[:_MAX_TEXT], tuple(metadata)
        )
    finally:
        timer.cancel()


def _not_served(path: str, served: Mapping[str, Sequence[str]]) -> Any:
    """Return the handler of a method that is not served: it ends each call by saying what is."""
    service, _, method = path.lstrip("/")[:_MAX_NAME].rpartition("/")
    offered = served.get(service)
    if offered is None:
        what = f"service {service!r} is not served here; served: {', '.join(sorted(served))}"
    else:
        what = f"{service} has no method {method!r} here; it has {', '.join(sorted(offered))}"

    async def refuse(_: AsyncIterable[bytes], context: Context) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, f"{what}; docs/serving.md and docs/wire.md say more"
        )

    return grpc.stream_stream_rpc_method_handler(refuse)  # whatever the caller expects to send and hear


def _exhausted(error: OSError) -> ExhaustedError | None:
    """Return what the machine has no more of, None where that is not it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ExhaustedError(
            "open files of the server",
            found=os.strerror(error.errno),
            expected="room for one more",
            remedy="try again; its operator raises the limit: ulimit -n",
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return ExhaustedError(
        f"disk of {error.filename}" if error.filename else "the server's disk",
        found=error.strerror or "no space left",
        expected="room for what was sent",
        remedy="free some space and try again; nothing was stored",
    )


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
