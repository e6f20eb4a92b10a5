"""A registry that lost its store or its blobs gets them back from its journal and from their owners.

`begin` puts back what the journal has and asks everybody, by an event, to bring what they keep; `bring_back`
takes it; `report` says what there is and what is missing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Protocol

import structlog

from swarm.audit import RefusalLog
from swarm.domain.errors import (
    InvalidInputError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.domain.rebuild import BroughtBack, MissingPiece, OwnerCame, RebuildReport
from swarm.registry import admission
from swarm.registry.blob_rights import BlobRights
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.reconciling import Opened, Reconciled, Reconciler
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement

MAX_BROUGHT: Final = 1000
"""So many versions may be offered at once."""

REBUILD_EVENT: Final = "registry.rebuild"
"""The event that asks coordinator and nodes to bring what they keep."""

_MOST_MISSING: Final = 10_000
_log = structlog.get_logger(__name__)


class Admitted(Protocol):
    """Checks that a manifest may be a head: it fits the swarm, its blobs are here, its weights are sound."""

    def __call__(self, manifest: Manifest, /) -> Awaitable[None]: ...


class WithinLimits(Protocol):
    """Holds the place of a version that is about to be stored, where its owner has room for it."""

    def __call__(
        self, caller: Caller, statement: Statement[Manifest], /
    ) -> AbstractAsyncContextManager[None]: ...


class Rebuilding:
    """Takes back what was lost. `needed` gives the blobs that must be here, with why."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        blobs: BlobStore,
        catalogue: Catalogue,
        rights: BlobRights,
        journal: CommitJournal,
        reconciler: Reconciler,
        opened: Opened,
        admitted: Admitted,
        within_limits: WithinLimits,
        needed: Callable[[], Awaitable[dict[Digest, str]]],
        keep_versions: int,
        audit: RefusalLog,
    ) -> None:
        self._store, self._blobs, self._catalogue, self._journal = store, blobs, catalogue, journal
        self._rights = rights
        self._reconciler, self._opened, self._admitted = reconciler, opened, admitted
        self._within_limits = within_limits
        self._needed, self._keep_versions, self._audit = needed, keep_versions, audit
        self._came: dict[NodeId, OwnerCame] = {}
        self._reconciled = Reconciled()

    async def begin(self) -> None:
        """Put back what the journal has, and ask everybody for the rest."""
        self._came = {}
        self._reconciled = await self._reconciler.reconcile(audit=True)
        await self._store.append_event(REBUILD_EVENT, {}, time.time())
        _log.warning("registry.rebuild", from_journal=len(self._reconciled.put_back))

    async def bring_back(self, caller: Caller, envelopes: Sequence[bytes], fence: int) -> BroughtBack:
        """Take back what its owner kept of the versions that this registry had accepted, oldest first.

        The newest of each expert becomes its head once its blobs are here and its owner may name them; older
        ones are history, and give and allow no blob that their owner has not sent. Raises
        StaleFenceError, and NotReadyError before the coordinator has put back what is the swarm's.
        """
        if len(envelopes) > MAX_BROUGHT:
            raise InvalidInputError(
                "versions brought back", found=str(len(envelopes)), expected=f"at most {MAX_BROUGHT}"
            )
        if await self._store.specification() is None:
            raise NotReadyError(
                "specification",
                found="none in the store yet",
                remedy="start the coordinator: swarm coordinator",
            )
        held = None if caller.role == "coordinator" else fence
        statements, refused = await self._verified(caller, envelopes)
        kept = self._kept(statements)
        lacking = set(
            await asyncio.to_thread(
                self._blobs.missing,
                [blob for each in statements if each.digest in kept for blob in each.value.blobs()],
            )
        )
        for owner in {each.value.owner for each in statements}:
            theirs = [each.value for each in statements if each.digest in kept and each.value.owner == owner]
            lacking |= await self._rights.unnameable(owner, {b for made in theirs for b in made.blobs()})
        newest = {each.value.expert: each.digest for each in statements}
        restored: list[str] = []
        missing: dict[Digest, None] = {}
        stones = await self._store.tombstones()
        for each in statements:
            made = each.value
            is_gone = made.expert in stones or made.owner in stones
            is_wanted = each.digest in kept and not is_gone
            absent = [blob for blob in made.blobs() if blob in lacking] if is_wanted else []
            missing |= dict.fromkeys(absent)
            as_head = newest[made.expert] == each.digest and not is_gone
            if as_head and absent:
                continue
            try:
                if as_head:
                    await self._admitted(made)
                with self._journal.expecting(each.digest, self._rights.unshown(made.owner, made.blobs())):
                    async with self._within_limits(caller, each) if as_head else nullcontext():
                        is_new = await self._store.put_back(
                            made, each.digest, each.envelope, as_head=as_head, fence=held
                        )
                    if is_new:
                        restored.append(f"{made.expert}@{made.version}")
                    await self._journal.note_commit(each.digest, each.envelope)
            except (StaleFenceError, UnreachableError):
                raise
            except SwarmError as error:
                refused.append(self._refused(caller, error))
        self._note(caller.id, len(statements), len(restored), refused)
        return BroughtBack(restored=tuple(restored), refused=tuple(refused), missing_blobs=tuple(missing))

    async def report(self) -> RebuildReport:
        """Say what there is, who has come since `begin`, and what is missing."""
        await self._catalogue.refresh()
        heads = await self._store.heads()
        count, _ = await asyncio.to_thread(self._blobs.stats)
        return RebuildReport(
            heads=len(heads),
            manifests=self._catalogue.count,
            blobs=count,
            from_journal=self._reconciled.put_back,
            conflicts=self._reconciled.conflicts,
            came=tuple(self._came[owner] for owner in sorted(self._came)),
            missing=tuple([*self._lost_manifests(), *await self._lost_blobs()][:_MOST_MISSING]),
        )

    async def _verified(
        self, caller: Caller, envelopes: Sequence[bytes]
    ) -> tuple[list[Statement[Manifest]], list[str]]:
        statements: list[Statement[Manifest]] = []
        refused: list[str] = []
        for envelope in envelopes:
            try:
                statement: Statement[Manifest] = await self._opened(envelope, Manifest)
                made = statement.value
                admission.check_owner(caller, made.owner, f"{made.expert}@{made.version}")
                if caller.role == "coordinator":
                    admission.check_committer(caller, made)
            except UnreachableError:
                raise
            except SwarmError as error:
                refused.append(self._refused(caller, error))
                continue
            statements.append(statement)
        return sorted(statements, key=lambda each: (each.value.expert, each.value.version)), refused

    def _refused(self, caller: Caller, error: SwarmError) -> str:
        self._audit.refused("/swarm.v1.Registry/BringBack", f"{caller.role}/{caller.id}", error)
        return str(error)

    def _kept(self, statements: Sequence[Statement[Manifest]]) -> set[Digest]:
        """Return the versions whose weights are wanted: the newest of each expert."""
        by_expert: dict[ExpertId, list[Digest]] = defaultdict(list)
        for each in statements:
            by_expert[each.value.expert].append(each.digest)
        return {digest for versions in by_expert.values() for digest in versions[-self._keep_versions :]}

    def _note(self, owner: NodeId, offered: int, restored: int, refused: list[str]) -> None:
        before = self._came.get(owner)
        self._came[owner] = OwnerCame(
            owner=owner,
            offered=offered,
            restored=restored + (before.restored if before else 0),
            refused=tuple(refused),
        )
        _log.info(
            "registry.brought_back", owner=owner, offered=offered, restored=restored, refused=len(refused)
        )

    def _lost_manifests(self) -> list[MissingPiece]:
        """Return the versions below a known one that nobody has brought."""
        known: dict[tuple[NodeId, ExpertId], set[int]] = defaultdict(set)
        for made in self._catalogue.manifests.values():
            known[made.owner, made.expert].add(made.version)
        return [
            MissingPiece(owner=owner, version=f"{expert}@{version}", what="manifest")
            for (owner, expert), versions in sorted(known.items())
            for version in sorted(set(range(1, max(versions))) - versions)
        ]

    async def _lost_blobs(self) -> list[MissingPiece]:
        needed = await self._needed()
        missing = await asyncio.to_thread(self._blobs.missing, sorted(needed))
        users = {
            blob: (made.owner, f"{made.expert}@{made.version}")
            for made in self._catalogue.manifests.values()
            for blob in made.blobs()
        }
        found = []
        for blob in missing:
            owner, version = users.get(blob, (NodeId("coordinator"), needed[blob]))
            found.append(MissingPiece(owner=owner, version=version, what=f"blob {blob}"))
        return sorted(found, key=lambda each: (each.owner, each.version, each.what))
