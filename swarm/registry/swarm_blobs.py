"""The blobs that are the swarm's own: its trunk's, by each specification, and the arrays of each gate."""

import asyncio

import structlog

from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.specification import Specification
from swarm.registry.statements import StatementReader
from swarm.registry.store import MetadataStore

_log = structlog.get_logger(__name__)


class SwarmBlobs:
    """What specifications and gates name. Kept in memory, read from the store as it grows; statements that
    are not the coordinator's count for nothing."""

    def __init__(self, store: MetadataStore, statements: StatementReader) -> None:
        self._store, self._statements = store, statements
        self._blobs: set[Digest] = set()
        self._specifications = self._gates = 0
        self._is_loaded = False
        self._refreshing = asyncio.Lock()

    def __contains__(self, blob: Digest) -> bool:
        return blob in self._blobs

    async def refresh(self) -> None:
        """Take in what the store has gained; while it is down, what was known before stays."""
        async with self._refreshing:
            try:
                await self._take_in()
            except UnreachableError:
                if not self._is_loaded:
                    raise
                return
            self._is_loaded = True

    async def _take_in(self) -> None:
        if self._gates and await self._store.gate(self._gates) is None:
            self._gates = 0  # the store went back to an older state
        while (envelope := await self._store.specification(self._specifications + 1)) is not None:
            self._blobs |= await self._trunk_of(envelope)
            self._specifications += 1
        while (envelope := await self._store.gate(self._gates + 1)) is not None:
            self._blobs |= await self._arrays_of(envelope)
            self._gates += 1

    async def _trunk_of(self, envelope: bytes) -> set[Digest]:
        try:
            trunk = (await self._statements.opened(envelope, Specification)).value.trunk
        except UnreachableError:
            raise
        except SwarmError as error:
            _log.error("specification.refused", reason=str(error))
            return set()
        return {tensor.blob for module in (trunk.weights, trunk.probe) for tensor in module.tensors}

    async def _arrays_of(self, envelope: bytes) -> set[Digest]:
        try:
            gate = (await self._statements.opened(envelope, GateStatement)).value
        except UnreachableError:
            raise
        except SwarmError as error:
            _log.error("gate.refused", reason=str(error))
            return set()
        return {entry.blob for entry in gate.arrays}
