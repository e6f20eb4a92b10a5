"""A gate from its contributions: pure, so that the same ones always give the same gate.

Leaves come in the order of their owners' names, and only those whose expert has a published version. The
gate without an owner therefore equals, to the bit, the gate that never had it. An owner's sums count as a
whole: they cannot be told apart by leaf, so they are left out while one of its leaves is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coordinator.solver_jobs import Arrays, Group, Solution
from swarm.domain.combination import Combination
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Contribution, GateLeaf, GateStatement, Manifest
from swarm.domain.specification import Specification
from swarm.gating.analytic_gate import WEIGHTS
from swarm.gating.prototype_gate import DEFAULT_FACTOR, PrototypeGate, temperature_grid
from swarm.modules.packing import pack_arrays
from swarm.trust.statements import Statement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A gate that nobody signed yet, solved for one or several ridges.

    `solution` None: no leaf is left. `has_corrections`: some leaf's expert can correct the root.
    """

    group: Group
    ridges: tuple[float, ...]
    solution: Solution | None
    has_corrections: bool

    @property
    def leaves(self) -> tuple[GateLeaf, ...]:
        return self.group.leaves

    @property
    def owners(self) -> frozenset[NodeId]:
        return frozenset(leaf.owner for leaf in self.leaves)

    @property
    def has_sums(self) -> bool:
        """Whether it is a gate of kind `analytic`."""
        return self.solution is not None and self.solution.weights is not None

    def arrays(self, ridge: float) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of its statement with the weights of one of its ridges."""
        if self.solution is None:
            return {}
        arrays = dict(self.solution.prototypes)
        if self.solution.weights is not None:
            arrays[WEIGHTS] = np.array(self.solution.weights[self.ridges.index(ridge)])
        return arrays

    def roots(self) -> dict[str, NDArray[np.generic]]:
        """Return the class columns of each ridge, `root.<i>` float16 [M, C]."""
        if self.solution is None or self.solution.roots is None:
            return {}
        return {f"root.{row}": np.array(root) for row, root in enumerate(self.solution.roots)}

    def prototype_temperatures(self) -> tuple[tuple[float, ...], float]:
        """Return the temperatures to try for `prototypes`, and the one without evidence."""
        if self.solution is None:
            return (), 1.0
        gate = PrototypeGate.from_arrays(self.solution.prototypes, leaves=len(self.leaves), temperature=1.0)
        return temperature_grid(gate), DEFAULT_FACTOR * gate.scale


def plan_group(contributions: Iterable[Statement[Contribution]], heads: Mapping[ExpertId, Manifest]) -> Group:
    """Return the leaves of a gate of these contributions, one per owner, in the order of owners."""
    ordered = sorted(contributions, key=lambda each: each.value.owner)
    leaves: list[GateLeaf] = []
    for each in ordered:
        present = [leaf for leaf in each.value.leaves if leaf.expert in heads]
        is_whole = len(present) == len(each.value.leaves)
        leaves += [
            GateLeaf(
                leaf=leaf.leaf,
                owner=each.value.owner,
                expert=leaf.expert,
                class_names=tuple(sorted(leaf.class_counts)),
                has_columns=each.value.sums is not None and is_whole,
            )
            for leaf in present
        ]
    return Group(contributions=tuple(each.digest for each in ordered), leaves=tuple(leaves))


def can_correct(leaves: Iterable[GateLeaf], heads: Mapping[ExpertId, Manifest]) -> bool:
    """Say whether some leaf with columns has an expert with a correction."""
    found = (heads.get(leaf.expert) for leaf in leaves if leaf.has_columns)
    return any(head is not None and head.correction is not None for head in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signable:
    """What a gate's statement says besides its leaves and arrays.

    `ridge`: the one to take of the candidate's. `is_trial`: the class columns of all ridges come along.
    """

    specification: Specification
    specification_digest: Digest
    combinations: Sequence[Combination]
    served: int
    ridge: float
    reason: str
    version: int = 1
    created_at: float = 0.0
    evidence: Mapping[str, float] = field(default_factory=dict)
    is_trial: bool = False


def gate_statement(candidate: Candidate, says: Signable) -> tuple[GateStatement, dict[Digest, bytes]]:
    """Return the statement of a candidate, and the blobs that its arrays lie in."""
    arrays: Arrays = candidate.arrays(says.ridge)
    if says.is_trial:  # the ridge is chosen by the roots; nobody reads the weights of one of them
        arrays = {name: array for name, array in arrays.items() if name != WEIGHTS} | candidate.roots()
    entries, blobs = pack_arrays(arrays) if arrays else ((), {})
    statement = GateStatement(
        swarm=says.specification.swarm,
        version=says.version,
        kind="analytic" if candidate.has_sums else "prototypes",
        specification=says.specification_digest,
        trunk=says.specification.trunk.digest,
        contributions=candidate.group.contributions,
        leaves=candidate.leaves,
        class_names=says.specification.class_names,
        combinations=tuple(says.combinations),
        served=says.served,
        ridge=says.ridge if candidate.has_sums else 0.0,
        arrays=entries,
        evidence=dict(says.evidence),
        reason=says.reason,
        created_at=says.created_at,
    )
    return statement, blobs
