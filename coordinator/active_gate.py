"""A gate version ready for use, and the folder that keeps every version with its arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from coordinator.envelope_files import EnvelopeFiles
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.gates import GateBranch, GateHistory, GateLeaf, GateStatement
from swarm.domain.ids import Digest
from swarm.domain.specification import TrunkReference
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import splits_of
from swarm.gating.gate_arrays import Placed
from swarm.gating.out_of_distribution import reaches
from swarm.gating.prototype_gate import PrototypeGate
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import unpack
from swarm.trust.keyring import Keyring
from swarm.trust.statements import Statement

PAGE, PAGE_BYTES = 100, 2 << 20
"""The most versions that one page of the history has; it ends with the first one beyond so many bytes."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActiveGate:
    """One gate version: its signed statement, and its arrays as gates.

    `prototypes` is None where it has no leaves, `analytic` where no owner of a leaf gave sums. Never
    changes, so a request in flight finishes on the version that it started with.
    """

    statement: Statement[GateStatement]
    prototypes: PrototypeGate | None
    analytic: AnalyticGate | None
    reach: NDArray[np.float64] = field(init=False)
    """How far each region reaches (`swarm.gating.out_of_distribution`), float64 [regions]."""

    def __post_init__(self) -> None:
        found = np.empty(0) if self.prototypes is None else reaches(self.prototypes)
        object.__setattr__(self, "reach", found)

    @property
    def value(self) -> GateStatement:
        return self.statement.value

    @property
    def version(self) -> int:
        return self.statement.value.version

    @property
    def envelope(self) -> bytes:
        return self.statement.envelope


class GateFiles:
    """`<version>.json` per gate; arrays lie in the coordinator's blobs."""

    def __init__(
        self,
        envelopes: EnvelopeFiles,
        blobs: BlobFiles,
        keyring: Keyring,
        trunk: Callable[[], TrunkReference],
    ) -> None:
        self._envelopes, self.blobs, self._keyring, self._trunk = envelopes, blobs, keyring, trunk
        self._first: dict[Digest, int] = {}
        self._looked_at = self._unreadable = 0

    def newest(self) -> int:
        """Return the newest version, 0 before the first."""
        return self._envelopes.newest()

    def envelope(self, version: int) -> bytes | None:
        """Return a version's signed envelope."""
        return self._envelopes.get(version)

    def history(self, current: int, before: int, limit: int) -> GateHistory:
        """Return the newest versions up to `current`, below `before` unless that is 0: at most PAGE, or as
        many as `limit` where that is not 0, and at least one, within PAGE_BYTES. Reads files."""
        newest = min(current, before - 1) if before else current
        most, found, size_bytes, oldest = min(limit or PAGE, PAGE), list[bytes](), 0, newest + 1
        while oldest > 1 and len(found) < most and size_bytes < PAGE_BYTES:
            oldest -= 1
            envelope = self._envelopes.get(oldest)
            if envelope is not None:
                found.append(envelope)
                size_bytes += len(envelope)
        return GateHistory(envelopes=tuple(reversed(found)), oldest=oldest, current=current)

    def put(self, version: int, envelope: bytes) -> None:
        """Keep a version; its arrays must be in `blobs` already."""
        self._envelopes.put(version, envelope)

    def statement(self, version: int) -> Statement[GateStatement]:
        """Return a version's statement, its signature verified; NotFoundError if there is none."""
        envelope = self._envelopes.get(version)
        if envelope is None:
            raise NotFoundError(
                f"gate {version}",
                found=f"gate {self.newest()} as the newest" if self.newest() else "no gate yet",
                expected="a version that exists",
                remedy="list them: swarm gate history",
            )
        return self.open(envelope)

    def open(self, envelope: bytes) -> Statement[GateStatement]:
        """Return the statement of an envelope that the coordinator signed."""
        return self._keyring.open(envelope, GateStatement)

    def first_with(self, contribution: Digest) -> int:
        """Return the first version that a contribution is in, 0 if there is none.

        A version that can not be read may have it, so it counts for every contribution.
        """
        for version in range(self._looked_at + 1, self.newest() + 1):
            envelope = self._envelopes.get(version)
            try:
                listed = self.open(envelope).value.contributions if envelope else ()
            except SwarmError as error:
                log.error("gate.damaged", version=version, reason=str(error))
                self._unreadable = self._unreadable or version
                listed = ()
            for digest in listed:
                self._first.setdefault(digest, version)
            self._looked_at = version
        return self._first.get(contribution, self._unreadable)

    def oldest_with_arrays(self) -> int:
        """Return the oldest version that can be loaded, as all newer ones can; 0 where the newest cannot."""
        return oldest_with(
            self.newest(),
            lambda version: not self.blobs.missing(e.blob for e in self.statement(version).value.arrays),
        )

    def load(self, statement: Statement[GateStatement]) -> ActiveGate:
        """Return a gate with its arrays, each blob verified. Reads files: call it outside the event loop."""
        value = statement.value
        if not value.leaves:
            return ActiveGate(statement=statement, prototypes=None, analytic=None)
        arrays = unpack(value.arrays, self.blobs.open_verified)
        prototypes, analytic = gates_of(
            arrays,
            value.leaves,
            value.branches,
            class_names=value.class_names,
            trunk=self._trunk() if value.kind == "analytic" else None,
            temperature=prototype_temperature(value),
        )
        return ActiveGate(statement=statement, prototypes=prototypes, analytic=analytic)


def gates_of(
    arrays: Mapping[str, NDArray[np.generic]],
    leaves: Sequence[GateLeaf],
    branches: Sequence[GateBranch],
    *,
    class_names: Sequence[str],
    trunk: TrunkReference | None,
    temperature: float,
) -> tuple[PrototypeGate, AnalyticGate | None]:
    """Return a statement's arrays as gates; without a trunk it is of kind `prototypes`.

    Raises ShapeMismatchError where an array is missing or misshapen.
    """
    placed = Placed.of(leaves, branches)
    prototypes = PrototypeGate.from_arrays(
        arrays,
        leaves=len(leaves),
        temperature=temperature,
        tree=placed.tree,
        splits=splits_of(arrays, placed.is_learned),
    )
    if trunk is None:
        return prototypes, None
    analytic = AnalyticGate.from_statement_arrays(
        arrays, leaves, class_names, trunk.fixed_point, trunk.has_constant, placed
    )
    return prototypes, analytic


def oldest_with(newest: int, is_whole: Callable[[int], bool]) -> int:
    """Return the oldest version that is whole, as all newer ones are; 0 where the newest is not."""
    found = 0
    for version in range(newest, 0, -1):
        try:
            if not is_whole(version):
                break
        except SwarmError:  # one that cannot be read
            break
        found = version
    return found


def versions_there(oldest: int, newest: int) -> str:
    """Say in words which versions have their arrays: `gate 12 to 61`."""
    return f"gate {oldest} to {newest}" if 0 < oldest < newest else f"gate {newest}"


def prototype_temperature(value: GateStatement) -> float:
    """Return the temperature of the gate's combination `prototypes`, 1 where it has none."""
    of_kind = (each.temperature for each in value.combinations if each.name == "prototypes")
    return next(of_kind, 1.0)
