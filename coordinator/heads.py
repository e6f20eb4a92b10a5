"""The experts' newest versions, as routing needs them: in memory and files, fresh by the store's events.

Besides them the versions that gates pin, each under its digest, for as long as its expert is not withdrawn.
"""

import asyncio

import structlog

from coordinator.envelope_files import EnvelopeFiles
from coordinator.members import Members
from swarm.answering.head_changes import HeadChanges
from swarm.answering.known_head import KnownHead
from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import Digest, ExpertId, NodeId, owner_of
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Event
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement, read_statement

log = structlog.get_logger()


class Heads:
    """Versions move forward only. An expert goes by a tombstone, never because the store forgot it."""

    def __init__(
        self, store: MetadataStore, members: Members, files: EnvelopeFiles, tombstones: EnvelopeFiles
    ) -> None:
        self._store, self._members, self._files, self._tombstone_files = store, members, files, tombstones
        self._known: dict[ExpertId, KnownHead] = {}
        self._pinned: dict[Digest, KnownHead] = {}
        self._missed: set[Digest] = set()
        self._tombstones = frozenset(tombstones.names())
        self._refused_stones: dict[str, bytes] = {}
        self._changes = HeadChanges()

    async def load(self) -> None:
        """Take over what was kept in files; what does not verify is left out and named in the log."""
        for name in self._files.names():
            envelope = self._files.get(name)
            if envelope is None:
                continue
            if "." in name:  # of an expert's id; a digest has none
                await self._verified(envelope, f"file of {name}")
            else:
                await self._take_pin(envelope, Digest(name))

    @property
    def changes(self) -> HeadChanges:
        """Whose version that answers has changed."""
        return self._changes

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        """Return the version that answers for a leaf: the pinned one, else its expert's newest.

        None where there is none, where it was withdrawn, and while a pinned one could not be fetched: what
        was pinned is never replaced by what was trained since. `refresh` and the next event look for it
        again.
        """
        if not leaf.manifest:
            return self.get(leaf.expert)
        digest = Digest(leaf.manifest)
        found = self._pinned.get(digest)
        if found is None:
            self._missed.add(digest)
        return found if found is not None and found.manifest.expert == leaf.expert else None

    async def pin(self, digest: Digest) -> KnownHead | None:
        """Return the version of this digest, from memory or the store, and keep it across restarts.

        None where the store has none, its signature does not verify, or its expert or owner was withdrawn.
        UnreachableError while the store is away and it is not known.
        """
        if digest not in self._pinned:
            envelope = await self._store.manifest(digest)
            if envelope is not None:
                await self._take_pin(envelope, digest)
        return self._pinned.get(digest)

    def get(self, expert: ExpertId) -> KnownHead | None:
        """Return an expert's newest version, None where there is none or it was withdrawn."""
        return self._known.get(expert)

    def envelope(self, expert: ExpertId) -> bytes | None:
        """Return the signed manifest of an expert's newest version, as it is kept."""
        return self._files.get(expert) if expert in self._known else None

    def is_withdrawn(self, expert: ExpertId) -> bool:
        """Say whether this very expert was withdrawn by a tombstone of its own."""
        return expert in self._tombstones

    @property
    def withdrawn(self) -> frozenset[str]:
        """Every expert and owner that a tombstone names."""
        return self._tombstones

    def manifests(self) -> dict[ExpertId, Manifest]:
        """Return the newest manifests by expert."""
        return {expert: head.manifest for expert, head in dict(self._known).items()}  # called by threads, too

    def has_left(self, owner: NodeId) -> bool:
        """Say whether an owner left, or was revoked: all of its experts were withdrawn by one tombstone."""
        return owner in self._tombstones

    def left(self) -> dict[NodeId, bytes]:
        """Return the tombstones of all that an owner had, by owner. Reads files."""
        stones = {name: self._tombstone_files.get(name) for name in self._tombstones if "." not in name}
        return {NodeId(name): stone for name, stone in sorted(stones.items()) if stone is not None}

    async def refresh(self) -> None:
        """Compare everything with the store."""
        await self._read_tombstones()
        for head in await self._store.heads():
            await self._fetch(head.expert, head.manifest)
        await self._fetch_missed()

    async def refresh_expert(self, expert: ExpertId) -> KnownHead | None:
        """Compare one expert with the store and return its newest version."""
        head = await self._store.head(expert)
        if head is None:
            await self._read_tombstones()
        else:
            await self._fetch(expert, head.manifest)
        return self.get(expert)

    async def committed(self, expert: ExpertId) -> KnownHead | None:
        """Return the head that the registry accepted, None where its owner only said that there is one."""
        head = await self._store.head(expert)
        if head is None:
            return None
        await self._fetch(expert, head.manifest)
        known = self.get(expert)
        return known if known is not None and known.digest == head.manifest else None

    async def on_event(self, event: Event) -> None:
        """Follow an event that names an expert."""
        expert = dict(event.fields).get("expert")
        if expert:
            await self.refresh_expert(ExpertId(expert))
        await self._fetch_missed()

    async def offer(self, envelope: bytes) -> None:
        """Take over a head that its owner says it has, unless ours is newer or it was withdrawn.

        The registry decides on its own; here it only says what may be routed to while the store is away or
        has lost the expert. Where the store has a head, that one counts: its weights were checked.
        """
        try:
            expert = read_statement(envelope, Manifest).value.expert
            head = await self._store.head(expert)
        except UnreachableError:
            head = None
        except SwarmError as error:
            log.warning("manifest.refused", what="announced manifest", reason=str(error))
            return
        if head is not None:
            await self._fetch(expert, head.manifest)
        else:
            await self._verified(envelope, "announced manifest")

    async def _fetch(self, expert: ExpertId, digest: Digest) -> None:
        known = self._known.get(expert)
        if known is not None and known.digest == digest:
            return
        envelope = await self._store.manifest(digest)
        if envelope is not None:
            await self._verified(envelope, f"manifest {digest[:12]} of {expert}")

    async def _fetch_missed(self) -> None:
        for digest in sorted(self._missed):
            await self.pin(digest)

    async def _verified(self, envelope: bytes, what: str) -> None:
        statement = await self._opened(envelope, what)
        if statement is not None:
            await self._take(statement)

    async def _opened(self, envelope: bytes, what: str) -> Statement[Manifest] | None:
        try:
            return await self._members.open(envelope, Manifest)
        except UnreachableError:
            raise
        except SwarmError as error:
            log.warning("manifest.refused", what=what, reason=str(error))
            return None

    async def _take_pin(self, envelope: bytes, digest: Digest) -> None:
        statement = await self._opened(envelope, f"pinned manifest {digest[:12]}")
        if statement is None or self._is_gone(statement.value.expert):
            return
        if statement.digest != digest:
            log.warning("manifest.refused", what=f"pinned manifest {digest[:12]}", reason="another digest")
            return
        self._pinned[digest] = KnownHead(manifest=statement.value, digest=digest)
        self._changes.note(statement.value.expert)
        self._missed.discard(digest)
        await asyncio.to_thread(self._files.put, digest, envelope)

    async def _take(self, statement: Statement[Manifest]) -> None:
        manifest = statement.value
        known = self._known.get(manifest.expert)
        if known is not None and known.manifest.version >= manifest.version:
            return
        if self._is_gone(manifest.expert):
            return
        self._known[manifest.expert] = KnownHead(manifest=manifest, digest=statement.digest)
        self._changes.note(manifest.expert)
        await asyncio.to_thread(self._files.put, manifest.expert, statement.envelope)

    async def _read_tombstones(self) -> None:
        in_store = await self._store.tombstones()
        for target in sorted(self._tombstones - in_store.keys()):
            stone = self._tombstone_files.get(target)
            if stone is not None:
                await self._store.withdraw(target, stone, None, "")
                log.warning("tombstone.put_back", target=target)
        for target in sorted(in_store.keys() - self._tombstones):
            if await self._is_withdrawal(target, in_store[target]):
                await asyncio.to_thread(self._tombstone_files.put, target, in_store[target])
                self._tombstones |= {target}
        for expert in list(self._known):
            if self._is_gone(expert):
                self._known.pop(expert, None)  # another look may have gone first
                self._changes.note(expert)
                await asyncio.to_thread(self._files.remove, expert)
        for digest, head in list(self._pinned.items()):
            if self._is_gone(head.manifest.expert):
                self._pinned.pop(digest, None)
                self._changes.note(head.manifest.expert)
                await asyncio.to_thread(self._files.remove, digest)

    async def _is_withdrawal(self, target: str, envelope: bytes) -> bool:
        """Say whether the owner, or the coordinator, signed this tombstone; another one is logged once."""
        if self._refused_stones.get(target) == envelope:
            return False
        try:
            stone = (await self._members.open(envelope, Tombstone)).value
            reason = "" if stone.id == target else f"it is one for {stone.id}"
        except UnreachableError:
            raise
        except SwarmError as error:
            reason = str(error)
        if reason:
            self._refused_stones[target] = envelope
            log.error("tombstone.refused", target=target[:80], reason=reason)
        return not reason

    def _is_gone(self, expert: ExpertId) -> bool:
        return expert in self._tombstones or owner_of(expert) in self._tombstones
