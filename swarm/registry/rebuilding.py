"""A registry that lost its store or its blobs gets them back from its journal and from their owners.

`begin` puts back what the journal has and asks everybody, by an event, to bring what they keep; `bring_back`
takes it; `report` says what there is and what is missing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import structlog

from swarm.audit import RefusalLog
from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    StaleFenceError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller, Head
from swarm.domain.rebuild import BroughtBack, OwnerCame, RebuildReport
from swarm.domain.specification import Specification
from swarm.fault_points import reached
from swarm.registry import admission
from swarm.registry.blob_rights import BlobRights
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.commit_journal import CommitJournal, Filled
from swarm.registry.commits_in_flight import CommitsInFlight
from swarm.registry.missing_pieces import MissingPieces
from swarm.registry.reconciling import Reconciler
from swarm.registry.statements import StatementReader
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement

MAX_BROUGHT: Final = 1000
"""So many versions may be offered at once."""

REBUILD_EVENT: Final = "registry.rebuild"
"""The event that asks coordinator and nodes to bring what they keep."""

MOST_HISTORY: Final = 10_000
MOST_HISTORY_BYTES: Final = 64 << 20
"""So many manifests, and bytes of them, an owner may have with history that the journal does not know."""

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
    """Takes back what was lost."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        blobs: BlobStore,
        catalogue: Catalogue,
        rights: BlobRights,
        journal: CommitJournal,
        reconciler: Reconciler,
        statements: StatementReader,
        in_flight: CommitsInFlight,
        admitted: Admitted,
        within_limits: WithinLimits,
        missing: MissingPieces,
        keep_versions: int,
        audit: RefusalLog,
    ) -> None:
        self._store, self._blobs, self._catalogue, self._journal = store, blobs, catalogue, journal
        self._rights = rights
        self._reconciler, self._statements, self._in_flight = reconciler, statements, in_flight
        self._admitted, self._within_limits = admitted, within_limits
        self._missing, self._keep_versions, self._audit = missing, keep_versions, audit
        self._came: dict[NodeId, OwnerCame] = {}
        self._awaited: dict[NodeId, dict[Digest, str]] = {}
        self._waiting: dict[NodeId, dict[Digest, Manifest]] = {}
        self._shown_from = self._seen = 0
        self._adding_history = asyncio.Lock()

    async def begin(self) -> None:
        """Put back what the journal has, and ask everybody for the rest."""
        self._came = {}
        self._shown_from = self._seen
        await self._reconciler.reconcile(audit=True)
        await self._store.append_event(REBUILD_EVENT, {}, time.time())
        _log.warning("registry.rebuild", from_journal=len(self._reconciler.done))

    async def bring_back(self, caller: Caller, envelopes: Sequence[bytes], fence: int) -> BroughtBack:
        """Take back what its owner kept of the versions that this registry had accepted.

        The newest of each expert becomes its head once its blobs are here and its owner may name them; older
        ones are history, below a head alone, and give and allow no blob that their owner has not sent.
        Raises StaleFenceError, and NotReadyError before the coordinator has put back what is the swarm's.
        """
        if len(envelopes) > MAX_BROUGHT:
            raise InvalidInputError(
                "versions brought back", found=str(len(envelopes)), expected=f"at most {MAX_BROUGHT}"
            )
        await self._reconciler.bring_forward()
        specifications = await self._statements.specifications()
        statements, refused = await self._verified(caller, envelopes)
        by_expert: dict[ExpertId, list[Statement[Manifest]]] = defaultdict(list)
        for each in statements:
            by_expert[each.value.expert].append(each)
        taking = _Taking(caller, None if caller.role == "coordinator" else fence, specifications)
        stones = await self._store.tombstones()
        for versions in by_expert.values():
            is_gone = versions[0].value.expert in stones or versions[0].value.owner in stones
            await self._take_back(versions[::-1], taking, is_gone=is_gone)
        refused += [self._refused(caller, error) for error in taking.refused]
        self._note(caller.id, statements, taking, refused)
        return BroughtBack(
            restored=tuple(taking.restored[::-1]), refused=tuple(refused), missing_blobs=tuple(taking.missing)
        )

    async def _take_back(
        self, versions: Sequence[Statement[Manifest]], taking: "_Taking", *, is_gone: bool
    ) -> None:
        """Take back versions of one expert, the newest first; `is_gone`: it was withdrawn."""
        waits = lacks = False  # for the newest to become the head; for its blobs
        for row, each in enumerate(versions):
            made = each.value
            head = await self._store.head(made.expert)
            may_be_head = row == 0 and not is_gone and (head is None or head.version <= made.version)
            is_recent = head is None or made.version > head.version - self._keep_versions
            is_wanted = not is_gone and (not self._keep_versions or (row < self._keep_versions and is_recent))
            try:
                async with self._in_flight.of_announced(each):
                    absent = await self._absent(made) if is_wanted else []
                    taking.looked_for.update(made.blobs() if is_wanted else ())
                    taking.missing = dict.fromkeys(absent, f"{made.expert}@{made.version}") | taking.missing
                    if may_be_head and absent:
                        waits = lacks = True
                    if waits and (head is None or head.version <= made.version):
                        taking.waiting |= {each.digest: made} if lacks else {}
                        continue
                    if may_be_head:
                        await self._admitted(made)
                        async with self._within_limits(taking.caller, each):
                            is_new = await self._put_back(each, taking, as_head=True)
                    else:
                        async with self._adding_history:
                            await self._check_history(each, taking, head, is_gone=is_gone)
                            is_new = await self._put_back(each, taking, as_head=False)
            except (StaleFenceError, UnreachableError):
                raise
            except SwarmError as error:
                taking.refused.append(error)
                waits |= may_be_head
                continue
            if is_new:
                taking.restored.append(f"{made.expert}@{made.version}")

    async def _put_back(self, each: Statement[Manifest], taking: "_Taking", *, as_head: bool) -> bool:
        unshown = self._rights.unshown(each.value.owner, each.value.blobs())
        with self._journal.expecting(each.digest, unshown):
            is_new = await self._store.put_back(
                each.value, each.digest, each.envelope, as_head=as_head, fence=taking.fence
            )
            reached("registry.bring_back.stored")
            await self._journal.note_commit(each.digest, each.envelope)
            reached("registry.bring_back.journaled")
        return is_new

    async def _absent(self, made: Manifest) -> list[Digest]:
        """Return the blobs of a version that are not here, or that its owner may not name."""
        foreign = await self._rights.unnameable(made.owner, made.blobs())
        lacking = foreign.union(await asyncio.to_thread(self._blobs.missing, made.blobs()))
        return [blob for blob in made.blobs() if blob in lacking]

    async def _check_history(
        self, each: Statement[Manifest], taking: "_Taking", head: Head | None, *, is_gone: bool
    ) -> None:
        """Raise unless an older version may be filled in: what was acknowledged may; what nobody here knows
        fits the swarm, lies below a head, and its owner has not filled the history."""
        made = each.value
        if self._journal.has(each.digest):
            return
        admission.check_fitted(made, taking.specifications)
        name, filled = f"{made.expert}@{made.version}", self._journal.filled_by(made.owner)
        if not is_gone and (head is None or head.version <= made.version):
            raise ConflictError(
                name,
                found=f"version {head.version} as the head" if head else "no head",
                expected="a newer version as the head",
                remedy="bring the newest version back first, with its weights",
            )
        more = Filled(manifests=filled.manifests + 1, size_bytes=filled.size_bytes + len(each.envelope))
        if more.manifests > MOST_HISTORY or more.size_bytes > MOST_HISTORY_BYTES:
            raise ExhaustedError(
                name,
                found=f"{filled.manifests} manifests of {made.owner} here, {filled.size_bytes} bytes",
                expected=f"at most {MOST_HISTORY}, of {MOST_HISTORY_BYTES} bytes, with what is brought back",
                remedy="older history is not taken back; heads are",
            )

    async def report(self) -> RebuildReport:
        """Say what there is, who has come since `begin`, and what is missing."""
        await self._catalogue.refresh()
        heads = await self._store.heads()
        count, _ = await asyncio.to_thread(self._blobs.stats)
        done = self._reconciler.done
        self._seen = len(done)
        return RebuildReport(
            heads=len(heads),
            manifests=self._catalogue.count,
            blobs=count,
            from_journal=tuple(done[self._shown_from :]),
            conflicts=self._reconciler.conflicts,
            came=tuple(self._came[owner] for owner in sorted(self._came)),
            missing=await self._missing.listed(self._awaited, self._waiting),
            journal_damaged=self._journal.damaged,
        )

    async def _verified(
        self, caller: Caller, envelopes: Sequence[bytes]
    ) -> tuple[list[Statement[Manifest]], list[str]]:
        statements: list[Statement[Manifest]] = []
        refused: list[str] = []
        for envelope in envelopes:
            await asyncio.sleep(0)  # others' calls go on between two of them
            try:
                admission.check_size(envelope)
                statement: Statement[Manifest] = await self._statements.opened(envelope, Manifest)
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

    def _note(
        self, owner: NodeId, offered: Sequence[Statement[Manifest]], taking: "_Taking", refused: list[str]
    ) -> None:
        before = self._came.get(owner, OwnerCame(owner=owner, offered=0, restored=0))
        arrived = (self._awaited.get(owner, {}).keys() & taking.looked_for) - taking.missing.keys()
        self._awaited[owner] = {
            blob: version
            for blob, version in (self._awaited.get(owner, {}) | taking.missing).items()
            if blob not in arrived
        }
        seen = {each.digest for each in offered}
        waiting = self._waiting.get(owner, {})
        self._waiting[owner] = {each: waiting[each] for each in waiting if each not in seen} | taking.waiting
        self._came[owner] = OwnerCame(
            owner=owner,
            offered=len(offered),
            restored=len(taking.restored) + before.restored,
            blobs=len(arrived) + before.blobs,
            refused=tuple(refused),
        )
        _log.info(
            "registry.brought_back",
            owner=owner,
            offered=len(offered),
            restored=len(taking.restored),
            refused=len(refused),
            blobs=len(arrived),
        )


class _Taking:
    """One call's versions on their way in: from whom, and what became of them."""

    def __init__(self, caller: Caller, fence: int | None, specifications: Sequence[Specification]) -> None:
        self.caller, self.fence, self.specifications = caller, fence, specifications
        self.restored: list[str] = []
        self.refused: list[SwarmError] = []
        self.looked_for: set[Digest] = set()
        self.missing: dict[Digest, str] = {}
        self.waiting: dict[Digest, Manifest] = {}
        """Manifests that are taken once the blobs of their expert's newest one have come."""
