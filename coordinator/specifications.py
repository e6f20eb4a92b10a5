"""The specification's versions: signed by the coordinator, kept in its folder and in the store."""

import asyncio
from collections.abc import Iterable

import structlog

from coordinator.envelope_files import EnvelopeFiles
from coordinator.intended import Intended
from swarm.domain.contributions import Contribution
from swarm.domain.errors import NotFoundError
from swarm.domain.specification import Specification
from swarm.fault_points import reached
from swarm.registry.store import MetadataStore
from swarm.trust.keyring import Keyring
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement

log = structlog.get_logger()


class Specifications:
    """`current` is the newest accepted version. Classes that come or go make a next one; nothing else does.

    Where contributions leave the gate, classes that nobody has samples of any more leave the specification
    (`serving`): names that were brought once would cost every answer for ever. Each gate lists its own class
    names, so older gates, experts and profiles mean what they meant.
    """

    def __init__(
        self,
        keyring: Keyring,
        signer: Signer,
        store: MetadataStore,
        files: EnvelopeFiles,
        intended: Intended,
    ) -> None:
        self._keyring, self._signer, self._store, self._files = keyring, signer, store, files
        self._intended = intended
        envelope = files.get(files.newest())
        if envelope is None:
            raise NotFoundError(
                "specification",
                found="none in the coordinator's folder",
                expected="the one that swarm init signed",
                remedy="run: swarm init (or swarm restore BACKUP)",
            )
        self.current: Statement[Specification] = keyring.open(envelope, Specification)

    async def envelope(self, version: int) -> bytes:
        """Return a version's signed envelope, the current one's for 0; NotFoundError if there is none."""
        if version in (0, self.current.value.version):
            return self.current.envelope
        found = self._files.get(version) or await self._store.specification(version)
        if found is None:
            raise NotFoundError(
                f"specification {version}",
                found=f"version {self.current.value.version} as the newest",
                expected="a version that exists",
            )
        return found

    def next_with(self, class_names: Iterable[str]) -> Statement[Specification]:
        """Return the specification that knows one owner's class_names, too: the current one or a next one.

        A next version is signed, and counts only once `accept` has stored it. Raises InvalidInputError where
        the swarm does not accept them.
        """
        return self._signed(self.current.value.with_classes(class_names))

    def serving(self, contributions: Iterable[Contribution]) -> Statement[Specification]:
        """Return the specification of a gate with all of these contributions, as `next_with` does.

        It has the founder's classes and those with samples, no others.
        """
        names = {name for each in contributions for name in each.class_names()}
        return self._signed(self.current.value.of_classes(names))

    def _signed(self, wanted: Specification) -> Statement[Specification]:
        if wanted is self.current.value:
            return self.current
        return read_statement(sign_statement(wanted, self._signer), Specification)

    async def accept(self, statement: Statement[Specification]) -> bool:
        """Make statement the current version; False if it is that already."""
        if statement.digest == self.current.digest:
            return False
        version = statement.value.version
        await self._intended.note(version, statement.envelope)
        await self._store.put_specification(version, statement.envelope)
        reached("coordinator.specification.stored")
        await asyncio.to_thread(self._files.put, version, statement.envelope)
        self.current = statement
        return True

    async def synchronise(self) -> None:
        """Bring the store's versions up to ours, or ours up to what the store has of us."""
        newest = await self._store.specification()
        in_store = read_statement(newest, Specification).value.version if newest else 0
        own = self.current.value.version
        for version in range(in_store + 1, own + 1):
            await self._store.put_specification(version, await self.envelope(version))
        for version in range(own + 1, in_store + 1):
            envelope = await self._store.specification(version)
            if envelope is None or not self._intended.has(version, envelope):
                log.error("specification.not_made_here", version=version)
                break
            statement = self._keyring.open(envelope, Specification)
            await asyncio.to_thread(self._files.put, version, envelope)
            self.current = statement
            log.warning("specification.adopted", version=version)
