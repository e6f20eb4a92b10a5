"""Blobs to and from the registry as deltas to blobs of a parent that both sides have.

Whatever stands against a delta (no parent, too little alike, a registry that knows none), the caller is told
so and sends or fetches the blob whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import structlog

from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.modules.deltas import DeltaParent, DeltaReader, delta_pieces, is_worth_a_delta
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.options import DELTA_PARENT_KEY, DIGEST_KEY, SIZE_KEY
from swarm.rpc.pb import registry_pb2

_AGAINST_IT: Final = (NotFoundError, InvalidInputError, NotAuthorisedError, VerificationError)
_BROKEN_OFF: Final = (UnreachableError, ExhaustedError)
"""Others may have the blob whole."""

_log = structlog.get_logger(__name__)


class DeltaClient:
    """Deltas over a connection to the registry; parents lie in `cache`."""

    def __init__(self, connection: Connection, cache: BlobFiles) -> None:
        self._connection, self._cache = connection, cache

    async def publish(self, blob: Digest, data: memoryview, parent: DeltaParent) -> bool:
        """Send one blob as a delta; False, and nothing is stored, where it has to be sent whole."""
        try:
            base = await asyncio.to_thread(self._cache.open_verified, parent.blob)
            if not await asyncio.to_thread(is_worth_a_delta, data, base, parent.width):
                return False
            metadata = (
                (DIGEST_KEY, blob),
                (SIZE_KEY, str(len(data))),
                (DELTA_PARENT_KEY, parent.blob),
            )
            pieces = _in_threads(delta_pieces(data, base, parent.width))
            await self._connection.upload(m.PUBLISH_DELTA, pieces, metadata=metadata)
        except _AGAINST_IT as error:
            _log.info("delta.not_sent", blob=blob, parent=parent.blob, reason=str(error))
            return False
        return True

    async def fetch_into(
        self,
        blob: Digest,
        size_bytes: int,
        parent: DeltaParent,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> int:
        """Fetch one blob of known size as a delta into the cache, verified by its own digest, and return how
        many bytes that took; 0, and nothing is kept, where it has to be fetched whole. `on_bytes` is told the
        blob's bytes as they are made, and takes them back where that fails."""
        sent = made = 0

        def tell(count: int) -> None:
            nonlocal made
            made += count
            on_bytes(count)

        request = registry_pb2.DeltaRequest(digest=blob, parent=parent.blob, width=parent.width)
        try:
            base = await asyncio.to_thread(self._cache.open_verified, parent.blob)
            if len(base) != size_bytes:
                return 0
            reader = DeltaReader(base)
            with self._cache.writer(blob, size_bytes) as writer:

                def take(piece: bytes) -> int:
                    taken = 0
                    for block in reader.feed(piece):
                        writer.write(block)
                        taken += len(block)
                    return taken

                async for piece in self._connection.stream(m.FETCH_DELTA, request):
                    sent += len(piece)
                    tell(await asyncio.to_thread(take, piece))
                reader.finish()
                await asyncio.to_thread(writer.commit)
        except (*_AGAINST_IT, *_BROKEN_OFF) as error:
            _log.info("delta.not_fetched", blob=blob, parent=parent.blob, reason=str(error))
            tell(-made)
            return 0
        return sent


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
