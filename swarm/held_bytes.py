"""So many bytes may be on their way for one member at once; what comes beyond waits for some to pass."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarm.domain.errors import ExhaustedError


@dataclass(slots=True)
class _Account:
    held: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)


class HeldBytes:
    """Counts bytes by member. For one event loop. `patience_s`: how long a stream waits for room."""

    def __init__(self, most: int, patience_s: float) -> None:
        self._most, self._patience_s = most, patience_s
        self._accounts: dict[str, _Account] = {}

    def of(self, member: str) -> int:
        """Return how many bytes are on their way for a member."""
        return self._accounts[member].held if member in self._accounts else 0

    @contextmanager
    def stream(self, member: str) -> Iterator["HeldStream"]:
        """Yield what counts the bytes of one stream; at its end none of them are counted any more."""
        made = HeldStream(self, member)
        try:
            yield made
        finally:
            made.passed(made.held)

    async def take(self, member: str, size_bytes: int) -> None:
        """Count bytes, once there is room; whoever waits longest comes first. More than fit come alone.

        ExhaustedError where nothing passes for too long; then none of these are counted.
        """
        account = self._accounts.setdefault(member, _Account())
        if not account.waiting and self._fits(account, size_bytes):
            account.held += size_bytes
            return
        wanted = size_bytes, asyncio.get_running_loop().create_future()
        account.waiting.append(wanted)
        try:
            async with asyncio.timeout(self._patience_s):
                await wanted[1]
        except BaseException as error:
            if wanted in account.waiting:
                account.waiting.remove(wanted)
            else:
                self.give(member, size_bytes)
            if isinstance(error, TimeoutError):
                raise self._too_slow(member, account.held) from None
            raise

    def give(self, member: str, size_bytes: int) -> None:
        """Count bytes no more."""
        account = self._accounts[member]
        account.held -= size_bytes
        while account.waiting and self._fits(account, account.waiting[0][0]):
            wanted, turn = account.waiting.popleft()
            account.held += wanted
            if not turn.done():
                turn.set_result(None)
        if not account.held and not account.waiting:
            del self._accounts[member]

    def _fits(self, account: _Account, size_bytes: int) -> bool:
        return not account.held or account.held + size_bytes <= self._most

    def _too_slow(self, member: str, held: int) -> ExhaustedError:
        return ExhaustedError(
            f"bytes of {member} that are not written yet",
            found=f"{held}, and no room for {self._patience_s:g} s",
            expected=f"at most {self._most} at once",
            remedy="send fewer blobs at once; what was written is kept",
        )


class HeldStream:
    """The bytes of one stream that came and did not pass yet."""

    def __init__(self, counted: HeldBytes, member: str) -> None:
        self._counted, self._member = counted, member
        self.held = 0

    async def taken(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield chunks as they come, each counted first."""
        async for chunk in chunks:
            await self._counted.take(self._member, len(chunk))
            self.held += len(chunk)
            yield chunk

    def passing(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Return `write`, after which a chunk counts no more; it may be called in another thread."""
        loop = asyncio.get_running_loop()

        def write_and_tell(chunk: bytes) -> None:
            write(chunk)
            loop.call_soon_threadsafe(self.passed, len(chunk))

        return write_and_tell

    def passed(self, size_bytes: int) -> None:
        """Count so many bytes no more."""
        given = min(size_bytes, self.held)
        if given:
            self.held -= given
            self._counted.give(self._member, given)
