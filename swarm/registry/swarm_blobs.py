"""The blobs that are the swarm's own: its trunk's, by each specification, and the arrays of each gate."""

import structlog

from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.specification import Specification
from swarm.registry.store import MetadataStore
from swarm.trust.statements import read_statement

_log = structlog.get_logger(__name__)


class SwarmBlobs:
    """What specifications and gates name. Kept in memory, read from the store as it grows."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._blobs: set[Digest] = set()
        self._specifications = self._gates = 0
        self._is_loaded = False

    def __contains__(self, blob: Digest) -> bool:
        return blob in self._blobs

    async def refresh(self) -> None:
        """Take in what the store has gained; while it is down, what was known before stays."""
        try:
            if self._gates and await self._store.gate(self._gates) is None:
                self._gates = 0  # the store went back to an older state
            while (envelope := await self._store.specification(self._specifications + 1)) is not None:
                self._specifications += 1
                self._blobs |= _trunk_of(envelope)
            while (envelope := await self._store.gate(self._gates + 1)) is not None:
                self._gates += 1
                self._blobs |= _arrays_of(envelope)
        except UnreachableError:
            if not self._is_loaded:
                raise
            return
        self._is_loaded = True


def _trunk_of(envelope: bytes) -> set[Digest]:
    try:
        trunk = read_statement(envelope, Specification).value.trunk
    except SwarmError as error:
        _log.error("specification.unreadable", reason=str(error))
        return set()
    return {tensor.blob for module in (trunk.weights, trunk.probe) for tensor in module.tensors}


def _arrays_of(envelope: bytes) -> set[Digest]:
    try:
        return {entry.blob for entry in read_statement(envelope, GateStatement).value.arrays}
    except SwarmError as error:
        _log.error("gate.unreadable", reason=str(error))
        return set()
