"""What a registry should have and has not: versions that were acknowledged or have newer ones, and blobs."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final

import structlog

from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.rebuild import MissingPiece
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.reconciling import Reconciler
from swarm.trust.statements import read_statement

MOST_MISSING: Final = 10_000
"""So many missing pieces are listed."""

LOOK_EVERY_S: Final = 30.0
"""So long a count of missing blobs holds: over a bucket each blob is a request."""

_PATIENCE_S: Final = 1.0
_log = structlog.get_logger(__name__)

Awaited = Mapping[NodeId, Mapping[Digest, str]]
"""The blobs that owners were asked for, each with the version that it belongs to."""
Waiting = Mapping[NodeId, Mapping[Digest, Manifest]]
"""The versions that were not taken from their owners before the blobs of their expert's newest one came."""


class MissingPieces:
    """Looks for what is missing. `needed` gives the blobs that must be here, with why."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        catalogue: Catalogue,
        journal: CommitJournal,
        reconciler: Reconciler,
        needed: Callable[[], Awaitable[dict[Digest, str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs, self._catalogue = blobs, catalogue
        self._journal, self._reconciler, self._needed = journal, reconciler, needed
        self._clock = clock
        self._count = 0
        self._counted_at: float | None = None
        self._looking: asyncio.Task[None] | None = None

    async def listed(self, awaited: Awaited, waiting: Waiting) -> tuple[MissingPiece, ...]:
        """Return at most MOST_MISSING pieces: acknowledged versions that the store lacks, blobs, what owners
        have to offer once more, then runs of versions below a known one that nobody has brought. The
        catalogue must be up to date."""
        lost = await asyncio.to_thread(self._lost_of_journal)
        acknowledged = [
            MissingPiece(owner=made.owner, version=f"{made.expert}@{made.version}", what="manifest")
            for made in lost
        ]
        blobs = await self._lost_blobs(awaited)
        named = {each.version for each in (*acknowledged, *blobs)}
        found = chain(acknowledged, blobs, self._not_taken(waiting, named), self._gaps(lost))
        return tuple(islice(found, MOST_MISSING))

    async def count_blobs(self) -> int:
        """Look how many blobs must be here and are not. The catalogue must be up to date."""
        self._note(await self._missing(await self._needed()))
        return self._count

    async def recent_count(self) -> int:
        """Return as `count_blobs`, as of the last LOOK_EVERY_S, or longer ago where looking takes long."""
        is_old = self._counted_at is None or self._clock() - self._counted_at >= LOOK_EVERY_S
        if is_old and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._count_calmly())
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_PATIENCE_S)
        return self._count

    async def _count_calmly(self) -> None:
        try:
            await self.count_blobs()
        except (SwarmError, OSError) as error:
            _log.warning("blobs.not_looked_for", reason=str(error))

    def _note(self, missing: Sequence[Digest]) -> None:
        self._count, self._counted_at = len(missing), self._clock()

    async def _missing(self, needed: Iterable[Digest]) -> list[Digest]:
        return await asyncio.to_thread(self._blobs.missing, sorted(needed))

    def _gaps(self, lost: Sequence[Manifest]) -> Iterator[MissingPiece]:
        """Yield the runs of versions between known ones, of experts that were not withdrawn."""
        known: dict[tuple[NodeId, ExpertId], set[int]] = defaultdict(set)
        for made in (*self._catalogue.manifests.values(), *lost):
            if not self._catalogue.is_gone(made):
                known[made.owner, made.expert].add(made.version)
        for (owner, expert), versions in sorted(known.items()):
            for first, last in _runs_below(versions):
                run = f"{expert}@{first}" if first == last else f"{expert}@{first} to {last}"
                yield MissingPiece(owner=owner, version=run, what="manifest")

    def _not_taken(self, waiting: Waiting, named: set[str]) -> Iterator[MissingPiece]:
        """Yield the versions that wait still, but for those that are `named` already."""
        for owner, versions in sorted(waiting.items()):
            for digest, made in versions.items():
                version = f"{made.expert}@{made.version}"
                is_here = digest in self._catalogue.digests or self._catalogue.is_gone(made)
                if not is_here and version not in named:
                    yield MissingPiece(owner=owner, version=version, what="manifest")

    def _lost_of_journal(self) -> list[Manifest]:
        lacking = self._journal.commits - self._catalogue.digests
        if not lacking:
            return []
        return [
            read_statement(entry.envelope, Manifest).value
            for entry in self._journal.entries()
            if entry.name in lacking and not self._reconciler.is_left_out(entry.name)
        ]

    async def _lost_blobs(self, awaited: Awaited) -> list[MissingPiece]:
        asked = {
            blob: (owner, version) for owner, blobs in awaited.items() for blob, version in blobs.items()
        }
        must_be_here = await self._needed()
        needed = {blob: version for blob, (_, version) in asked.items()} | must_be_here
        missing = await self._missing(needed)
        self._note([blob for blob in missing if blob in must_be_here])
        users = asked | {
            blob: (made.owner, f"{made.expert}@{made.version}")
            for made in self._catalogue.manifests.values()
            for blob in made.blobs()
        }
        found = []
        for blob in missing:
            owner, version = users.get(blob, (NodeId("coordinator"), needed[blob]))
            found.append(MissingPiece(owner=owner, version=version, what=f"blob {blob}"))
        return sorted(found, key=lambda each: (each.owner, each.version, each.what))


def _runs_below(versions: set[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last of each run of versions that are not there, from 1 to the newest."""
    before = 0
    for version in sorted(versions):
        if version > before + 1:
            yield before + 1, version - 1
        before = version
