"""One blob from several holders at once, block by block, into a file that a later try goes on with.

Each holder is held to the outline that it gave itself: a block that does not match it, or that comes late,
drops the holder. Holders that give the same outline work together, those of the first holder's first; where
the whole does not hash to the blob's digest the outline was a lie, and all who gave it are dropped. So nobody
is blamed for what another one said, and what matches two outlines is fetched once.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from swarm.digests import blake3
from swarm.domain.errors import (
    DeadlineError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.modules.outlines import BLOCK_BYTES, Outline, block_bytes, blocks_in
from swarm.modules.partial_blobs import PartialBlob
from swarm.transfer.blocks import Assignment
from swarm.transfer.holders import Holder, Holders

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a holder is waited for: `idle_s` without any byte, or `alone_s` for an outline and where there
    is no other holder. A block may take `times` as long as the fastest other holder's last one, and `late_s`
    at least. Alone, a holder may be as slow as it is."""

    alone_s: float = 30.0
    idle_s: float = 10.0
    late_s: float = 2.0
    times: float = 8.0


async def download(
    blob: Digest,
    size_bytes: int,
    holders: Holders,
    files: BlobFiles,
    *,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Bring a blob of known size into files, verified; `on_bytes` is told the bytes as they come, and at once
    those that an earlier try has brought.

    Raises what the only holder's trouble was; of several an error that names each with its reason:
    VerificationError where one lied, NotFoundError where nobody has or gives it, else of the class that they
    agree in, else UnreachableError. Bytes that
    match stay for the next try.
    """
    with files.partial(blob, size_bytes) as partial:
        work = _Download(blob, partial, holders, patience or Patience(), on_bytes, clock)
        await work.run()


class _Download:
    def __init__(
        self,
        blob: Digest,
        partial: PartialBlob,
        holders: Holders,
        patience: Patience,
        on_bytes: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._blob, self._partial, self._holders = blob, partial, holders
        self._patience, self._on_bytes, self._clock = patience, on_bytes, clock
        self._failed: dict[str, SwarmError] = {}
        self._working: set[str] = set()
        self._block_s: dict[str, float] = {}
        self._changed, self._writing = asyncio.Condition(), asyncio.Lock()
        self._told = 0

    async def run(self) -> None:
        holders = self._holders.all()
        if len(holders) == 1 and not self._partial.held_bytes:
            # From one holder, from the start: the whole says as much as its blocks would.
            if await self._complete(None, holders):
                return
            if self._partial.held_bytes and _is_broken_off(self._failed[holders[0].name]):
                self._failed.clear()
        while groups := await self._groups([each for each in holders if each.name not in self._failed]):
            outline, group = groups[0]
            if await self._complete(outline, group):
                return
        raise self._failure()

    async def _groups(self, holders: Sequence[Holder]) -> list[tuple[Outline, list[Holder]]]:
        """Return the holders by the outline that they give, the first holder's first."""
        found = await asyncio.gather(*(self._outline(holder) for holder in holders))
        groups: dict[Outline, list[Holder]] = {}
        for holder, outline in zip(holders, found, strict=True):
            if outline is not None:
                groups.setdefault(outline, []).append(holder)
        return list(groups.items())

    async def _outline(self, holder: Holder) -> Outline | None:
        size_bytes = self._partial.size_bytes
        if size_bytes <= BLOCK_BYTES:
            return Outline(size_bytes, (self._blob,) if size_bytes else ())
        try:
            async with asyncio.timeout(self._patience.alone_s):
                outline = await holder.outline(self._blob)
        except TimeoutError:
            self._failed[holder.name] = self._late(holder, "no outline")
        except SwarmError as error:
            self._failed[holder.name] = error
        else:
            if outline.size_bytes == size_bytes:
                return outline
            self._failed[holder.name] = self._wrong(holder, f"{outline.size_bytes} bytes", f"{size_bytes}")
        return None

    async def _complete(self, outline: Outline | None, holders: Sequence[Holder]) -> bool:
        """Bring what is missing of an outline from its holders and commit; False where that failed."""
        count = blocks_in(self._partial.size_bytes)
        here = await asyncio.to_thread(self._partial.whole_blocks, outline) if outline is not None else set()
        self._tell(sum(block_bytes(block, self._partial.size_bytes) for block in here) - self._told)
        self._working = {holder.name for holder in holders}
        left = Assignment(set(range(count)) - here, (holder.name for holder in holders))
        tasks = [asyncio.ensure_future(self._work(holder, left, outline)) for holder in holders]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not left.is_done:
            return False
        try:
            await asyncio.to_thread(self._partial.commit)
        except VerificationError as error:
            for holder in holders:
                if holder.name not in self._failed:
                    self._failed[holder.name] = self._wrong(holder, error.found, error.expected)
            return False
        return True

    async def _work(self, holder: Holder, left: Assignment, outline: Outline | None) -> None:
        """Fetch what is this holder's until all is done or the holder fails."""
        while not left.is_done:
            run = left.next_run(holder.name)
            if not run:
                async with self._changed:
                    if not left.is_done and not left.next_run(holder.name):
                        await self._changed.wait()
                continue
            try:
                await self._stream(holder, run, left, outline)
            except SwarmError as error:
                if _is_broken_off(error) and not left.is_next(holder.name, run[0]):
                    continue  # it brought a block at least: it goes on where it stopped
                self._failed[holder.name] = error
                left.drop(holder.name)
                return
            finally:
                async with self._changed:
                    self._changed.notify_all()

    async def _stream(
        self, holder: Holder, run: list[int], left: Assignment, outline: Outline | None
    ) -> None:
        """Read a run of consecutive blocks, as long as they are this holder's to fetch. With an outline a
        block counts once it was found to match; without, it is written while the next one comes."""
        size_bytes = self._partial.size_bytes
        start, end = run[0] * BLOCK_BYTES, min(size_bytes, (run[-1] + 1) * BLOCK_BYTES)
        is_all = start == 0 and end == size_bytes
        stream = holder.read(self._blob, 0 if is_all else start, 0 if is_all else end - start)
        writing: asyncio.Task[None] | None = None
        try:
            async with aclosing(_Pieces(stream)) as pieces:
                for block in run:
                    if not left.is_next(holder.name, block):
                        return
                    began = self._clock()
                    came = await self._gathered(holder, block, pieces)
                    self._block_s[holder.name] = self._clock() - began
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(self._keep(holder, block, came, outline))
                    if outline is not None:
                        await writing
                    left.done(holder.name)
                if await self._next(holder, pieces, 1, self._clock()):
                    raise self._wrong(holder, "more bytes than were asked for", f"{end - start} bytes")
            if writing is not None:
                await writing
        finally:
            if writing is not None:
                await asyncio.gather(writing, return_exceptions=True)

    async def _gathered(self, holder: Holder, block: int, pieces: "_Pieces") -> list[memoryview]:
        """Return a block's bytes as they came."""
        began, missing = self._clock(), block_bytes(block, self._partial.size_bytes)
        came: list[memoryview] = []
        gathered = 0
        try:
            while gathered < missing:
                piece = await self._next(holder, pieces, missing - gathered, began)
                if not piece:
                    raise self._ended(holder)
                came.append(piece)
                gathered += len(piece)
                self._tell(len(piece))
        except BaseException:
            self._tell(-gathered)
            raise
        return came

    async def _keep(
        self, holder: Holder, block: int, came: Sequence[memoryview], outline: Outline | None
    ) -> None:
        """Write a block; VerificationError unless it is what the outline says."""
        expected = None if outline is None else outline.blocks[block]
        try:
            async with self._writing:  # by one thread at a time
                found = await _to_the_end(lambda: self._write(block, came, is_hashed=expected is not None))
            if found != expected:
                said = f"block {block} with digest {(found or '')[:12]}"
                raise self._wrong(holder, said, f"digest {(expected or '')[:12]}, by its own outline")
        except BaseException:
            self._tell(-sum(map(len, came)))
            raise

    def _write(self, block: int, came: Sequence[memoryview], *, is_hashed: bool) -> str | None:
        """Write a block's bytes and return their digest, if it is asked for. For another thread."""
        hashed, offset = blake3(), block * BLOCK_BYTES
        for piece in came:
            if is_hashed:
                hashed.update(piece)
            self._partial.write_at(offset, piece)
            offset += len(piece)
        return hashed.hexdigest() if is_hashed else None

    async def _next(self, holder: Holder, pieces: "_Pieces", most: int, began: float) -> memoryview:
        """Return the next bytes of a block that began then, none at the end; DeadlineError if it is late."""
        patience, others = self._patience, self._working - {holder.name} - self._failed.keys()
        taken = [self._block_s[name] for name in others if name in self._block_s]
        idle_s = patience.idle_s if others else patience.alone_s
        try:
            async with asyncio.timeout(idle_s):
                piece = await pieces.next(most)
        except TimeoutError:
            raise self._late(holder, f"nothing for {idle_s:g} s") from None
        limit = max(patience.late_s, patience.times * min(taken, default=math.inf))
        if self._clock() - began > limit:
            raise self._late(holder, f"a block not whole after {limit:.1f} s, while others are faster")
        return piece

    def _tell(self, count: int) -> None:
        self._told += count
        self._on_bytes(count)

    def _late(self, holder: Holder, found: str) -> DeadlineError:
        """Drop a holder that is too slow; return the error that says so."""
        error = DeadlineError(holder.name, found=found, expected=f"the next bytes of blob {self._blob[:12]}")
        self._holders.drop(holder, str(error))
        return error

    def _wrong(self, holder: Holder, found: str, expected: str) -> VerificationError:
        """Drop a holder that lied; return the error that says so."""
        error = VerificationError(
            f"blob from {holder.name} {self._blob[:12]}",
            found=found,
            expected=expected,
            remedy="its bytes are not used; fetch them from another holder",
        )
        self._holders.drop(holder, str(error))
        return error

    def _ended(self, holder: Holder) -> UnreachableError:
        return UnreachableError(
            holder.name, found=f"an end amid blob {self._blob[:12]}", expected="all bytes that were asked for"
        )

    def _failure(self) -> SwarmError:
        errors = list(self._failed.values())
        if not errors:
            return NotFoundError(f"blob {self._blob[:12]}", found="nobody to fetch it from")
        if len(errors) == 1:
            return self._with_what_is_kept(errors[0])
        kinds = {type(error) for error in errors}
        lied = VerificationError if VerificationError in kinds else UnreachableError
        if kinds <= {NotFoundError, NotAuthorisedError}:
            kinds = {NotFoundError}  # a node does not say which blobs it has that it does not give
        kind = kinds.pop() if len(kinds) == 1 else lied
        return kind(
            f"blob {self._blob[:12]}",
            found="; ".join(
                f"{name}: {error.found or error.subject}" for name, error in self._failed.items()
            ),
            expected="one holder that has it whole",
            remedy=self._kept() or "try again",
        )

    def _with_what_is_kept(self, error: SwarmError) -> SwarmError:
        kept = self._kept() if isinstance(error, UnreachableError) else ""
        if not kept:
            return error
        return type(error)(error.subject, found=error.found, expected=error.expected, remedy=kept)

    def _kept(self) -> str:
        """Return what to do where whole blocks came: those are not fetched again."""
        came = self._told or self._partial.held_bytes
        if came < BLOCK_BYTES or not self._partial.is_kept:
            return ""
        size = self._partial.size_bytes
        return f"what came is kept, {came} of {size} bytes: run it again and it goes on there"


class _Pieces:
    """A stream of messages, taken piece by piece."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream, self._rest = stream, memoryview(b"")

    async def next(self, most: int) -> memoryview:
        """Return at least one and at most so many bytes; none at the end."""
        while not self._rest:
            message = await anext(self._stream, None)
            if message is None:
                return self._rest
            self._rest = memoryview(message)
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    async def aclose(self) -> None:
        if (close := getattr(self._stream, "aclose", None)) is not None:
            await close()


async def _to_the_end(work: Callable[[], Result]) -> Result:
    """Do work in another thread; when this ends, however it ends, the thread is at its end."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.wait({running})
    finally:
        if not running.done():
            await asyncio.wait({running})
    return running.result()


def _is_broken_off(error: SwarmError) -> bool:
    return isinstance(error, UnreachableError) and not isinstance(error, DeadlineError)
