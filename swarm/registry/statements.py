"""Statements as the registry reads them: signed by whom the keyring knows or the store has a record of."""

from typing import TypeVar

from swarm.domain.errors import NotReadyError, UnknownMemberError
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.registry.store import MetadataStore
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

_T = TypeVar("_T")


class StatementReader:
    """Opens statements with a keyring that gets members' records from the store when they are needed."""

    def __init__(self, store: MetadataStore, keyring: Keyring) -> None:
        self._store, self._keyring = store, keyring
        self._specification: tuple[bytes, Specification] | None = None

    async def opened(self, envelope: bytes, cls: type[_T]) -> Statement[_T]:
        """Return a statement, verified; raises what `Keyring.open` does."""
        try:
            return self._keyring.open(envelope, cls)
        except UnknownMemberError as unknown:
            record = await self._store.record(NodeId(unknown.member))
            if record is None:
                raise
            self._keyring.add_record(record)
        return self._keyring.open(envelope, cls)

    async def specifications(self) -> list[Specification]:
        """Return every specification that the swarm has had, the newest first."""
        found = [await self.specification()]
        for version in range(found[0].version - 1, 0, -1):
            envelope = await self._store.specification(version)
            if envelope is not None:
                found.append((await self.opened(envelope, Specification)).value)
        return found

    async def specification(self) -> Specification:
        """Return the swarm's current specification; NotReadyError where the store has none."""
        envelope = await self._store.specification()
        if envelope is None:
            raise NotReadyError(
                "specification", found="none in the store", remedy="start the coordinator: swarm coordinator"
            )
        if self._specification is None or self._specification[0] != envelope:
            self._specification = envelope, (await self.opened(envelope, Specification)).value
        return self._specification[1]
