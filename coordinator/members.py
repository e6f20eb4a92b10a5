"""Who belongs to the swarm: CA-signed records, in the coordinator's folder and in the store."""

import asyncio
from typing import TypeVar

import structlog

from coordinator.envelope_files import EnvelopeFiles
from swarm.domain.errors import NotFoundError, SwarmError, UnknownMemberError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.members import MemberRecord, Role
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

T = TypeVar("T")
log = structlog.get_logger()


class Members:
    """Records are kept in files too, so that statements can be verified while the store is away."""

    def __init__(self, keyring: Keyring, store: MetadataStore, files: EnvelopeFiles) -> None:
        self._keyring, self._store, self._files = keyring, store, files
        for name in files.names():
            self._keep(NodeId(name), files.get(name) or b"")

    async def envelope(self, member: NodeId) -> bytes:
        """Return a member's signed record; NotFoundError if nobody has that name."""
        found = self._files.get(member)
        if found is None:
            found = await self._store.record(member)
            if found is None:
                raise NotFoundError(
                    f"member {member[:60]}",
                    found="nobody of that name",
                    expected="a member of the swarm",
                    remedy="list them: swarm status",
                )
            self._check(member, found)
            await asyncio.to_thread(self._files.put, member, found)
        return found

    def record(self, member: NodeId) -> MemberRecord | None:
        """Return a known member's record."""
        return self._keyring.record(member)

    def of_role(self, role: Role) -> list[MemberRecord]:
        """Return the records of all known members of a role, by name, also of those that were revoked."""
        records = (self._keyring.record(NodeId(name)) for name in self._files.names())
        return [record for record in records if record is not None and record.role == role]

    async def register(self, member: NodeId, envelope: bytes) -> bool:
        """Take a new member in; False if somebody else has the name."""
        if not await self._store.put_record(member, envelope):
            return False
        reached("coordinator.join.recorded")
        self._keyring.add_record(envelope)
        await asyncio.to_thread(self._files.put, member, envelope)
        return True

    async def open(self, envelope: bytes, cls: type[T]) -> Statement[T]:
        """Return a statement that its rightful signer made, looking the signer up where that is needed.

        Raises VerificationError, or NotFoundError for a signer that is no member.
        """
        try:
            return self._keyring.open(envelope, cls)
        except UnknownMemberError as unknown:
            await self.envelope(NodeId(unknown.member))
        return self._keyring.open(envelope, cls)

    async def synchronise(self) -> None:
        """Bring the store's records and our own to the same."""
        in_store, ours = await self._store.records(), set(self._files.names())
        for name in sorted(ours):
            envelope = self._files.get(name)
            if name not in in_store and envelope and not await self._store.put_record(NodeId(name), envelope):
                log.error("member.record_differs", member=name)
        for member, envelope in in_store.items():
            if member not in ours and self._keep(member, envelope):
                await asyncio.to_thread(self._files.put, member, envelope)

    def _check(self, member: NodeId, envelope: bytes) -> None:
        """Take a member's record into the keyring; VerificationError for one of another name."""
        record = self._keyring.add_record(envelope)
        if record.id != member:
            raise VerificationError(
                f"record of {member[:60]}", found=f"the record of {record.id}", expected="its own"
            )

    def _keep(self, member: NodeId, envelope: bytes) -> bool:
        try:
            self._check(member, envelope)
        except SwarmError as error:
            log.error("member.record_refused", reason=str(error))
            return False
        return True
