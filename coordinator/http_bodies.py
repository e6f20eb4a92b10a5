"""Bodies of HTTP requests, read within limits: of one body in bytes and time, of all together in bytes.

Of the room that is left a caller may take as much as it holds already, so one alone gets half of it and never
all (dynamic thresholds: Choudhury & Hahne 1998).
"""

import asyncio
from collections import Counter

from starlette.requests import Request

from swarm.domain.errors import DeadlineError, ExhaustedError, InvalidInputError


class BodyReader:
    """Reads bodies of at most `most_bytes` within `timeout_s`; at most `room_bytes` are held at a time."""

    def __init__(self, *, most_bytes: int, room_bytes: int, timeout_s: float) -> None:
        self._most_bytes, self._room_bytes, self._timeout_s = most_bytes, room_bytes, timeout_s
        self._held, self._held_by = 0, Counter[str]()

    async def read(self, request: Request, caller: str = "") -> bytes:
        """Return a request's body.

        Raises InvalidInputError for one that is too large, ExhaustedError while others take the room, or the
        caller its share of it, DeadlineError for one that does not come.
        """
        data = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    self._check(len(data) + len(chunk), len(chunk), caller)
                    data += chunk
                    self._held += len(chunk)
                    self._held_by[caller] += len(chunk)
            return bytes(data)
        except TimeoutError:
            raise DeadlineError(
                "request body", found=f"not complete after {self._timeout_s:g} s", expected="all of it"
            ) from None
        finally:
            self._held -= len(data)
            self._held_by[caller] -= len(data)
            if not self._held_by[caller]:
                del self._held_by[caller]

    def _check(self, size_bytes: int, more_bytes: int, caller: str) -> None:
        if size_bytes > self._most_bytes:
            raise InvalidInputError(
                "request body",
                found=f"more than {self._most_bytes >> 20} MiB",
                expected=f"at most {self._most_bytes >> 20} MiB",
                remedy="send the rows in several requests",
            )
        own, left = self._held_by[caller] + more_bytes, self._room_bytes - self._held - more_bytes
        if left < 0 or own > max(left, self._most_bytes):
            raise ExhaustedError(
                "request bodies",
                found=f"{self._held >> 20} MiB under way, of this caller {self._held_by[caller] >> 20} MiB",
                expected=f"at most {self._room_bytes >> 20} MiB at a time, of one caller half of the rest",
                remedy="try again in a moment",
            )
