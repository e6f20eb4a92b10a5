"""Removing the blobs of what was withdrawn: nobody may fetch them, and growth withdraws for ever."""

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from swarm.domain.errors import NotFoundError
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles

GRACE_S: Final = 600.0
"""Who asked whether a blob is here may commit a manifest that needs it; for so long it stays."""
_log = structlog.get_logger(__name__)


class VoidBlobs:
    """Remembers which blobs were asked after, and removes others that are of no use any more."""

    def __init__(
        self, blobs: BlobFiles, *, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._blobs, self._grace_s, self._clock = blobs, grace_s, clock
        self._wanted: dict[Digest, float] = {}

    def note_wanted(self, blobs: Iterable[Digest]) -> None:
        """Let these blobs stay for a while, whoever needs them."""
        self._wanted |= dict.fromkeys(blobs, self._clock())

    def note_absent(self, blobs: Iterable[Digest]) -> None:
        """Take back what was noted of blobs that are not here: there is nothing to keep."""
        for blob in blobs:
            self._wanted.pop(blob, None)

    def sweep(self, void: Iterable[Digest]) -> int:
        """Remove those of the void blobs that were not asked after lately; return how many.

        It does not wait in between, so that nobody commits what is just going.
        """
        lately = self._clock() - self._grace_s
        self._wanted = {blob: at for blob, at in self._wanted.items() if at > lately}
        count = size_bytes = 0
        for blob in void:
            if blob in self._wanted:
                continue
            try:
                size_bytes += self._blobs.size(blob)
            except NotFoundError:
                continue
            self._blobs.remove(blob)
            count += 1
        if count:
            _log.info("blobs.swept", blobs=count, size_bytes=size_bytes)
        return count
