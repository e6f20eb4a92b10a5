"""What a client raises: the domain error that the server sent, else one with the address and the remedy."""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    InvalidInputError,
    NotServedError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
    WrongPeerError,
)
from swarm.rpc import status
from swarm.rpc.convert import problem_from_pb
from swarm.rpc.interceptors import PROBLEM_KEY
from swarm.rpc.pb import types_pb2

DOCTOR: Final = "run `swarm doctor`"
_MAX_TEXT = 300
_CUT_OFF = "Internal error from Core"
_STATUS_WAIT_S = 1.0
_WRONG_PEER = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|Hostname Verification Check|Peer name .* is not in peer", re.I
)
_REFUSED_US = re.compile(r"alert|CERTIFICATE_REQUIRED|certificate (expired|unknown|revoked)", re.I)


@contextmanager
def wire_errors(peer: str, timeout_s: float | None = None) -> Iterator[None]:
    """Raise as a domain error what a call to peer (`registry at host:port`) raises inside."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error, peer, timeout_s) from error
    except TimeoutError as error:
        raise _late(peer, timeout_s) from error
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        raise UnreachableError(peer, found="a connection that was closed", remedy=DOCTOR) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnreachableError(peer, found="a call that was cut off", remedy=DOCTOR) from error


@asynccontextmanager
async def own_status(call: Any) -> AsyncIterator[None]:
    """Raise what the call ended with, also where a message was being written when it ended, or is after.

    grpc.aio puts an internal error of its own in the place of the status then (grpc issue 36066)."""
    ends: list[grpc.aio.AioRpcError] = []
    known = asyncio.Event()

    def note(done: Any) -> None:
        end = _end(done)
        if end.details() != _CUT_OFF:
            ends.append(end)
            known.set()

    call.add_done_callback(note)
    try:
        yield
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        if isinstance(error, grpc.aio.AioRpcError) and error.details() != _CUT_OFF:
            raise
        with suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_WAIT_S):
                await known.wait()
        if ends and ends[0].code() is not grpc.StatusCode.OK:
            raise ends[0] from error
        raise


@contextmanager
def reply_checked(peer: str) -> Iterator[None]:
    """Raise VerificationError, naming peer, where its reply does not convert: not the caller's fault."""
    try:
        yield
    except InvalidInputError as error:
        raise VerificationError(
            f"answer of {peer}: {error.subject}",
            found=error.found,
            expected=error.expected,
            remedy="the answer is not used; run the same version of swarm on both sides",
        ) from error


def error_of(error: grpc.aio.AioRpcError, peer: str, timeout_s: float | None = None) -> SwarmError:
    """Return the domain error of a failed call: the server's own where it sent one."""
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == PROBLEM_KEY and isinstance(value, bytes):
            try:
                return problem_from_pb(types_pb2.Problem.FromString(value))
            except DecodeError:
                break
    code, details = error.code(), (error.details() or "")[:_MAX_TEXT]
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unavailable(peer, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _late(peer, timeout_s)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotServedError(
            peer,
            found="a server that does not know this call",
            remedy="run the same version of swarm on both sides",
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ExhaustedError(
            peer, found=details, expected="messages of at most 64 MiB", remedy="ask in smaller batches"
        )
    if code is grpc.StatusCode.CANCELLED or (code is grpc.StatusCode.INTERNAL and details == _CUT_OFF):
        return UnreachableError(peer, found="a call that was cut off", remedy=DOCTOR)
    cls = next((cls for cls, row in status.TABLE.items() if row.grpc == code.name), SwarmError)
    return cls(peer, found=f"{code.name}: {details}" if details else code.name, remedy=DOCTOR)


def _end(call: Any) -> grpc.aio.AioRpcError:
    """Return the status that a call has at this moment."""
    return grpc.aio.AioRpcError(
        _at_once(call.code()),
        _at_once(call.initial_metadata()),
        _at_once(call.trailing_metadata()),
        _at_once(call.details()),
        _at_once(call.debug_error_string()),
    )


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine that need not wait returns."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    return None


def _late(peer: str, timeout_s: float | None) -> DeadlineError:
    waited = f" within {timeout_s:g} s" if timeout_s is not None and timeout_s > 0 else " in time"
    return DeadlineError(peer, found=f"no answer{waited}", remedy=DOCTOR)


def _unavailable(peer: str, details: str) -> SwarmError:
    if _WRONG_PEER.search(details):
        return WrongPeerError(
            peer,
            found="another certificate than its own",
            expected="the named member of this swarm",
            remedy=f"someone else answers at this address, or its certificate has expired; {DOCTOR}",
        )
    if _REFUSED_US.search(details):
        return UnauthenticatedError(
            peer,
            found="our certificate was refused",
            expected="a current certificate of its swarm",
            remedy=f"check the clock and the certificate: {DOCTOR}",
        )
    if "DNS" in details or "name resolution" in details.lower():
        return UnreachableError(peer, found="no such host", remedy="check the address")
    if "onnection refused" in details:
        return UnreachableError(peer, found="nobody listens there", remedy=f"start it, or {DOCTOR}")
    return UnreachableError(peer, found="no connection", remedy=f"is it running? {DOCTOR}")
