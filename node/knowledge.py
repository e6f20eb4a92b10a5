"""What the node knows of its swarm, verified and on disk, so that it outlives coordinator and registry.

`state/specification.json`, `state/gate.json` and `state/revocations.json` hold the newest envelopes.
"""

from pathlib import Path

import structlog

from node.durable import write_durably
from node.gate_cache import GateCache
from node.revocation_file import RevocationFile
from swarm.config import NodeHome
from swarm.domain.errors import NotReadyError, SwarmError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.specification import Specification
from swarm.gating.gate_arrays import ROOT_ARRAYS
from swarm.modules.blobs import BlobFiles
from swarm.rpc.clients import RegistryClient
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

_log = structlog.get_logger(__name__)


class SwarmKnowledge:
    """Takes up what the coordinator says, after verifying it; older versions never replace newer ones."""

    def __init__(self, home: NodeHome, keyring: Keyring, registry: RegistryClient, cache: BlobFiles) -> None:
        self._specification_file = home.state / "specification.json"
        self._gate_file = home.state / "gate.json"
        self._keyring, self._registry, self._cache = keyring, registry, cache
        self._gates = GateCache(home, cache)
        self.revocations = RevocationFile(home, keyring)
        self._specification: Specification | None = None
        self._gate: Statement[GateStatement] | None = None
        for file, take in (
            (self._specification_file, self.take_specification),
            (self._gate_file, self.take_gate),
        ):
            if file.exists():
                _take_kept(file, take)

    @property
    def gate_version(self) -> int:
        """The newest gate that this node has seen, 0 before the first."""
        return self._gate.value.version if self._gate is not None else 0

    @property
    def gate(self) -> GateStatement | None:
        """The newest verified gate."""
        return self._gate.value if self._gate is not None else None

    def specification(self) -> Specification:
        """Return the newest specification; NotReadyError before the first."""
        if self._specification is None:
            raise NotReadyError(
                "specification", found="none yet", expected="one from the coordinator", remedy="swarm doctor"
            )
        return self._specification

    def take_specification(self, envelope: bytes) -> None:
        """Take up a specification; VerificationError if it is not signed or its trunk differs."""
        found = self._keyring.open(envelope, Specification).value
        known = self._specification
        if known is not None and found.version < known.version:
            return
        if known is not None and found.trunk.digest != known.trunk.digest:
            raise VerificationError(
                f"specification {found.version}",
                found=f"trunk {found.trunk.digest[:12]}",
                expected=f"trunk {known.trunk.digest[:12]}, which this node joined under",
            )
        self._specification = found
        write_durably(self._specification_file, envelope)

    def take_gate(self, envelope: bytes) -> None:
        """Take up a gate; VerificationError if the coordinator did not sign it."""
        found = self._keyring.open(envelope, GateStatement)
        if self._gate is None or found.value.version >= self._gate.value.version:
            self._gate = found
            write_durably(self._gate_file, envelope)

    async def provide_trunk(self, specification: Specification) -> None:
        """Make sure that the trunk's blobs are in the cache, fetching what is missing."""
        trunk = specification.trunk
        tensors = (*trunk.weights.tensors, *trunk.probe.tensors)
        for digest in self._cache.missing(tensor.blob for tensor in tensors):
            await self._registry.fetch_into(digest, self._cache)

    async def provide_root(self) -> Statement[GateStatement]:
        """Return the newest gate, with the weights of its root in the cache, verified.

        NotReadyError where there is none yet, or it has no sums.
        """
        gate = self._gate
        weights = [] if gate is None else [entry for entry in gate.value.arrays if entry.name in ROOT_ARRAYS]
        if gate is None or not weights:
            raise NotReadyError(
                "refining",
                found="no gate yet" if gate is None else f"gate {gate.value.version} without sums",
                expected="a gate solved from sums, whose root is to be corrected",
                remedy="contribute with sums first: swarm train DATA --sums auto",
            )
        self._note(gate.value)
        await VerifiedRegistry(self._registry, None, self._keyring, self._cache).fetch(
            weights, of=gate.value.arrays
        )
        return gate

    async def provide_regions(self) -> GateStatement | None:
        """Return the newest gate with its prototypes and radii in the cache, verified; None where there is no
        gate, or they cannot be had now."""
        if self._gate is None:
            return None
        gate = self._gate.value
        wanted = [
            entry
            for entry in gate.arrays
            if entry.name == "radii" or entry.name.startswith(("prototypes.", "branch."))
        ]
        self._note(gate)
        try:
            await VerifiedRegistry(self._registry, None, self._keyring, self._cache).fetch(
                wanted, of=gate.arrays
            )
        except SwarmError as error:
            _log.warning("regions.not_fetched", gate_version=gate.version, because=str(error))
            return None
        return gate

    def _note(self, gate: GateStatement) -> None:
        trunk = self._specification.trunk if self._specification is not None else None
        modules = (trunk.weights, trunk.probe) if trunk is not None else ()
        self._gates.note(gate, (tensor.blob for module in modules for tensor in module.tensors))


def _take_kept(file: Path, take: object) -> None:
    try:
        take(file.read_bytes())  # type: ignore[operator]
    except SwarmError as error:
        _log.warning("state.not_used", file=str(file), because=str(error))
