"""What a registry should have and has not: versions that were acknowledged or have newer ones, and blobs."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Final

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

Awaited = Mapping[NodeId, Mapping[Digest, str]]
"""The blobs that owners were asked for, each with the version that it belongs to."""


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
    ) -> None:
        self._blobs, self._catalogue = blobs, catalogue
        self._journal, self._reconciler, self._needed = journal, reconciler, needed

    async def listed(self, awaited: Awaited) -> tuple[MissingPiece, ...]:
        """Return what is missing, manifests first, at most MOST_MISSING. The catalogue must be up to date."""
        manifests = await asyncio.to_thread(self._lost_manifests)
        return tuple([*manifests, *await self._lost_blobs(awaited)][:MOST_MISSING])

    def _lost_manifests(self) -> list[MissingPiece]:
        """Return the acknowledged versions that the store lacks, and those below a known one that nobody has
        brought."""
        known: dict[tuple[NodeId, ExpertId], set[int]] = defaultdict(set)
        for made in list(self._catalogue.manifests.values()):
            known[made.owner, made.expert].add(made.version)
        lost = self._lost_of_journal()
        for made in lost:
            known[made.owner, made.expert].add(made.version)
        acknowledged = ((made.owner, made.expert, made.version) for made in lost)
        gaps = (
            (owner, expert, version)
            for (owner, expert), versions in sorted(known.items())
            for version in _below(versions)
        )
        return [
            MissingPiece(owner=owner, version=f"{expert}@{version}", what="manifest")
            for owner, expert, version in islice(chain(acknowledged, gaps), MOST_MISSING)
        ]

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
        needed = {blob: version for blob, (_, version) in asked.items()} | await self._needed()
        missing = await asyncio.to_thread(self._blobs.missing, sorted(needed))
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


def _below(versions: set[int]) -> Iterator[int]:
    """Yield the versions from 1 to the newest that are not there."""
    before = 0
    for version in sorted(versions):
        yield from range(before + 1, version)
        before = version
