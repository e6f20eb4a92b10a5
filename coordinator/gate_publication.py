"""From a candidate to a version that the store has accepted: signing, publishing, adopting, catching up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from coordinator.candidate import Candidate, Signable, gate_statement
from coordinator.gate_files import GateFiles
from coordinator.intended import Intended
from swarm.answering.active_gate import ActiveGate
from swarm.domain.combination import Combination
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError
from swarm.domain.gates import GateChange, GateStatement
from swarm.domain.ids import Digest
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement

CONTRIBUTE = GateChange(kind="contribute")

log = structlog.get_logger()


class BlobRegistry(Protocol):
    """Where gates' arrays are published for the nodes (`swarm.rpc.clients.RegistryClient`)."""

    async def missing(self, blobs: Sequence[Digest]) -> list[Digest]: ...
    async def publish_blob(self, blob: Digest, data: bytes | memoryview) -> None: ...
    async def fetch_blob(self, blob: Digest) -> bytes: ...


class GatePublication:
    """Holds the active gate. The store's `put_gate` is the moment at which a version counts."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        registry: BlobRegistry,
        files: GateFiles,
        intended: Intended,
        signer: Signer,
        clock: Callable[[], float],
        announce: Callable[[bytes], None],
    ) -> None:
        """`announce` tells the nodes of a version that counts now; it must not block."""
        self._store, self._registry, self.files = store, registry, files
        self._intended = intended
        self._signer, self._clock, self._announce = signer, clock, announce
        self.active: ActiveGate | None = None

    @property
    def version(self) -> int:
        """The active version, 0 before the first."""
        return 0 if self.active is None else self.active.version

    async def load(self) -> None:
        """Take over the newest version of the coordinator's own folder, if there is one."""
        if self.files.newest():
            self.active = await asyncio.to_thread(self.files.load, self.files.statement(self.files.newest()))

    def required(self) -> ActiveGate:
        """Return the active gate; NotReadyError before the first."""
        if self.active is None:
            raise NotReadyError(
                "gate",
                found="none yet",
                expected="a contribution of at least one node",
                remedy="on a node: swarm train DATA",
            )
        return self.active

    async def sign(
        self,
        candidate: Candidate,
        says: Signable,
        *,
        change: GateChange = CONTRIBUTE,
        may_publish_later: bool = False,
    ) -> bytes:
        """Return the next version's signed envelope, its arrays kept here and published to the nodes.

        Version and time are put into `says`. `may_publish_later`: a registry that is away does not stop it;
        `publish_arrays` makes up for it.
        """
        says = replace(says, version=self.version + 1, created_at=self._clock())
        statement, blobs = await asyncio.to_thread(gate_statement, candidate, says)
        statement = replace(statement, change=change)
        for data in blobs.values():
            await asyncio.to_thread(self.files.blobs.put, data)
        try:
            await self._publish(list(blobs))
        except UnreachableError as error:
            if not may_publish_later:
                raise
            log.warning("gate.not_published", version=statement.version, reason=str(error))
        return sign_statement(statement, self._signer)

    def sign_as_served(self, combination: Combination) -> bytes:
        """Return the active version signed as one that answers by this combination alone: for comparison."""
        value = replace(self.required().value, combinations=(combination,), served=0, reason="for comparison")
        return sign_statement(value, self._signer)

    async def activate(self, envelope: bytes) -> ActiveGate:
        """Make the next version count; ConflictError where the store has another newest one."""
        reached("coordinator.gate.signed")
        await self._intended.note(self.version + 1, envelope)
        try:
            await self._store.put_gate(self.version + 1, envelope)
        except SwarmError:
            # The store may have this very version, from an attempt whose answer was lost.
            try:
                await self.synchronise()
            except SwarmError as error:
                log.warning("gate.not_in_step", reason=str(error))
            raise
        reached("coordinator.gate.stored")
        return await self._take(envelope)

    async def synchronise(self) -> None:
        """Bring the store up to our newest version, or ours up to what the store has of us."""
        newest = await self._store.gate()
        in_store = read_statement(newest, GateStatement).value.version if newest else 0
        own = self.version
        for version in range(in_store + 1, own + 1):
            envelope = self.files.envelope(version)
            if envelope is not None:
                await self._store.put_gate(version, envelope)
        for version in range(own + 1, in_store + 1):
            envelope = await self._store.gate(version)
            if envelope is None or not self._intended.has(version, envelope):
                log.error("gate.not_made_here", version=version)
                break
            await self._take(envelope)
            log.warning("gate.adopted", version=version)

    async def publish_arrays(self) -> None:
        """Publish what the registry lacks of the active version."""
        if self.active is not None:
            await self._publish(list(dict.fromkeys(entry.blob for entry in self.active.value.arrays)))

    async def publish_kept_arrays(self) -> None:
        """Publish what the registry lacks of every version whose arrays are kept here."""
        oldest = await asyncio.to_thread(self.files.oldest_with_arrays)
        for version in range(max(oldest, 1), self.files.newest() + 1 if oldest else 1):
            statement = await asyncio.to_thread(self.files.statement, version)
            await self._publish(list(dict.fromkeys(entry.blob for entry in statement.value.arrays)))

    async def _publish(self, blobs: Sequence[Digest]) -> None:
        if not blobs:
            return
        for blob in await self._registry.missing(blobs):
            await self._registry.publish_blob(
                blob, await asyncio.to_thread(self.files.blobs.open_verified, blob)
            )

    async def _take(self, envelope: bytes) -> ActiveGate:
        """Make a version that the store has accepted the active one."""
        statement = self.files.open(envelope)
        for blob in self.files.blobs.missing(entry.blob for entry in statement.value.arrays):
            await asyncio.to_thread(self.files.blobs.put, await self._registry.fetch_blob(blob))
        loaded = await asyncio.to_thread(self.files.load, statement)
        await asyncio.to_thread(self.files.put, statement.value.version, envelope)
        reached("coordinator.gate.kept")
        self.active = loaded
        self._announce(envelope)
        return loaded
