"""Bodies of HTTP requests, read within limits: of one body in bytes and time, of all together in bytes."""

import asyncio

from starlette.requests import Request

from swarm.domain.errors import DeadlineError, ExhaustedError, InvalidInputError


class BodyReader:
    """Reads bodies of at most `most_bytes` within `timeout_s`; at most `room_bytes` are held at a time."""

    def __init__(self, *, most_bytes: int, room_bytes: int, timeout_s: float) -> None:
        self._most_bytes, self._room_bytes, self._timeout_s = most_bytes, room_bytes, timeout_s
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Return a request's body.

        Raises InvalidInputError for one that is too large, ExhaustedError while others take the room,
        DeadlineError for one that does not come.
        """
        data = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    self._check(len(data) + len(chunk), len(chunk))
                    data += chunk
                    self._held += len(chunk)
            return bytes(data)
        except TimeoutError:
            raise DeadlineError(
                "request body", found=f"not complete after {self._timeout_s:g} s", expected="all of it"
            ) from None
        finally:
            self._held -= len(data)

    def _check(self, size_bytes: int, more_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            raise InvalidInputError(
                "request body",
                found=f"more than {self._most_bytes >> 20} MiB",
                expected=f"at most {self._most_bytes >> 20} MiB",
                remedy="send the rows in several requests",
            )
        if self._held + more_bytes > self._room_bytes:
            raise ExhaustedError(
                "request bodies",
                found=f"{self._held >> 20} MiB of others under way",
                expected=f"at most {self._room_bytes >> 20} MiB at a time",
                remedy="try again in a moment",
            )
