"""Blobs that travel as deltas: undone against the registry's own parent, or made from two blobs here.

Nothing is kept: a delta is made while it is sent, a few at a time, in memory of one block each.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.ids import Digest
from swarm.modules.deltas import WORTH_BELOW, DeltaReader, delta_pieces, is_worth_a_delta
from swarm.registry.blob_store import BlobStore

_MADE_AT_ONCE: Final = 2


class Deltas:
    """Deltas over a store of blobs."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._turns = asyncio.Semaphore(_MADE_AT_ONCE)

    async def undone(
        self, parent: Digest, size_bytes: int, pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Return the child's bytes, a block at a time, as its delta to parent comes.

        Raises NotFoundError or VerificationError where parent is not here or is damaged, InvalidInputError
        where it has another size; the iterator raises VerificationError for what is no delta.
        """
        view = await asyncio.to_thread(self._blobs.open_verified, parent)
        if len(view) != size_bytes:
            raise InvalidInputError(
                f"delta to blob {parent[:12]}",
                found=f"a child of {size_bytes} bytes",
                expected=f"{len(view)}, as its parent has",
                remedy="send the blob whole",
            )
        return _blocks(DeltaReader(view), pieces)

    async def between(self, child: Digest, parent: Digest, width: int) -> AsyncIterator[bytes]:
        """Yield the delta from parent to child, a block at a time.

        Raises NotFoundError where one of them is not here or the delta is hardly smaller, VerificationError
        for a damaged one, InvalidInputError where their sizes differ.
        """
        own = await asyncio.to_thread(self._blobs.open_verified, child)
        base = await asyncio.to_thread(self._blobs.open_verified, parent)
        async with self._turns:
            is_worth_it = await asyncio.to_thread(is_worth_a_delta, own, base, width)
        if not is_worth_it:
            raise NotFoundError(
                f"delta of blob {child[:12]} to {parent[:12]}",
                found=f"none below {WORTH_BELOW:g} of its bytes",
                expected="blobs that are much alike",
                remedy="fetch the blob whole",
            )
        pieces = delta_pieces(own, base, width)
        while True:
            # A turn is for one block: a slow receiver keeps nobody waiting.
            async with self._turns:
                piece = await asyncio.to_thread(next, pieces, b"")
            if not piece:
                return
            yield piece


async def _blocks(reader: DeltaReader, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for block in await asyncio.to_thread(lambda data: list(reader.feed(data)), piece):
            yield block
    reader.finish()
