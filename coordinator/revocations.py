"""The revocation list: every issue is signed, numbered and kept."""

import asyncio
from collections.abc import Callable

import structlog

from coordinator.envelope_files import EnvelopeFiles
from swarm.domain.errors import NotReadyError, SwarmError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.members import RevocationList
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.keyring import Keyring
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement

log = structlog.get_logger()


class Revocations:
    """Issues lists. The coordinator's own file is written first: a revocation holds here whatever follows."""

    def __init__(
        self,
        keyring: Keyring,
        signer: Signer,
        store: MetadataStore,
        files: EnvelopeFiles,
        clock: Callable[[], float],
    ) -> None:
        self._keyring, self._signer, self._store, self._files = keyring, signer, store, files
        self._clock = clock
        self._issuing = asyncio.Lock()
        newest = files.get(files.newest())
        if newest is None:
            newest = self._signed(1, ())
            files.put(1, newest)
        keyring.set_revocations(newest)
        self._newest = newest

    @property
    def envelope(self) -> bytes:
        """The newest list, signed."""
        return self._newest

    def is_revoked(self, member: NodeId) -> bool:
        """Return whether the newest list names member."""
        return self._keyring.is_revoked(member)

    def nodes(self) -> tuple[NodeId, ...]:
        """Return all that the newest list names."""
        return self._list().nodes

    async def revoke(self, member: NodeId) -> bytes:
        """Return the list that names member, issuing it where there is none yet."""
        async with self._issuing:
            if not self.is_revoked(member):
                known = self._list()
                nodes = tuple(sorted({*known.nodes, member}))
                envelope = self._signed(known.number + 1, nodes)
                await asyncio.to_thread(self._files.put, known.number + 1, envelope)
                reached("coordinator.revocation.kept")
                self._take(envelope)
            await self._synchronise()
            return self._newest

    async def synchronise(self) -> None:
        """Bring the store's list up to ours, or ours up to the store's."""
        async with self._issuing:
            await self._synchronise()

    async def _synchronise(self) -> None:
        in_store = await self._store.revocations()
        try:
            number = read_statement(in_store, RevocationList).value.number if in_store else 0
        except SwarmError as error:
            log.error("revocations.refused", own=self._list().number, reason=str(error))
            return
        own = self._list().number
        if in_store and number > own:
            try:
                self._take(in_store)
            except VerificationError as error:  # a forged one keeps no revocation from the members
                log.error("revocations.refused", number=number, own=own, reason=str(error))
                return
            await asyncio.to_thread(self._files.put, number, in_store)
            log.warning("revocations.adopted", number=number, own=own)
        for missing in range(number + 1, own + 1):
            envelope = self._files.get(missing)
            if envelope is None:
                raise NotReadyError(
                    f"revocation list {missing}",
                    found="no such file in the coordinator's folder",
                    remedy="restore the coordinator's folder from a backup",
                )
            await self._store.put_revocations(missing, envelope)

    def _list(self) -> RevocationList:
        known = self._keyring.revocations
        assert known is not None, "the constructor sets a list"
        return known

    def _take(self, envelope: bytes) -> None:
        self._keyring.set_revocations(envelope)
        self._newest = envelope

    def _signed(self, number: int, nodes: tuple[NodeId, ...]) -> bytes:
        value = RevocationList(swarm=self._keyring.swarm, number=number, nodes=nodes, issued_at=self._clock())
        return sign_statement(value, self._signer)
