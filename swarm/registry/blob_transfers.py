"""Blobs on their way in and out: claimed, counted, verified; whole, in ranges, or as deltas."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

import structlog

from swarm.domain.errors import InvalidInputError, SwarmError, UnreachableError
from swarm.domain.ids import Digest
from swarm.domain.ids import digest as checked_digest
from swarm.domain.membership import Caller
from swarm.domain.tensors import MAX_ASKED_BLOBS, MAX_TENSOR_BYTES
from swarm.fault_points import reached
from swarm.held_bytes import HeldBytes
from swarm.modules.outlines import Outline, Outlines, chunks_of
from swarm.modules.pipelined import write_pipelined
from swarm.registry.blob_rights import BlobRights
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.deltas import Deltas
from swarm.registry.progress import PROGRESS_S, with_progress
from swarm.registry.quotas import Quotas
from swarm.registry.reconciling import Reconciler
from swarm.registry.room import Room

SPARE_BYTES: Final = 64 << 20
"""What publishing leaves free on the disk, so that the rest of the machine goes on."""

UNWRITTEN_BYTES: Final = 64 << 20
"""So much of one sender's uploads together may be in memory, not written yet."""

_log = structlog.get_logger(__name__)


class BlobTransfers:
    """Takes and gives the blobs of one store; the rights say which may leave, and to whom."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        catalogue: Catalogue,
        rights: BlobRights,
        claims: Claims,
        quotas: Quotas,
        reconciler: Reconciler,
        spare_bytes: int = SPARE_BYTES,
    ) -> None:
        self._blobs, self._catalogue, self._rights = blobs, catalogue, rights
        self._claims, self._quotas = claims, quotas
        self._reconciler, self._room = reconciler, Room(blobs.free_bytes, spare_bytes)
        self._deltas, self._outlines = Deltas(blobs), Outlines()
        self._unwritten = HeldBytes(UNWRITTEN_BYTES, PROGRESS_S)

    async def missing(
        self, digests: Sequence[Digest], caller: Caller | None = None, *, claims: bool = True
    ) -> list[Digest]:
        """Return the digests whose bytes are not here, were found damaged, or may not be named by the caller:
        it sends them once, and has shown that it has them. With `claims` the others stay for the caller until
        it commits a manifest that has them, or a day is over; ExhaustedError where that is more than it may
        fill. Caller None: who runs the registry. InvalidInputError beyond `MAX_ASKED_BLOBS`."""
        if len(digests) > MAX_ASKED_BLOBS:
            raise InvalidInputError(
                "blobs asked for at once", found=str(len(digests)), expected=f"at most {MAX_ASKED_BLOBS}"
            )
        for digest in digests:
            checked_digest(digest)
        asked = list(dict.fromkeys(digests))
        if caller is None:
            return await asyncio.to_thread(self._blobs.missing, asked)
        foreign = await self._rights.unnameable(caller.id, asked)
        nameable = [each for each in asked if each not in foreign]
        if not claims:
            lacking = foreign.union(await asyncio.to_thread(self._blobs.missing, nameable))
            return [each for each in asked if each in lacking]
        await self._check_quota(caller, nameable)
        self._claims.hold(caller.id, nameable)
        try:
            lacking = foreign.union(await asyncio.to_thread(self._blobs.missing, nameable))
            self._claims.claim(caller.id, [each for each in nameable if each not in lacking])
        finally:
            self._claims.let_go(caller.id, nameable)
        return [each for each in asked if each in lacking]

    async def publish(
        self, caller: Caller, digest: Digest, size_bytes: int, chunks: AsyncIterator[bytes], offset: int = 0
    ) -> None:
        """Store one blob. It is durable when this returns; VerificationError unless it is what was promised.

        The chunks go on at an offset of what was kept of an upload that broke off (`upload_state`);
        ConflictError where that is not here any more. Raises ExhaustedError on a full disk or beyond the
        caller's quota, and DeadlineError if no chunk comes for 30 s.
        """
        checked_digest(digest)
        if not 0 <= offset <= size_bytes <= MAX_TENSOR_BYTES:
            raise InvalidInputError(
                f"blob {digest[:12]}",
                found=f"{size_bytes} bytes, from {offset} on",
                expected=f"0 to {MAX_TENSOR_BYTES}",
            )
        sender = _sender(caller)
        limited = caller.id if caller.role == "node" else None
        if limited is not None and self._quotas.most_bytes:
            await self._catalogue.refresh()
            await self._quotas.measure(limited, arriving_bytes=size_bytes)
        with (
            self._room.reserved(digest, size_bytes - offset) as reservation,
            self._quotas.uploading(limited, digest, size_bytes, self._blobs.kept(sender)),
            self._blobs.writer(digest, size_bytes, sender, offset) as writer,
            self._unwritten.stream(sender) as held,
        ):
            coming = held.taken(with_progress(chunks, f"blob {digest[:12]}"))
            await write_pipelined(coming, held.passing(reservation.counting(writer.write)))
            # Claimed first, so that it is never here unclaimed.
            self._claims.claim(caller.id, [digest])
            try:
                await asyncio.to_thread(writer.commit)
            except (SwarmError, OSError):
                self._claims.release(caller.id, [digest])
                raise
            self._claims.note_stored(caller.id, digest)
        reached("registry.blob.durable")
        _log.info("blob.stored", blob=digest, size_bytes=size_bytes, sender=caller.id)

    async def upload_state(self, caller: Caller, digest: Digest) -> int:
        """Return how many bytes are here of an upload of the caller's that broke off; 0 where none are.

        They are not verified before the whole blob is.
        """
        checked_digest(digest)
        return self._blobs.kept(_sender(caller)).get(digest, 0)

    async def fetch(
        self, digest: Digest, offset: int = 0, length: int = 0, caller: Caller | None = None
    ) -> AsyncIterator[bytes]:
        """Yield a blob in chunks of 1 MiB, its bytes verified first; or so many (0: all) from offset on.

        Raises NotFoundError, also for what nothing names and somebody else sent; VerificationError for
        damaged bytes; NotAuthorisedError for weights that their owner keeps (serve-only) or withdrew;
        InvalidInputError for bytes beyond its end; NotReadyError while nobody can say what their owner wants,
        because the store lost what was acknowledged.
        """
        view = await self._opened(digest, caller)
        for chunk in chunks_of(view, digest, offset, length):
            yield chunk

    async def outline(self, digest: Digest, caller: Caller | None = None) -> Outline:
        """Return the digests of a blob's blocks; raises what `fetch` does."""
        view = await self._opened(digest, caller)
        return await asyncio.to_thread(self._outlines.of, digest, view)

    async def publish_delta(
        self, caller: Caller, parent: Digest, digest: Digest, size_bytes: int, pieces: AsyncIterator[bytes]
    ) -> None:
        """Store one blob, whole, that comes as its delta to another one here; else as `publish`.

        Raises NotFoundError where the parent is not here or the caller may not name it, InvalidInputError
        where it has another size.
        """
        await self._rights.check_readable(caller.id, checked_digest(parent))
        await self.publish(caller, digest, size_bytes, await self._deltas.undone(parent, size_bytes, pieces))

    async def fetch_delta(
        self, digest: Digest, parent: Digest, width: int, caller: Caller | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the delta that makes a blob of its parent; both must be ones that may be fetched.

        Raises NotFoundError where the blob's own bytes are hardly more, else what `fetch` raises.
        """
        for each in (digest, parent):
            # Who gets a delta and one of the two has the other.
            checked_digest(each)
        await self._check_may_leave(caller, digest, parent)
        async for piece in self._deltas.between(digest, parent, width):
            yield piece

    async def _opened(self, digest: Digest, caller: Caller | None) -> memoryview:
        """Return the verified bytes of a blob that may leave."""
        await self._check_may_leave(caller, checked_digest(digest))
        return await asyncio.to_thread(self._blobs.open_verified, digest)

    async def _check_may_leave(self, caller: Caller | None, *blobs: Digest) -> None:
        with suppress(UnreachableError):  # what was known before an outage counts during it
            await self._reconciler.bring_forward()
        self._reconciler.check_whole()
        for blob in blobs:
            await self._rights.check_may_leave(blob, caller)

    async def _check_quota(self, caller: Caller, blobs: Sequence[Digest]) -> None:
        """Raise ExhaustedError where a manifest over these blobs is more than the caller may fill."""
        if caller.role == "node" and self._quotas.most_bytes:
            await self._quotas.measure(caller.id, blobs)
            self._quotas.check_commit(caller.id, blobs)


def _sender(caller: Caller) -> str:
    return f"{caller.role}-{caller.id}"
