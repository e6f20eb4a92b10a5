"""Ids, roles, keys, byte counts and problems."""

import math
from collections.abc import Iterable
from typing import cast, get_args

from swarm.domain.errors import ExhaustedError, InvalidInputError, SwarmError
from swarm.domain.ids import Digest, ExpertId, LeafId, digest, expert_of, owner_of
from swarm.domain.inference import SocketBytes
from swarm.domain.manifests import Share
from swarm.domain.members import Role
from swarm.rpc import status
from swarm.rpc.pb import types_pb2

_MAX_KEY = 128


def expert_id(text: str) -> ExpertId:
    """Return text as an expert's id; InvalidInputError unless it is `<node>.e<number>`."""
    owner_of(ExpertId(text))
    if text.rpartition(".")[2][0] != "e":
        raise InvalidInputError("expert id", found=text[:80], expected="<node>.e<number>")
    return ExpertId(text)


def leaf_id(text: str) -> LeafId:
    """Return text as a leaf's id; InvalidInputError unless it is `<node>.l<number>`."""
    expert_of(LeafId(text))
    return LeafId(text)


def digests(texts: Iterable[str]) -> tuple[Digest, ...]:
    """Return texts as digests; InvalidInputError at the first that is none."""
    return tuple(digest(text) for text in texts)


def role(text: str) -> Role:
    """Return text as a role; InvalidInputError where there is no such role."""
    if text not in get_args(Role):
        raise InvalidInputError("role", found=repr(text[:40]), expected=", ".join(get_args(Role)))
    return cast(Role, text)


def share(text: str) -> Share:
    """Return text as a share; InvalidInputError where there is no such share."""
    if text not in get_args(Share):
        raise InvalidInputError("share", found=repr(text[:40]), expected=", ".join(get_args(Share)))
    return cast(Share, text)


def finite(value: float, subject: str) -> float:
    """Return value; InvalidInputError, naming subject, where it is NaN or infinite."""
    if not math.isfinite(value):
        raise InvalidInputError(subject, found=str(value), expected="a finite number")
    return value


def fraction(value: float, subject: str) -> float:
    """Return value; InvalidInputError, naming subject, unless it lies in 0..1."""
    if not 0 <= value <= 1:
        raise InvalidInputError(subject, found=str(value), expected="0 to 1")
    return value


def idempotency_key(text: str) -> str:
    """Return the key of a mutating call; InvalidInputError where it is empty or too long."""
    if not 0 < len(text) <= _MAX_KEY:
        raise InvalidInputError(
            "idempotency_key", found=f"{len(text)} characters", expected=f"1 to {_MAX_KEY}, one key per act"
        )
    return text


def socket_bytes_to_pb(value: SocketBytes) -> types_pb2.SocketBytes:
    return types_pb2.SocketBytes(sent=value.sent, received=value.received)


def socket_bytes_from_pb(message: types_pb2.SocketBytes) -> SocketBytes:
    return SocketBytes(sent=message.sent, received=message.received)


def problem_to_pb(error: SwarmError) -> types_pb2.Problem:
    """Return error as the detail that travels with a status."""
    retry_after_s = error.retry_after_s if isinstance(error, ExhaustedError) else 0.0
    return types_pb2.Problem(**status.problem_json(error), retry_after_s=retry_after_s)


def problem_from_pb(message: types_pb2.Problem) -> SwarmError:
    """Return the error that a detail describes; unknown codes give a plain SwarmError."""
    error = status.error_from_parts(
        message.code, message.subject, message.found, message.expected, message.remedy
    )
    if isinstance(error, ExhaustedError) and 0 < message.retry_after_s < float("inf"):
        error.retry_after_s = message.retry_after_s
    return error
