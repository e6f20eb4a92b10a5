"""Bring the store and the journal of commits to the same: what Redis lost comes back, nothing goes back.

Withdrawals come first, so that nothing withdrawn becomes a head again. What the store has and the journal
lacks is recorded: a crash between both left it, or the journal is new.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from swarm.domain.errors import ConflictError, SwarmError, UnreachableError
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.registry.commit_journal import CommitJournal, Entry
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement

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
        self._displaced: dict[ExpertId, int] = {}

    def is_behind(self, expert: ExpertId, version: int) -> bool:
        """Say whether a store whose head of an expert is `version` has lost an acknowledged one."""
        return self._journal.version_of(expert) > max(version, self._displaced.get(expert, 0))

    async def keep(self) -> None:
        """Look every few seconds, until cancelled, whether the store has lost something."""
        while True:
            try:
                await self.look()
            except (SwarmError, OSError) as error:
                _log.warning("journal.not_compared", reason=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> Reconciled:
        """Reconcile unless nothing hints at a loss since the last time."""
        rows = await self._store.manifests(max(0, self._rows - 1))
        stones = len(await self._store.tombstones())
        if self._rows >= 0 and (rows[:1], stones) == (self._newest_row, self._stones):
            if len(rows) > 1:  # it only grew, by commits that are recorded by whoever made them
                self._rows, self._newest_row = self._rows + len(rows) - 1, rows[-1:]
            return Reconciled()
        return await self.reconcile()

    async def reconcile(self) -> Reconciled:
        """Bring both to the same. Does nothing where the store has no specification: the coordinator puts
        back members first and the specification last."""
        async with self._at_work:
            if await self._store.specification() is None:
                return Reconciled()
            withdrawn = await self._put_back_withdrawals()
            put_back, conflicts = await self._put_back_manifests()
            await self._record_what_is_new()
            held = await self._store.manifests()
            self._rows, self._newest_row = len(held), held[-1:]
            self._stones = len(await self._store.tombstones())
        if put_back or withdrawn or conflicts:
            _log.warning(
                "store.had_lost", put_back=put_back[:20], versions=len(put_back), withdrawn=withdrawn,
                conflicts=conflicts,
            )  # fmt: skip
        return Reconciled(put_back=tuple(put_back), withdrawn=tuple(withdrawn), conflicts=tuple(conflicts))

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

    async def _put_back_manifests(self) -> tuple[list[str], list[str]]:
        held, done, conflicts = set(await self._store.manifests()), [], []
        heads = {head.expert: head.version for head in await self._store.heads()}
        behind = {
            expert for expert in self._journal.experts() if self.is_behind(expert, heads.get(expert, 0))
        }
        if self._journal.commits <= held and not behind:
            return [], []
        for entry in self._journal.entries():
            if entry.kind != "commit" or (entry.name in held and not behind):
                continue
            made = await self._verified(entry, Manifest)
            if made is None or (entry.name in held and made.value.expert not in behind):
                continue
            name = f"{made.value.expert}@{made.value.version}"
            newest = self._journal.version_of(made.value.expert)
            try:
                if await self._store.put_back(
                    made.value, made.digest, entry.envelope, as_head=made.value.version == newest
                ):
                    done.append(name)
            except ConflictError as error:
                _log.error("store.displaced", version=name, reason=str(error))
                self._displaced[made.value.expert] = max(
                    made.value.version, self._displaced.get(made.value.expert, 0)
                )
                conflicts.append(str(error))
        return done, conflicts

    async def _record_what_is_new(self) -> None:
        for digest in await self._store.manifests():
            if not self._journal.has(digest):
                envelope = await self._store.manifest(digest)
                if envelope is not None:
                    await self._journal.note_commit(digest, envelope)

    async def _verified(self, entry: Entry, cls: type[Any]) -> Statement[Any] | None:
        try:
            return await self._opened(entry.envelope, cls)
        except UnreachableError:
            raise
        except SwarmError as error:
            _log.error("journal.refused", entry=entry.name, reason=str(error))
            return None
