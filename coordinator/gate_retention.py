"""Which arrays the coordinator keeps: those of the newest gate versions, and of what may still come back.

Signed statements stay, so the history is whole; arrays that nothing names any more go. A file is dropped only
once nothing names it, and each alone, so a crash between leaves arrays that the next look drops.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from coordinator.contributions import ContributionFiles
from coordinator.gate_files import GateFiles
from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest

YOUNG_S = 600.0
"""A blob that nothing names yet may be of the root that is being made: for so long it stays."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What arrays somebody still asks for: of contributions, and blobs."""

    contributions: frozenset[Digest] = frozenset()
    blobs: frozenset[Digest] = frozenset()


class GateRetention:
    """Drops what is out of reach after each new gate; `changing` is held meanwhile, so that nothing is on its
    way into a gate."""

    def __init__(
        self,
        *,
        files: GateFiles,
        contributions: ContributionFiles,
        changing: asyncio.Lock,
        kept: int,
        beside: Callable[[], Named],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`kept`: of so many of the newest versions; `beside` says what else may come back."""
        self._files, self._contributions, self._changing = files, contributions, changing
        self._kept, self._beside, self._clock = kept, beside, clock
        self._known: dict[int, Named] = {}
        self._task: asyncio.Task[None] | None = None

    def notice_gate(self) -> None:
        """Begin to drop what is out of reach now, and do not wait."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drop_calmly(), name="drop old arrays")

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def drop(self) -> None:
        """Drop the arrays of contributions and gates that no version in reach, and nothing beside, names.

        Nothing goes where a version in reach cannot be read.
        """
        async with self._changing:
            await asyncio.to_thread(self._drop, self._beside())

    async def _drop_calmly(self) -> None:
        try:
            await self.drop()
        except (SwarmError, OSError) as error:
            log.error("gate.arrays_not_dropped", reason=str(error))

    def _drop(self, beside: Named) -> None:
        newest = self._files.newest()
        in_reach = range(max(1, newest - self._kept + 1), newest + 1)
        self._known = {version: self._known.get(version) or self._named(version) for version in in_reach}
        named = [beside, *self._known.values()]
        contributions = frozenset[Digest]().union(*(each.contributions for each in named))
        gone = [digest for digest in self._contributions.whole() if digest not in contributions]
        for digest in gone:
            self._contributions.drop_arrays(digest)
        blobs = self._drop_blobs(frozenset[Digest]().union(*(each.blobs for each in named)))
        if gone or blobs:
            log.info("gate.arrays_dropped", contributions=len(gone), blobs=blobs, oldest=in_reach.start)

    def _drop_blobs(self, named: frozenset[Digest]) -> int:
        blobs, count = self._files.blobs, 0
        for blob in list(blobs.digests()):
            if blob not in named and blobs.path(blob).stat().st_mtime < self._clock() - YOUNG_S:
                blobs.remove(blob)
                count += 1
        return count

    def _named(self, version: int) -> Named:
        value = self._files.statement(version).value
        return Named(
            contributions=frozenset(value.contributions),
            blobs=frozenset(entry.blob for entry in value.arrays),
        )
