"""A gate version ready for use: its signed statement, and its arrays as gates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarm.answering.leaf_index import LeafIndex
from swarm.domain.gates import GateBranch, GateLeaf, GateStatement
from swarm.domain.specification import TrunkReference
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import splits_of
from swarm.gating.gate_arrays import Placed
from swarm.gating.indexed_columns import IndexedColumns
from swarm.gating.indexed_prototypes import IndexedPrototypes
from swarm.gating.out_of_distribution import reaches
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.tree import Tree
from swarm.modules.packing import ReadBlob, unpack
from swarm.trust.statements import Statement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ActiveGate:
    """One gate version: its signed statement, and its arrays as gates.

    `prototypes` is None where it has no leaves, `analytic` where no owner of a leaf gave sums. Never
    changes, so a request in flight finishes on the version that it started with. More than EXACT_TO
    prototypes or regions are indexed here, which takes up to a minute: make it outside the event loop.
    """

    statement: Statement[GateStatement]
    prototypes: PrototypeGate | None
    analytic: AnalyticGate | None
    reach: NDArray[np.float64] = field(init=False)
    """How far each region reaches (`swarm.gating.out_of_distribution`), float64 [regions]."""
    indexed: IndexedPrototypes | None = field(init=False)
    """The index of very many prototypes, None where they are looked up exactly."""
    columns: IndexedColumns | None = field(init=False)
    """The index of very many regions' columns, None where all are scored."""
    leaf_index: LeafIndex = field(init=False)

    def __post_init__(self) -> None:
        found = np.empty(0) if self.prototypes is None else reaches(self.prototypes)
        object.__setattr__(self, "reach", found)
        indexed = None if self.prototypes is None else IndexedPrototypes.of(self.prototypes)
        object.__setattr__(self, "indexed", indexed)
        columns = None
        if self.prototypes is not None and self.analytic is not None:
            columns = IndexedColumns.of(self.analytic, self.prototypes)
        object.__setattr__(self, "columns", columns)
        tree = Tree.flat(0) if self.analytic is None else self.analytic.tree
        object.__setattr__(self, "leaf_index", LeafIndex.of(self.value.leaves, tree))

    @property
    def value(self) -> GateStatement:
        return self.statement.value

    @property
    def version(self) -> int:
        return self.statement.value.version

    @property
    def envelope(self) -> bytes:
        return self.statement.envelope


def active_gate(
    statement: Statement[GateStatement], read: ReadBlob, trunk: Callable[[], TrunkReference]
) -> ActiveGate:
    """Return a gate with its arrays, each blob verified by `read`. Reads files: call it outside the event
    loop. `trunk`: the specification's."""
    value = statement.value
    if not value.leaves:
        return ActiveGate(statement=statement, prototypes=None, analytic=None)
    arrays = unpack(value.arrays, read)
    prototypes, analytic = gates_of(
        arrays,
        value.leaves,
        value.branches,
        class_names=value.class_names,
        trunk=trunk() if value.kind == "analytic" else None,
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


def prototype_temperature(value: GateStatement) -> float:
    """Return the temperature of the gate's combination `prototypes`, 1 where it has none."""
    of_kind = (each.temperature for each in value.combinations if each.name == "prototypes")
    return next(of_kind, 1.0)
