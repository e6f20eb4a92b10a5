"""Bring the store and the journal of commits to the same: what Redis lost comes back, nothing goes back.

Withdrawals come first, so that nothing withdrawn becomes a head again. What the store has and the journal
lacks is recorded, where its owner signed it: a crash between both left it, or the journal is new.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Head
from swarm.registry.commit_journal import CommitJournal, Entry
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement, read_statement

Opened = Callable[[bytes, type[Any]], Awaitable[Statement[Any]]]
LOOK_EVERY_S = 2.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What was done: versions and withdrawals put back, and versions that another one displaced."""

    put_back: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()


class Reconciler:
    """Compares the store with the journal. `opened` verifies a statement and its signer."""

    def __init__(self, store: MetadataStore, journal: CommitJournal, opened: Opened) -> None:
        self._store, self._journal, self._opened = store, journal, opened
        self._at_work = asyncio.Lock()
        self._newest_row: list[Digest] = []
        self._rows = -1
        self._stones = -1
        self._is_audited = False
        self._displaced: dict[ExpertId, int] = {}
        self._left_out: set[str] = set()
        self._not_recorded: set[Digest] = set()
        self._lost = 0
        self._done: list[str] = []
        self._conflicts: tuple[str, ...] = ()

    @property
    def done(self) -> list[str]:
        """The versions that were put back since this process began, in that order."""
        return self._done

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The versions that another one displaced, as of the last audit."""
        return self._conflicts

    @property
    def lost(self) -> int:
        """How many acknowledged versions and withdrawals the store lacked at the last look, while it had no
        specification: nothing can be put back before it has one."""
        return self._lost

    def is_left_out(self, name: str) -> bool:
        """Say whether what is recorded under this name was not put back: its signer may not sign any more, or
        the store has another manifest of this version."""
        return name in self._left_out

    def is_behind(self, expert: ExpertId, version: int) -> bool:
        """Say whether a store whose head of an expert is `version` has lost an acknowledged one."""
        return self._journal.version_of(expert) > max(version, self._displaced.get(expert, 0))

    async def bring_forward(self) -> None:
        """Put back what the store seems to have lost since the last look, before it is read or added to.

        NotReadyError while that cannot be: the store then says nothing about what there is.
        """
        if self._lost or not await self._only_grew():
            await self.reconcile()
        self.check_whole()

    def check_whole(self) -> None:
        """Raise NotReadyError while the store is known to lack what was acknowledged."""
        if self._lost:
            raise NotReadyError(
                "metadata of the registry",
                found=f"{self._lost} acknowledged versions and withdrawals lost, and no specification",
                expected="the store that had them",
                remedy="start the coordinator: swarm coordinator; once it brought the specification, the"
                " registry puts them back from its journal. Another Redis than before? See --redis-url",
            )

    async def keep(self) -> None:
        """Look every few seconds, until cancelled, whether the store has lost something."""
        while True:
            try:
                await self.look()
            except (SwarmError, OSError) as error:
                self._is_audited = False  # Redis may come back with less, or with other bytes
                _log.warning("journal.not_compared", reason=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> Reconciled:
        """Reconcile unless nothing hints at a loss since the last time."""
        stones = await self._store.tombstones()
        is_whole = len(stones) == self._stones and self._journal.withdrawn - self._left_out <= stones.keys()
        if self._is_audited and is_whole and await self._only_grew():
            return Reconciled()
        return await self.reconcile()

    async def reconcile(self, *, audit: bool = False) -> Reconciled:
        """Bring both to the same; `audit`: after reading every acknowledged version, as the first time does.

        Does nothing where the store has no specification: the coordinator puts back members first and the
        specification last.
        """
        async with self._at_work:
            if await self._store.specification() is None:
                self._note_lost(await self._count_lost())
                return Reconciled()
            audit = audit or not self._is_audited
            withdrawn = await self._put_back_withdrawals()
            put_back, conflicts = await self._put_back_manifests(audit)
            await self._record_what_is_new()
            held = await self._store.manifests()
            self._rows, self._newest_row = len(held), held[-1:]
            self._stones = len(await self._store.tombstones())
            self._is_audited, self._lost = True, 0
            self._done += put_back
            if audit:
                self._conflicts = tuple(conflicts)
        if put_back or withdrawn or conflicts:
            _log.warning(
                "store.had_lost", put_back=put_back[:20], versions=len(put_back), withdrawn=withdrawn,
                conflicts=conflicts,
            )  # fmt: skip
        return Reconciled(put_back=tuple(put_back), withdrawn=tuple(withdrawn), conflicts=tuple(conflicts))

    async def _only_grew(self) -> bool:
        """Say whether the store's list of manifests is that of the last look, and what came since."""
        known, recorded = self._rows, self._journal.count
        rows = await self._store.manifests(max(0, known - 1))
        left_out = sum(self._journal.has(Digest(name)) for name in self._left_out)
        if rows[:1] != self._newest_row or max(0, known - 1) + len(rows) < recorded - left_out:
            return False
        if len(rows) > 1 and self._rows == known:  # by commits that are recorded by whoever made them
            self._rows, self._newest_row = known + len(rows) - 1, rows[-1:]
        return True

    def _note_lost(self, count: int) -> None:
        if count and not self._lost:
            _log.warning("store.lacks", acknowledged=count, remedy="start the coordinator: swarm coordinator")
        self._lost = count

    async def _count_lost(self) -> int:
        commits = self._journal.commits - set(await self._store.manifests())
        return len(commits) + len(self._journal.withdrawn - (await self._store.tombstones()).keys())

    async def _put_back_withdrawals(self) -> list[str]:
        in_store, done = await self._store.tombstones(), []
        if self._journal.withdrawn - in_store.keys():
            for entry in self._journal.entries():
                if entry.kind == "withdraw" and entry.name not in in_store:
                    stone = await self._verified(entry, Tombstone)
                    if stone is not None and stone.value.id == entry.name:
                        await self._store.withdraw(entry.name, entry.envelope, None, "")
                        done.append(entry.name)
        for target in in_store.keys() - self._journal.withdrawn:
            await self._journal.note_withdrawal(target, in_store[target])
        return done

    async def _put_back_manifests(self, audit: bool) -> tuple[list[str], list[str]]:
        held, done, conflicts = set(await self._store.manifests()), list[str](), list[str]()
        heads = {head.expert: head for head in await self._store.heads()}
        behind = {
            expert
            for expert in self._journal.experts()
            if expert not in heads or self.is_behind(expert, heads[expert].version)
        }
        if not audit and self._journal.commits <= held and not behind:
            return done, conflicts
        for entry in self._journal.entries():
            if entry.kind != "commit" or (entry.name in held and not behind and not audit):
                continue
            made = await self._verified(entry, Manifest)
            if made is None or (entry.name in held and made.value.expert not in behind and not audit):
                continue
            if made.digest != entry.name:  # a damaged line
                self._left_out.add(entry.name)
            conflict = await self._put_back(made, heads.get(made.value.expert), held, done)
            if conflict:
                conflicts.append(conflict)
        return done, conflicts

    async def _put_back(
        self, made: Statement[Manifest], head: Head | None, held: set[Digest], done: list[str]
    ) -> str:
        """Put one acknowledged version back where it is lost or damaged; return a conflict in words."""
        manifest, digest = made.value, made.digest
        name = f"{manifest.expert}@{manifest.version}"
        is_newest = manifest.version == self._journal.version_of(manifest.expert)
        at_version = await self._store.manifest_at(manifest.expert, manifest.version)
        if at_version not in (None, digest) and await self._is_whole(
            at_version, manifest.expert, manifest.version
        ):
            _log.error("store.displaced", version=name, by=at_version)
            self._left_out.add(digest)
            self._displaced[manifest.expert] = max(manifest.version, self._displaced.get(manifest.expert, 0))
            return f"{name}: acknowledged as {digest[:12]}, but the store has {at_version[:12]}"
        is_right = at_version == digest and digest in held
        is_right = is_right and await self._is_whole(digest, manifest.expert, manifest.version)
        if is_newest and is_right:
            is_right = head is not None and (head.manifest == digest or head.version > manifest.version)
            if is_right and head is not None:
                is_right = await self._is_whole(head.manifest, manifest.expert, head.version)
        if not is_right:
            await self._store.put_back(manifest, digest, made.envelope, as_head=is_newest, mend=True)
            done.append(name)
        return ""

    async def _is_whole(self, digest: Digest, expert: ExpertId, version: int) -> bool:
        """Say whether the store has a readable manifest of this digest, of this expert's version."""
        envelope = await self._store.manifest(digest)
        try:
            found = read_statement(envelope or b"", Manifest)
        except SwarmError:
            return False
        return found.digest == digest and (found.value.expert, found.value.version) == (expert, version)

    async def _record_what_is_new(self) -> None:
        for digest in await self._store.manifests():
            if not self._journal.has(digest):
                envelope = await self._store.manifest(digest)
                if envelope is not None and await self._is_of_its_owner(digest, envelope):
                    await self._journal.note_commit(digest, envelope)

    async def _is_of_its_owner(self, digest: Digest, envelope: bytes) -> bool:
        """Say whether a manifest is signed as one must be: who can write the store, or another swarm in it,
        does not make the journal say what was never acknowledged."""
        try:
            reason = "" if (await self._opened(envelope, Manifest)).digest == digest else "another digest"
        except UnreachableError:
            raise
        except SwarmError as error:
            reason = str(error)
        if reason and digest not in self._not_recorded:
            self._not_recorded.add(digest)
            _log.error("store.not_recorded", manifest=digest, reason=reason)
        return not reason

    async def _verified(self, entry: Entry, cls: type[Any]) -> Statement[Any] | None:
        try:
            statement = await self._opened(entry.envelope, cls)
        except UnreachableError:
            raise
        except SwarmError as error:
            self._left_out.add(entry.name)
            _log.error("journal.refused", entry=entry.name, reason=str(error))
            return None
        self._left_out.discard(entry.name)
        return statement
