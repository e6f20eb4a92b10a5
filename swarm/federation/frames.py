"""What a parent and its federated child say over a pipe: a JSON header and bytes, their lengths first."""

import asyncio
import json
import struct
from dataclasses import asdict, fields
from typing import IO, Any

from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.federation import MAX_MESSAGE_BYTES
from swarm.domain.problems import Problem

MAX_HEADER_BYTES = 1 << 20
_LENGTHS = struct.Struct(">II")

Frame = tuple[dict[str, Any], bytes]


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return one frame."""
    text = json.dumps(header, separators=(",", ":")).encode()
    _check(len(text), len(payload))
    return b"".join((_LENGTHS.pack(len(text), len(payload)), text, payload))


def read_frame(source: IO[bytes]) -> Frame | None:
    """Return the next frame, None at the end; blocks. InvalidInputError for what is none."""
    lengths = source.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    text_size, payload_size = _checked(lengths)
    text, payload = source.read(text_size), source.read(payload_size)
    if len(text) < text_size or len(payload) < payload_size:
        return None
    return _header(text), payload


async def receive_frame(source: asyncio.StreamReader) -> Frame | None:
    """Return the next frame, None at the end. InvalidInputError for what is none."""
    try:
        text_size, payload_size = _checked(await source.readexactly(_LENGTHS.size))
        return _header(await source.readexactly(text_size)), await source.readexactly(payload_size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def problem_of(error: SwarmError) -> dict[str, str]:
    """Return an error as a frame's `problem`."""
    return {name: str(text)[:2000] for name, text in asdict(Problem.of(error)).items()}


def error_of(problem: Any) -> SwarmError:
    """Return the error that a frame's `problem` describes."""
    if not isinstance(problem, dict):
        return SwarmError("federated child", found="a problem that it does not describe")
    known = {each.name: str(problem.get(each.name, "")) for each in fields(Problem)}
    return Problem(**known | {"subject": known["subject"] or "federated child"}).as_error()


def _checked(lengths: bytes) -> tuple[int, int]:
    text_size, payload_size = _LENGTHS.unpack(lengths)
    _check(text_size, payload_size)
    return text_size, payload_size


def _check(text_size: int, payload_size: int) -> None:
    if text_size > MAX_HEADER_BYTES or payload_size > MAX_MESSAGE_BYTES:
        raise InvalidInputError(
            "frame",
            found=f"{text_size} + {payload_size} bytes",
            expected=f"at most {MAX_HEADER_BYTES} + {MAX_MESSAGE_BYTES}",
        )


def _header(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError("frame", found="a header that is no JSON object", expected="one")
    return found
