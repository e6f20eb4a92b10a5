"""Versions that become heads, and experts that are withdrawn: checked, stored, journaled, acknowledged."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from swarm.audit import RefusalLog
from swarm.digests import digest_of
from swarm.domain.errors import (
    InvalidInputError,
    NotFoundError,
    StaleFenceError,
    SwarmError,
    TooManyExpertsError,
    UnreachableError,
)
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Caller, Head
from swarm.fault_points import reached
from swarm.registry import admission, refusals
from swarm.registry.blob_rights import BlobRights
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.commits_in_flight import CommitsInFlight
from swarm.registry.quotas import Quotas
from swarm.registry.reconciling import Reconciler
from swarm.registry.statements import StatementReader
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement

MAX_ANNOUNCED: Final = 1000
_log = structlog.get_logger(__name__)


class Commits:
    """Commits, announcements and withdrawals. Nothing is acknowledged before the journal has it."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        blobs: BlobStore,
        statements: StatementReader,
        catalogue: Catalogue,
        rights: BlobRights,
        claims: Claims,
        quotas: Quotas,
        journal: CommitJournal,
        reconciler: Reconciler,
        audit: RefusalLog,
    ) -> None:
        self._store, self._blobs, self._statements = store, blobs, statements
        self._catalogue, self._rights, self._quotas = catalogue, rights, quotas
        self._journal, self._reconciler, self._audit = journal, reconciler, audit
        self._in_flight = CommitsInFlight(store, claims)
        self._committing, self._withdrawing = asyncio.Lock(), asyncio.Lock()

    async def commit(self, caller: Caller, envelope: bytes, fence: int, key: str) -> Head:
        """Make a signed manifest the head of its expert, once all it says has been checked.

        A node needs its lease's fence; the coordinator, which commits its own root, has none.
        """
        admission.check_size(envelope)
        await self._reconciler.bring_forward()
        statement = await self._statements.opened(envelope, Manifest)
        manifest = statement.value
        admission.check_committer(caller, manifest)
        held = None if caller.role == "coordinator" else fence
        async with self._in_flight.of(statement):
            await self.admit(manifest)
            with self._journal.expecting(statement.digest, self._unshown(manifest)):
                async with self.within_limits(caller, statement):
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

        Returns what was restored (`expert@version`) and what was refused, with reasons. A stale fence, an
        outage, or a store that lacks what was acknowledged (NotReadyError) refuses the whole. The same again
        under one key tells again what it had restored, and tries the rest once more; ConflictError for other
        versions under a key under which not all were refused.
        """
        if len(envelopes) > MAX_ANNOUNCED:
            raise InvalidInputError(
                "announced heads", found=str(len(envelopes)), expected=f"at most {MAX_ANNOUNCED}"
            )
        call = f"announce:{caller.id}:{key}"
        content = digest_of(b"".join(digest_of(each).encode() for each in envelopes))
        told: list[str] = []
        if key and (first := await self._store.recall(call)):
            of, told = json.loads(first)
            if of != content:
                raise refusals.key_reused(key)
        await self._reconciler.bring_forward()
        restored, refused = list[str](), list[str]()
        for envelope in envelopes:
            await asyncio.sleep(0)  # others' calls go on between two of them
            try:
                if name := await self._restore(caller, envelope, fence):
                    restored.append(name)
            except (StaleFenceError, UnreachableError):
                raise
            except SwarmError as error:
                self._audit.refused("/swarm.v1.Registry/Announce", f"{caller.role}/{caller.id}", error)
                refused.append(str(error))
        if key and (restored or not refused):
            await self._store.remember(call, json.dumps([content, restored]))
        return list(dict.fromkeys([*told, *restored])), refused

    async def withdraw(self, caller: Caller, tombstone: bytes, fence: int, key: str) -> list[Digest]:
        """Withdraw an expert, or all of a node's, for good; return the versions that descend from it."""
        admission.check_tombstone_size(tombstone)
        statement = await self._statements.opened(tombstone, Tombstone)
        target = statement.value.id
        owner = NodeId(refusals.owner_of_target(target))
        admission.check_owner(caller, owner, f"withdrawal of {target}")
        reached("registry.withdraw.verified")
        held = fence if caller.role == "node" else None
        async with self._withdrawing:
            await self._check_known(owner, target)
            gone = await self._store.withdraw(target, tombstone, held, key)
        reached("registry.withdraw.stored")
        await self._journal.note_withdrawal(target, tombstone)
        reached("registry.withdraw.journaled")
        await self._catalogue.refresh()
        descended = self._catalogue.descendants(self._catalogue.versions_of(target))
        _log.info("expert.withdrawn", target=target, experts=list(gone), descendants=len(descended))
        return descended

    async def admit(self, manifest: Manifest) -> None:
        """Raise by name unless manifest fits the swarm, all its blobs are here and its owner may name them,
        and its weights are sound. To who may not name a blob it is missing. For a store that was brought
        forward: who published a blob first was acknowledged first.
        """
        admission.check_fits(manifest, await self._statements.specification())
        foreign = await self._rights.unnameable(manifest.owner, manifest.blobs())

        def missing(blobs: tuple[Digest, ...]) -> list[Digest]:
            lacking = foreign.union(self._blobs.missing(blobs))
            return [blob for blob in blobs if blob in lacking]

        await asyncio.to_thread(admission.check_present, manifest, missing)
        await asyncio.to_thread(admission.check_modules, manifest, self._blobs.open_verified)

    @asynccontextmanager
    async def within_limits(self, caller: Caller, statement: Statement[Manifest]) -> AsyncIterator[None]:
        """Hold the place of a version that is about to be stored: one at a time.

        Raises TooManyExpertsError or ExhaustedError where its owner has no room for it. What was acknowledged
        before, by the journal, is not limited: it is only put back.
        """
        manifest = statement.value
        async with self._committing:
            await self._reconciler.bring_forward()
            if self._reconciler.is_behind(manifest.expert, manifest.parent_version):
                await self._reconciler.look()
            if not self._journal.has(statement.digest):
                await self._check_leaf_limit(manifest)
                if caller.role == "node" and self._quotas.most_bytes:
                    await self._catalogue.refresh()
                    await self._quotas.measure(manifest.owner, manifest.blobs())
                    self._quotas.check_commit(manifest.owner, manifest.blobs())
            yield
            self._quotas.note_committed(manifest.owner, manifest.blobs())

    async def _restore(self, caller: Caller, envelope: bytes, fence: int) -> str:
        """Restore one announced head; return its name, empty if ours is as new."""
        admission.check_size(envelope)
        statement = await self._statements.opened(envelope, Manifest)
        manifest = statement.value
        admission.check_owner(caller, manifest.owner, f"{manifest.expert}@{manifest.version}")
        head = await self._store.head(manifest.expert)
        if head is not None and head.manifest == statement.digest:
            return ""
        async with self._in_flight.of_announced(statement):
            await self.admit(manifest)
            with self._journal.expecting(statement.digest, self._unshown(manifest)):
                async with self.within_limits(caller, statement):
                    moved = await self._store.restore_head(manifest, statement.digest, envelope, fence)
                if moved:
                    reached("registry.announce.restored")
                    await self._journal.note_commit(statement.digest, envelope)
                    reached("registry.announce.journaled")
        return f"{manifest.expert}@{manifest.version}" if moved else ""

    async def _check_known(self, owner: NodeId, target: str) -> None:
        """Raise NotFoundError for a target of which nobody here ever heard.

        A registry that lost all has not heard of what its owners bring: of an owner's own, as many as it may
        have experts may be withdrawn before they come.
        """
        await self._catalogue.refresh()
        if self._catalogue.is_withdrawn(target) or self._catalogue.has_version_of(target):
            return
        if self._journal.knows(target):
            return
        if target == owner:
            if await self._store.record(owner) is not None:
                return
            found, expected = "no member of that name", "a member of the swarm, or an expert's id, as ada.e1"
        else:
            limit = (await self._statements.specification()).max_experts_per_owner
            if self._catalogue.withdrawn_unseen(owner) < limit:
                return
            found = f"no version of it, and {limit} withdrawn so already"
            expected = "an expert that was published"
        raise NotFoundError(
            f"withdrawal of {target[:80]}",
            found=found,
            expected=expected,
            remedy="list what there is: swarm experts",
        )

    def _unshown(self, manifest: Manifest) -> frozenset[Digest]:
        return self._rights.unshown(manifest.owner, manifest.blobs())

    async def _check_leaf_limit(self, manifest: Manifest) -> None:
        limit = (await self._statements.specification()).max_experts_per_owner
        others = [head for head in await self._store.heads(manifest.owner) if head.expert != manifest.expert]
        if len(others) >= limit:
            raise TooManyExpertsError(
                f"experts of {manifest.owner}",
                found=f"{len(others)} and one more",
                expected=f"at most {limit}",
                remedy="withdraw some that no gate has: swarm expert remove EXPERT",
            )
