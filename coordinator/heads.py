"""The experts' newest versions, as routing needs them: in memory and files, fresh by the store's events."""

import asyncio
from dataclasses import dataclass

import structlog

from coordinator.envelope_files import EnvelopeFiles
from coordinator.members import Members
from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.ids import Digest, ExpertId, owner_of
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Event
from swarm.registry.store import MetadataStore
from swarm.trust.statements import Statement, read_statement

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHead:
    """One expert's newest version; the manifest's signature was verified."""

    manifest: Manifest
    digest: Digest

    @property
    def module_digests(self) -> tuple[Digest, ...]:
        return tuple(module.digest for module in self.manifest.modules)


class Heads:
    """Versions move forward only. An expert goes by a tombstone, never because the store forgot it."""

    def __init__(
        self, store: MetadataStore, members: Members, files: EnvelopeFiles, tombstones: EnvelopeFiles
    ) -> None:
        self._store, self._members, self._files, self._tombstone_files = store, members, files, tombstones
        self._known: dict[ExpertId, KnownHead] = {}
        self._tombstones = frozenset(tombstones.names())

    async def load(self) -> None:
        """Take over what was kept in files; what does not verify is left out and named in the log."""
        for name in self._files.names():
            envelope = self._files.get(name)
            if envelope is not None:
                await self._verified(envelope, f"file of {name}")

    def get(self, expert: ExpertId) -> KnownHead | None:
        """Return an expert's newest version, None where there is none or it was withdrawn."""
        return self._known.get(expert)

    def is_withdrawn(self, expert: ExpertId) -> bool:
        """Say whether this very expert was withdrawn by a tombstone of its own."""
        return expert in self._tombstones

    def manifests(self) -> dict[ExpertId, Manifest]:
        """Return the newest manifests by expert."""
        return {expert: head.manifest for expert, head in dict(self._known).items()}  # called by threads, too

    async def refresh(self) -> None:
        """Compare everything with the store."""
        await self._read_tombstones()
        for head in await self._store.heads():
            await self._fetch(head.expert, head.manifest)

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

    async def _verified(self, envelope: bytes, what: str) -> None:
        try:
            statement = await self._members.open(envelope, Manifest)
        except UnreachableError:
            raise
        except SwarmError as error:
            log.warning("manifest.refused", what=what, reason=str(error))
            return
        await self._take(statement)

    async def _take(self, statement: Statement[Manifest]) -> None:
        manifest = statement.value
        known = self._known.get(manifest.expert)
        if known is not None and known.manifest.version >= manifest.version:
            return
        if manifest.expert in self._tombstones or manifest.owner in self._tombstones:
            return
        self._known[manifest.expert] = KnownHead(manifest=manifest, digest=statement.digest)
        await asyncio.to_thread(self._files.put, manifest.expert, statement.envelope)

    async def _read_tombstones(self) -> None:
        in_store = await self._store.tombstones()
        for target in in_store.keys() - self._tombstones:
            await asyncio.to_thread(self._tombstone_files.put, target, in_store[target])
        self._tombstones |= in_store.keys()
        for expert in list(self._known):
            if expert in self._tombstones or owner_of(expert) in self._tombstones:
                del self._known[expert]
                await asyncio.to_thread(self._files.remove, expert)
