"""The registry's rules: bytes before manifests, nothing unverified, owners speak for themselves alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from swarm.audit import RefusalLog
from swarm.domain.collection import Collection, OwnerBytes, RetentionPolicy
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import Digest
from swarm.domain.inference import SocketBytes
from swarm.domain.lineage import Lineage
from swarm.domain.membership import Caller, Head, RegistryHealth
from swarm.domain.rebuild import BroughtBack, RebuildReport
from swarm.modules.outlines import Outline
from swarm.registry.blob_rights import BlobRights
from swarm.registry.blob_store import BlobStore
from swarm.registry.blob_transfers import SPARE_BYTES, BlobTransfers
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.collecting import Collector
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.commits_in_flight import CommitsInFlight
from swarm.registry.committing import Commits
from swarm.registry.missing_pieces import MissingPieces
from swarm.registry.quotas import Quotas
from swarm.registry.rebuilding import Rebuilding
from swarm.registry.reconciling import Reconciler
from swarm.registry.statements import StatementReader
from swarm.registry.store import MetadataStore
from swarm.registry.swarm_blobs import SwarmBlobs
from swarm.registry.versions import Versions
from swarm.trust.keyring import Keyring


class RegistryService:
    """Implements `swarm.rpc.ports.RegistryPort` over a metadata store and a store of blobs; the rules are in
    its parts.

    The keyring knows the coordinator; records of other members are fetched from the store when needed.
    """

    def __init__(
        self,
        *,
        store: MetadataStore,
        blobs: BlobStore,
        keyring: Keyring,
        certificate_days: Callable[[], float],
        socket_bytes: Callable[[], SocketBytes] = SocketBytes,
        spare_bytes: int = SPARE_BYTES,
        claims: Claims | None = None,
        retention: RetentionPolicy | None = None,
        collection_journal: Path | None = None,
        node_quota_bytes: int = 0,
        journal: CommitJournal | None = None,
    ) -> None:
        """`claims` None: kept in memory only, and so without `collection_journal` how long blobs were named
        by nothing. `node_quota_bytes`: what each node may fill, 0: no limit. `journal` None: what was
        acknowledged is remembered in memory only."""
        self._store, self._blobs = store, blobs
        self._certificate_days, self._socket_bytes = certificate_days, socket_bytes
        claims = claims if claims is not None else Claims()
        journal = journal if journal is not None else CommitJournal()
        self._journal = journal
        policy, audit = retention or RetentionPolicy(), RefusalLog()
        statements = StatementReader(store, keyring)
        self._catalogue = Catalogue(store, keyring.is_revoked)
        rights = BlobRights(
            catalogue=self._catalogue,
            swarm_blobs=SwarmBlobs(store, statements),
            journal=journal,
            claims=claims,
            is_revoked=keyring.is_revoked,
        )
        self._quotas = Quotas(blobs, self._catalogue, claims, node_quota_bytes, self.collect)
        self.reconciler = Reconciler(store, journal, statements.opened)
        self._transfers = BlobTransfers(
            blobs=blobs,
            catalogue=self._catalogue,
            rights=rights,
            claims=claims,
            quotas=self._quotas,
            reconciler=self.reconciler,
            spare_bytes=spare_bytes,
        )
        self._commits = Commits(
            store=store,
            blobs=blobs,
            statements=statements,
            catalogue=self._catalogue,
            rights=rights,
            claims=claims,
            quotas=self._quotas,
            journal=journal,
            reconciler=self.reconciler,
            audit=audit,
        )
        self._versions = Versions(
            store=store, catalogue=self._catalogue, journal=journal, reconciler=self.reconciler
        )
        self._collector = Collector(
            store=store,
            blobs=blobs,
            catalogue=self._catalogue,
            claims=claims,
            commits=journal,
            reconciler=self.reconciler,
            policy=policy,
            journal=collection_journal,
        )
        self._missing = MissingPieces(
            blobs=blobs,
            catalogue=self._catalogue,
            journal=journal,
            reconciler=self.reconciler,
            needed=self._collector.needed,
        )
        self._rebuilding = Rebuilding(
            store=store,
            blobs=blobs,
            catalogue=self._catalogue,
            rights=rights,
            journal=journal,
            reconciler=self.reconciler,
            statements=statements,
            in_flight=CommitsInFlight(store, claims),
            admitted=self._commits.admit,
            within_limits=self._commits.within_limits,
            missing=self._missing,
            keep_versions=policy.keep_versions,
            audit=audit,
        )

    async def missing(
        self, digests: Sequence[Digest], caller: Caller | None = None, *, claims: bool = True
    ) -> list[Digest]:
        return await self._transfers.missing(digests, caller, claims=claims)

    async def publish(
        self, caller: Caller, digest: Digest, size_bytes: int, chunks: AsyncIterator[bytes], offset: int = 0
    ) -> None:
        await self._transfers.publish(caller, digest, size_bytes, chunks, offset)

    async def upload_state(self, caller: Caller, digest: Digest) -> int:
        return await self._transfers.upload_state(caller, digest)

    def fetch(
        self, digest: Digest, offset: int = 0, length: int = 0, caller: Caller | None = None
    ) -> AsyncIterator[bytes]:
        return self._transfers.fetch(digest, offset, length, caller)

    async def outline(self, digest: Digest, caller: Caller | None = None) -> Outline:
        return await self._transfers.outline(digest, caller)

    async def publish_delta(
        self, caller: Caller, parent: Digest, digest: Digest, size_bytes: int, pieces: AsyncIterator[bytes]
    ) -> None:
        await self._transfers.publish_delta(caller, parent, digest, size_bytes, pieces)

    def fetch_delta(
        self, digest: Digest, parent: Digest, width: int, caller: Caller | None = None
    ) -> AsyncIterator[bytes]:
        return self._transfers.fetch_delta(digest, parent, width, caller)

    async def commit(self, caller: Caller, envelope: bytes, fence: int, key: str) -> Head:
        return await self._commits.commit(caller, envelope, fence, key)

    async def announce(
        self, caller: Caller, envelopes: Sequence[bytes], fence: int, key: str
    ) -> tuple[list[str], list[str]]:
        return await self._commits.announce(caller, envelopes, fence, key)

    async def withdraw(self, caller: Caller, tombstone: bytes, fence: int, key: str) -> list[Digest]:
        return await self._commits.withdraw(caller, tombstone, fence, key)

    async def heads(self, owner: str) -> list[Head]:
        return await self._versions.heads(owner)

    async def manifest(self, digest: str, expert: str, version: int) -> bytes:
        return await self._versions.manifest(digest, expert, version)

    async def lineage(self, manifest: str, expert: str) -> Lineage:
        return await self._versions.lineage(manifest, expert)

    async def bring_back(self, caller: Caller, envelopes: Sequence[bytes], fence: int) -> BroughtBack:
        return await self._rebuilding.bring_back(caller, envelopes, fence)

    async def rebuild(self, begin: bool) -> RebuildReport:
        """Say what there is and what is missing; `begin`: after asking everybody for what they keep."""
        if begin:
            await self._rebuilding.begin()
        return await self._rebuilding.report()

    async def collect(self, dry_run: bool = False) -> Collection:
        """Remove the blobs that nothing in reach needs, or say what would go and why the largest others stay.

        UnreachableError while the store or the blobs are away, NotReadyError while the store lacks what was
        acknowledged.
        """
        found = await self._collector.collect(dry_run=dry_run)
        if not dry_run:
            self._quotas.forget(each.blob for each in found.gone)
            self._quotas.settle(self._collector.needed_by)
        return found

    async def missing_blobs(self) -> int:
        """Look how many blobs must be here and are not."""
        await self._catalogue.refresh()
        return await self._missing.count_blobs()

    async def sweep(self) -> int:
        """Collect, and return how many blobs went; none while a store is away. Uploads that broke off a day
        ago go too."""
        await asyncio.to_thread(self._blobs.sweep)
        try:
            return len((await self.collect()).gone)
        except (NotReadyError, UnreachableError):
            return 0

    async def health(self) -> RegistryHealth:
        """Return how the registry, its Redis and its blobs stand; an outage of those is told, not raised."""
        missing = 0
        try:
            await self._store.ping()
            redis, durability = "ok", await self._store.durability()
        except SwarmError as error:
            redis, durability = str(error), "unknown"
        with suppress(SwarmError):  # Redis is away and was never read: nothing is known of owners
            await self._catalogue.refresh()
        count = size = free = 0
        owners: tuple[OwnerBytes, ...] = ()
        blobs_away = ""
        try:
            free = self._blobs.free_bytes()
            count, size = await asyncio.to_thread(self._blobs.stats)
            owners = await self._quotas.all_used()
            if redis == "ok":
                missing = await self._missing.recent_count()
        except SwarmError as error:
            blobs_away = str(error)
        return RegistryHealth(
            redis=redis,
            durability=durability,
            blobs=count,
            blob_bytes=size,
            disk_free_bytes=free,
            socket_bytes=self._socket_bytes(),
            certificate_days=self._certificate_days(),
            owners=owners,
            node_quota_bytes=self._quotas.most_bytes,
            blobs_away=blobs_away,
            missing_blobs=missing,
            lost=self.reconciler.lost,
            journal_damaged=self._journal.damaged,
        )
