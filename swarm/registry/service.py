"""The registry's rules: bytes before manifests, nothing unverified, owners speak for themselves alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import structlog

from swarm.audit import RefusalLog
from swarm.domain.collection import Collection, OwnerBytes, RetentionPolicy
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    TooManyExpertsError,
    UnknownMemberError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.ids import digest as checked_digest
from swarm.domain.inference import SocketBytes
from swarm.domain.lineage import Lineage
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Caller, Head, RegistryHealth
from swarm.domain.rebuild import BroughtBack, RebuildReport
from swarm.domain.specification import Specification
from swarm.domain.tensors import MAX_TENSOR_BYTES
from swarm.fault_points import reached
from swarm.modules.outlines import Outline, Outlines, chunks_of
from swarm.modules.pipelined import write_pipelined
from swarm.registry import admission, refusals
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.collecting import Collector
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.commits_in_flight import CommitsInFlight
from swarm.registry.deltas import Deltas
from swarm.registry.progress import with_progress
from swarm.registry.quotas import Quotas
from swarm.registry.rebuilding import Rebuilding
from swarm.registry.reconciling import Reconciler
from swarm.registry.store import MetadataStore
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement, statement_digest

SPARE_BYTES: Final = 64 << 20
"""What publishing leaves free on the disk, so that the rest of the machine goes on."""

MAX_ANNOUNCED: Final = 1000
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class RegistryService:
    """Implements `swarm.rpc.ports.RegistryPort` over a metadata store and a store of blobs.

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
        self._store, self._blobs, self._keyring = store, blobs, keyring
        self._certificate_days, self._socket_bytes = certificate_days, socket_bytes
        self._spare_bytes = spare_bytes
        self._refusals = RefusalLog()
        self._catalogue = Catalogue(store, keyring.is_revoked)
        self._claims = claims if claims is not None else Claims()
        self._commits = CommitsInFlight(store, self._claims)
        self._deltas = Deltas(blobs)
        self._quotas = Quotas(blobs, self._catalogue, self._claims, node_quota_bytes)
        self._collector = Collector(
            store=store,
            blobs=blobs,
            catalogue=self._catalogue,
            claims=self._claims,
            policy=retention or RetentionPolicy(),
            refresh=self._refresh,
            journal=collection_journal,
        )
        self._outlines = Outlines()
        self._journal = journal if journal is not None else CommitJournal()
        self.reconciler = Reconciler(store, self._journal, self._open)
        self._rebuilding = Rebuilding(
            store=store,
            blobs=blobs,
            catalogue=self._catalogue,
            journal=self._journal,
            reconciler=self.reconciler,
            opened=self._open,
            admitted=self._admit,
            needed=self._collector.needed,
            refresh=self._refresh,
            keep_versions=(retention or RetentionPolicy()).keep_versions,
        )
        self._refreshing = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._specification: tuple[bytes, Specification] | None = None

    async def missing(self, digests: Sequence[Digest], caller: Caller | None = None) -> list[Digest]:
        """Return the digests whose bytes are not here, or were found damaged. The others stay for the caller
        until it commits a manifest that has them, or a day is over."""
        for digest in digests:
            checked_digest(digest)
        who, asked = caller.id if caller is not None else "", list(dict.fromkeys(digests))
        self._claims.claim(who, asked)
        missing = asked  # all, where nobody is told anything else
        try:
            missing = await asyncio.to_thread(self._blobs.missing, asked)
        finally:
            self._claims.release(who, missing)
        return missing

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
        sender = f"{caller.role}-{caller.id}"
        self._check_room(digest, size_bytes - offset)
        limited = caller.id if caller.role == "node" else None
        if limited is not None and self._quotas.most_bytes:
            await self._refresh()
            await self._quotas.measure(limited)
        with (
            self._quotas.uploading(limited, digest, size_bytes, self._blobs.kept(sender)),
            self._blobs.writer(digest, size_bytes, sender, offset) as writer,
        ):
            await write_pipelined(with_progress(chunks, f"blob {digest[:12]}"), writer.write)
            # Claimed first, so that it is never here unclaimed.
            self._claims.claim(caller.id, [digest], is_stored=True)
            try:
                await asyncio.to_thread(writer.commit)
            except (SwarmError, OSError):
                self._claims.release(caller.id, [digest])
                raise
        reached("registry.blob.durable")
        _log.info("blob.stored", blob=digest, size_bytes=size_bytes, sender=caller.id)

    async def upload_state(self, caller: Caller, digest: Digest) -> int:
        """Return how many bytes are here of an upload of the caller's that broke off; 0 where none are.

        They are not verified before the whole blob is.
        """
        checked_digest(digest)
        return self._blobs.kept(f"{caller.role}-{caller.id}").get(digest, 0)

    async def fetch(self, digest: Digest, offset: int = 0, length: int = 0) -> AsyncIterator[bytes]:
        """Yield a blob in chunks of 1 MiB, its bytes verified first; or so many (0: all) from offset on.

        Raises NotFoundError; VerificationError for damaged bytes; NotAuthorisedError for weights that their
        owner keeps (serve-only) or withdrew; InvalidInputError for bytes beyond its end.
        """
        view = await self._opened(digest)
        for chunk in chunks_of(view, digest, offset, length):
            yield chunk

    async def outline(self, digest: Digest) -> Outline:
        """Return the digests of a blob's blocks; raises what `fetch` does."""
        view = await self._opened(digest)
        return await asyncio.to_thread(self._outlines.of, digest, view)

    async def publish_delta(
        self, caller: Caller, parent: Digest, digest: Digest, size_bytes: int, pieces: AsyncIterator[bytes]
    ) -> None:
        """Store one blob, whole, that comes as its delta to another one here; else as `publish`.

        Raises NotFoundError where the parent is not here, InvalidInputError where it has another size.
        """
        await self.publish(caller, digest, size_bytes, await self._deltas.undone(parent, size_bytes, pieces))

    async def fetch_delta(self, digest: Digest, parent: Digest, width: int) -> AsyncIterator[bytes]:
        """Yield the delta that makes a blob of its parent; both must be ones that may be fetched.

        Raises NotFoundError where the blob's own bytes are hardly more, else what `fetch` raises.
        """
        await self._refresh()
        for each in (digest, parent):
            # Who gets a delta and one of the two has the other.
            self._catalogue.check_may_leave(checked_digest(each))
        async for piece in self._deltas.between(digest, parent, width):
            yield piece

    async def commit(self, caller: Caller, envelope: bytes, fence: int, key: str) -> Head:
        """Make a signed manifest the head of its expert, once all it says has been checked.

        A node needs its lease's fence; the coordinator, which commits its own root, has none.
        """
        statement = await self._open(envelope, Manifest)
        manifest = statement.value
        admission.check_committer(caller, manifest)
        held = None if caller.role == "coordinator" else fence
        async with self._commits.of(statement):
            await self._admit(manifest)
            async with self._committing:
                if self.reconciler.is_behind(manifest.expert, manifest.parent_version):
                    await self.reconciler.look()
                await self._check_leaf_limit(manifest)
                if caller.role == "node" and self._quotas.most_bytes:
                    await self._refresh()
                    await self._quotas.measure(manifest.owner, manifest.blobs())
                    self._quotas.check_commit(manifest.owner, manifest.blobs())
                reached("registry.commit.admitted")
                head = await self._store.commit_manifest(manifest, statement.digest, envelope, held, key)
            reached("registry.commit.stored")
            await self._journal.note_commit(statement.digest, envelope)
            reached("registry.commit.journaled")
        _log.info(
            "module.published", expert=head.expert, version=head.version, manifest=head.manifest, fence=fence
        )
        return head

    async def announce(
        self, caller: Caller, envelopes: Sequence[bytes], fence: int, key: str
    ) -> tuple[list[str], list[str]]:
        """Take over heads that a node kept and this registry lost.

        Returns what was restored (`expert@version`) and what was refused, with reasons. A stale fence or an
        outage refuses the whole.
        """
        if len(envelopes) > MAX_ANNOUNCED:
            raise InvalidInputError(
                "announced heads", found=str(len(envelopes)), expected=f"at most {MAX_ANNOUNCED}"
            )
        call = f"announce:{caller.id}:{key}"
        if key and (first := await self._store.recall(call)):
            restored, refused = json.loads(first)
            return restored, refused
        restored, refused = [], []
        for envelope in envelopes:
            try:
                if name := await self._restore(caller, envelope, fence):
                    restored.append(name)
            except (StaleFenceError, UnreachableError):
                raise
            except SwarmError as error:
                self._refusals.refused("/swarm.v1.Registry/Announce", f"{caller.role}/{caller.id}", error)
                refused.append(str(error))
        if key:
            await self._store.remember(call, json.dumps([restored, refused]))
        return restored, refused

    async def heads(self, owner: str) -> list[Head]:
        """Return all heads, or one owner's. A store that went back is brought forward first."""
        found = await self._store.heads(owner)
        versions = {head.expert: head.version for head in found}
        mine = [
            each for each in self._journal.experts() if not owner or refusals.owner_of_target(each) == owner
        ]
        if any(self.reconciler.is_behind(each, versions.get(each, 0)) for each in mine):
            await self.reconciler.reconcile()
            found = await self._store.heads(owner)
        return found

    async def manifest(self, digest: str, expert: str, version: int) -> bytes:
        """Return a manifest's envelope by digest, or by expert and version (0: its head).

        Raises NotFoundError; VerificationError if the stored bytes are not those of the digest.
        """
        name = Digest(digest) if digest else await self._version_digest(expert, version)
        envelope = await self._store.manifest(name)
        if envelope is None:
            raise NotFoundError(
                f"manifest {name[:12]}",
                found="none of that digest",
                expected="the digest of a published manifest",
                remedy="list what there is: swarm experts",
            )
        found = statement_digest(envelope)
        if found != name:
            raise VerificationError(
                f"manifest {name[:12]}",
                found=f"a statement with digest {found[:12]}",
                expected=f"digest {name[:12]}",
                remedy="the store's copy is damaged and is not used; its owner can announce it again",
            )
        return envelope

    async def withdraw(self, caller: Caller, tombstone: bytes, fence: int, key: str) -> list[Digest]:
        """Withdraw an expert, or all of a node's, for good; return the versions that descend from it."""
        statement = await self._open(tombstone, Tombstone)
        target = statement.value.id
        owner = NodeId(refusals.owner_of_target(target))
        admission.check_owner(caller, owner, f"withdrawal of {target}")
        reached("registry.withdraw.verified")
        gone = await self._store.withdraw(target, tombstone, fence if caller.role == "node" else None, key)
        reached("registry.withdraw.stored")
        await self._journal.note_withdrawal(target, tombstone)
        reached("registry.withdraw.journaled")
        await self._refresh()
        descended = self._catalogue.descendants(self._catalogue.versions_of(target))
        _log.info("expert.withdrawn", target=target, experts=list(gone), descendants=len(descended))
        return descended

    async def lineage(self, manifest: str, expert: str) -> Lineage:
        """Return the graph around a manifest, or around an expert's newest version, withdrawn or not."""
        await self._refresh()
        root = Digest(manifest)
        if not manifest:
            versions = self._catalogue.versions_of(ExpertId(expert))
            root = versions[-1] if versions else root
        heads = {head.manifest for head in await self._store.heads()}
        found = self._catalogue.lineage(root, heads)
        if not found.nodes:
            raise NotFoundError(
                f"lineage of {manifest[:12] or expert[:80]}",
                found="no published version",
                expected="an expert's id, as ada.e1, or a manifest's digest",
                remedy="list what there is: swarm experts",
            )
        return found

    async def collect(self, dry_run: bool = False) -> Collection:
        """Remove the blobs that nothing in reach needs, or say what would go and why the largest others stay.

        UnreachableError while the store or the blobs are away.
        """
        found = await self._collector.collect(dry_run=dry_run)
        if not dry_run:
            self._quotas.forget(each.blob for each in found.gone)
        return found

    async def sweep(self) -> int:
        """Collect, and return how many blobs went; none while a store is away. Uploads that broke off a day
        ago go too."""
        await asyncio.to_thread(self._blobs.sweep)
        try:
            return len((await self.collect()).gone)
        except UnreachableError:
            return 0

    async def bring_back(self, caller: Caller, envelopes: Sequence[bytes], fence: int) -> BroughtBack:
        """Take back what its owner kept of the versions that this registry had accepted and lost."""
        return await self._rebuilding.bring_back(caller, envelopes, fence)

    async def rebuild(self, begin: bool) -> RebuildReport:
        """Say what there is and what is missing; `begin`: after asking everybody for what they keep."""
        if begin:
            await self._rebuilding.begin()
        return await self._rebuilding.report()

    async def health(self) -> RegistryHealth:
        """Return how the registry, its Redis and its blobs stand; an outage of those is told, not raised."""
        try:
            await self._store.ping()
            redis, durability = "ok", await self._store.durability()
        except SwarmError as error:
            redis, durability = str(error), "unknown"
        with suppress(SwarmError):  # Redis is away and was never read: nothing is known of owners
            await self._refresh()
        count = size = 0
        owners: tuple[OwnerBytes, ...] = ()
        blobs_away = ""
        try:
            count, size = await asyncio.to_thread(self._blobs.stats)
            owners = await self._quotas.all_used()
        except SwarmError as error:
            blobs_away = str(error)
        return RegistryHealth(
            redis=redis,
            durability=durability,
            blobs=count,
            blob_bytes=size,
            disk_free_bytes=self._blobs.free_bytes(),
            socket_bytes=self._socket_bytes(),
            certificate_days=self._certificate_days(),
            owners=owners,
            node_quota_bytes=self._quotas.most_bytes,
            blobs_away=blobs_away,
        )

    async def _opened(self, digest: Digest) -> memoryview:
        """Return the verified bytes of a blob that may leave."""
        checked_digest(digest)
        await self._refresh()
        self._catalogue.check_may_leave(digest)
        return await asyncio.to_thread(self._blobs.open_verified, digest)

    async def _restore(self, caller: Caller, envelope: bytes, fence: int) -> str:
        """Restore one announced head; return its name, empty if ours is as new."""
        statement = await self._open(envelope, Manifest)
        manifest = statement.value
        admission.check_owner(caller, manifest.owner, f"{manifest.expert}@{manifest.version}")
        head = await self._store.head(manifest.expert)
        if head is not None and head.manifest == statement.digest:
            return ""
        async with self._commits.of_announced(statement):
            await self._admit(manifest)
            moved = await self._store.restore_head(manifest, statement.digest, envelope, fence)
            if moved:
                await self._journal.note_commit(statement.digest, envelope)
        return f"{manifest.expert}@{manifest.version}" if moved else ""

    async def _admit(self, manifest: Manifest) -> None:
        """Raise by name unless manifest fits the swarm, all its blobs are here, and its weights are sound."""
        admission.check_fits(manifest, await self._current_specification())
        await asyncio.to_thread(admission.check_present, manifest, self._blobs.missing)
        await asyncio.to_thread(admission.check_modules, manifest, self._blobs.open_verified)

    async def _check_leaf_limit(self, manifest: Manifest) -> None:
        limit = (await self._current_specification()).max_experts_per_owner
        others = [head for head in await self._store.heads(manifest.owner) if head.expert != manifest.expert]
        if len(others) >= limit:
            raise TooManyExpertsError(
                f"experts of {manifest.owner}",
                found=f"{len(others)} and one more",
                expected=f"at most {limit}",
                remedy="withdraw some that no gate has: swarm expert remove EXPERT",
            )

    def _check_room(self, digest: Digest, size_bytes: int) -> None:
        free = self._blobs.free_bytes()
        if size_bytes + self._spare_bytes > free:
            raise ExhaustedError(
                "disk of the registry",
                found=f"{free} bytes free",
                expected=f"{size_bytes} for blob {digest[:12]} and {self._spare_bytes} to spare",
                remedy="free some space there; nothing was stored",
            )

    async def _refresh(self) -> bool:
        async with self._refreshing:
            return await self._catalogue.refresh()

    async def _version_digest(self, expert: str, version: int) -> Digest:
        if version:
            found = await self._store.manifest_at(ExpertId(expert), version)
            if found is None and self.reconciler.is_behind(ExpertId(expert), version - 1):
                await self.reconciler.reconcile()
                found = await self._store.manifest_at(ExpertId(expert), version)
        else:
            head = await self._store.head(ExpertId(expert))
            if self.reconciler.is_behind(ExpertId(expert), head.version if head else 0):
                await self.reconciler.reconcile()
                head = await self._store.head(ExpertId(expert))
            found = head.manifest if head else None
        if found is None:
            raise NotFoundError(
                f"{expert[:80]}@{version}" if version else f"expert {expert[:80]}",
                found="no published version",
                expected="an expert's id, as ada.e1, or a manifest's digest",
                remedy="list what there is: swarm experts",
            )
        return found

    async def _open(self, envelope: bytes, cls: type[_T]) -> Statement[_T]:
        try:
            return self._keyring.open(envelope, cls)
        except UnknownMemberError as unknown:
            record = await self._store.record(NodeId(unknown.member))
            if record is None:
                raise
            self._keyring.add_record(record)
        return self._keyring.open(envelope, cls)

    async def _current_specification(self) -> Specification:
        envelope = await self._store.specification()
        if envelope is None:
            raise NotReadyError(
                "specification", found="none in the store", remedy="start the coordinator: swarm coordinator"
            )
        if self._specification is None or self._specification[0] != envelope:
            self._specification = envelope, (await self._open(envelope, Specification)).value
        return self._specification[1]
