"""What this node tells the registry of its own experts: its heads with each new lease, and everything that it
keeps where the registry has lost something, every accepted version, oldest first, and the blobs it lacks.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from node.leaves import LeafBook
from node.outbound import OutboundLog
from swarm.digests import digest_of
from swarm.domain.errors import NotFoundError, StaleFenceError, SwarmError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.inference import Listing
from swarm.domain.rebuild import in_parts
from swarm.modules.blobs import BlobFiles
from swarm.rpc.clients import RegistryClient

REBUILD_EVENT = "registry.rebuild"
"""The registry asks everybody to bring what they keep."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_log = structlog.get_logger(__name__)


class Announcer:
    """Announces under the present lease's fence (0: none). `done` is called when all was announced."""

    def __init__(
        self,
        *,
        book: LeafBook,
        registry: RegistryClient,
        cache: BlobFiles,
        outbound: OutboundLog,
        fence: Callable[[], int],
        done: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._registry, self._cache, self._outbound = book, registry, cache, outbound
        self._fence, self._done, self._clock = fence, done, clock
        self._task: asyncio.Task[None] | None = None

    def begin(self, *, everything: bool = False) -> None:
        """Announce, and do not wait. `everything`: not the heads alone."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._until_told(self._fence(), everything), name="announce")

    async def _until_told(self, fence: int, everything: bool) -> None:
        pause_s = FIRST_PAUSE_S
        while fence and self._fence() == fence:
            try:
                if everything or await self._announce_heads(fence):
                    await self.bring_back(fence)
            except StaleFenceError as error:
                _log.warning("announce.failed", because=str(error))
                return
            except (SwarmError, OSError) as error:
                _log.warning("announce.failed", because=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            self._done()
            return

    async def bring_back(self, fence: int) -> None:
        """Offer every accepted version, and send the blobs that the registry lacks of them."""
        for envelopes in in_parts(self._book.accepted_envelopes()):
            self._list(
                "announcement", f"signed manifests of {len(envelopes)} own versions", sum(map(len, envelopes))
            )
            found = await self._registry.bring_back(envelopes, fence)
            if found.missing_blobs and await self._send(found.missing_blobs):
                found = await self._registry.bring_back(envelopes, fence)
            _log.info(
                "heads.brought_back",
                versions=len(envelopes),
                restored=len(found.restored),
                refused=found.refused,
                missing_blobs=len(found.missing_blobs),
            )

    async def _announce_heads(self, fence: int) -> bool:
        """Say whether the registry had lost a head, or would not have one."""
        envelopes = self._book.published_envelopes()
        if not envelopes:
            return False
        key = f"{digest_of(b''.join(envelopes))[:32]}-{fence}"
        self._list(
            "announcement", f"signed manifests of {len(envelopes)} own heads", sum(map(len, envelopes))
        )
        restored, refused = await self._registry.announce(envelopes, fence, key)
        _log.info("heads.announced", heads=len(envelopes), restored=len(restored), refused=len(refused))
        return bool(restored or refused)

    async def _send(self, blobs: Sequence[Digest]) -> int:
        """Send those of the blobs that are here and whole; return how many."""
        sent = 0
        for blob in blobs:
            with suppress(NotFoundError, VerificationError):
                data = await asyncio.to_thread(self._cache.open_verified, blob)
                self._list("blob", "weights that the registry has lost", len(data), blob)
                await self._registry.publish_blob(blob, data)
                sent += 1
        return sent

    def _list(self, what: str, detail: str, size_bytes: int, blob: str = "") -> None:
        line = Listing(
            what=what,
            detail=detail,
            size_bytes=size_bytes,
            recipient="registry",
            at=self._clock(),
            digest=blob,
        )
        self._outbound.record([line])
