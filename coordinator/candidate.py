"""A gate from its contributions: pure, so that the same ones always give the same gate.

Leaves come in the order of their owners' names and of their numbers, and only those whose expert has a
published version; branches likewise, and only those with such a leaf. The gate without an owner therefore
equals, to the bit, the gate that never had it. An owner's sums count as a whole: they cannot be told apart by
leaf, so they are left out while one of its leaves is.

A branch with one child left stays, and the child answers for all of it: its region keeps the prototypes of
all that its leaves came from, so that what went to the child that is gone falls to its sibling, not into a
hole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coordinator.solver_jobs import Arrays, Group, Solution
from swarm.domain.combination import Combination
from swarm.domain.contributions import Contribution, LeafContribution
from swarm.domain.gates import GateBranch, GateLeaf, GateStatement
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, number_of
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.gating.branches import splits_of
from swarm.gating.gate_arrays import (
    BRANCH_WEIGHTS,
    CLASS_OWNERS,
    CLASS_REGIONS,
    CLASS_TARGETS,
    CLASS_WEIGHTS,
    NODE_WEIGHTS,
    WEIGHTS,
    Placed,
    node_classes,
    scales_of,
)
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
        if self.solution.weights is None:
            return arrays
        row = self.ridges.index(ridge)
        if self.solution.class_targets is not None:  # what scores leaves need not tell their classes apart
            arrays[NODE_WEIGHTS] = self._node_weights(row)
            arrays[CLASS_REGIONS] = np.array(self.solution.class_regions)
            return arrays | self._class_columns(CLASS_WEIGHTS, row) | self._classes()
        arrays[WEIGHTS] = np.array(self.solution.weights[row])
        if self.solution.branch_weights is not None:
            arrays[BRANCH_WEIGHTS] = np.array(self.solution.branch_weights[row])
        return arrays

    def _node_weights(self, row: int) -> NDArray[np.float32]:
        """Return the sum over the classes of each leaf with columns, then of each branch, float32 [M, N]."""
        solution, tree = self.solution, Placed.of(self.leaves, self.group.branches).tree
        assert solution is not None and solution.weights is not None
        parts = [solution.weights[row]]
        if solution.branch_weights is not None:
            parts.append(solution.branch_weights[row])
        widths = [len(node_classes(tree, self.leaves, node)) for node in range(tree.nodes)]
        whole = np.concatenate(parts, axis=1, dtype=np.float64)
        ends = np.cumsum([width for width in widths if width])
        sums = [part.sum(axis=1) for part in np.split(whole, ends[:-1], axis=1)]
        return np.stack(sums, axis=1).astype(np.float32)

    def trial_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the prototypes and the class columns of each ridge, `root.<i>` float16 [M, C] with their
        scales float32 [C], or as the statement's `class_weights` with `class_targets` and `class_owners`."""
        if self.solution is None:
            return {}
        arrays = dict(self.solution.prototypes)
        if self.solution.roots is None:
            return arrays
        for row in range(len(self.solution.roots)):
            arrays |= self._class_columns(f"root.{row}", row)
        return arrays | self._classes()

    def _classes(self) -> dict[str, NDArray[np.generic]]:
        """Return whose the class columns are."""
        solution = self.solution
        assert solution is not None
        found = {CLASS_TARGETS: solution.class_targets, CLASS_OWNERS: solution.class_owners}
        return {name: np.array(array) for name, array in found.items() if array is not None}

    def _class_columns(self, name: str, ridge: int) -> dict[str, NDArray[np.generic]]:
        solution = self.solution
        assert solution is not None and solution.roots is not None and solution.scales is not None
        return {name: np.array(solution.roots[ridge]), scales_of(name): np.array(solution.scales[ridge])}

    def prototype_temperatures(self) -> tuple[tuple[float, ...], float]:
        """Return the temperatures to try for `prototypes`, and the one without evidence."""
        if self.solution is None:
            return (), 1.0
        placed = Placed.of(self.leaves, self.group.branches)
        gate = PrototypeGate.from_arrays(
            self.solution.prototypes,
            leaves=len(self.leaves),
            temperature=1.0,
            tree=placed.tree,
            splits=splits_of(self.solution.prototypes, placed.is_learned),
        )
        return temperature_grid(gate), DEFAULT_FACTOR * gate.scale


def plan_group(contributions: Iterable[Statement[Contribution]], heads: Mapping[ExpertId, Manifest]) -> Group:
    """Return the leaves and branches of a gate of these contributions, one per owner, in their order."""
    ordered = sorted(contributions, key=lambda each: each.value.owner)
    leaves: list[GateLeaf] = []
    branches: list[GateBranch] = []
    for each in ordered:
        present = sorted(
            (leaf for leaf in each.value.leaves if leaf.expert in heads),
            key=lambda leaf: number_of(leaf.leaf),
        )
        is_whole = len(present) == len(each.value.leaves)
        leaves += [
            GateLeaf(
                leaf=leaf.leaf,
                owner=each.value.owner,
                expert=leaf.expert,
                class_names=tuple(sorted(leaf.class_counts)),
                parent=leaf.parent,
                has_columns=each.value.sums is not None and is_whole,
                manifest=leaf.manifest,
            )
            for leaf in present
        ]
        branches += _living_branches(each.value, present)
    return Group(
        contributions=tuple(each.digest for each in ordered), leaves=tuple(leaves), branches=tuple(branches)
    )


def _living_branches(contribution: Contribution, present: Sequence[LeafContribution]) -> list[GateBranch]:
    """Return the branches above these leaves, by number. With one child left there is nothing to decide."""
    parent_of = {branch.leaf: branch.parent for branch in contribution.branches}
    children: dict[str, set[str]] = {}
    for leaf in present:
        child, parent = leaf.leaf, leaf.parent
        while parent and child not in children.setdefault(parent, set()):
            children[parent].add(child)
            child, parent = LeafId(parent), parent_of[LeafId(parent)]
    return [
        GateBranch(
            leaf=branch.leaf,
            owner=contribution.owner,
            parent=branch.parent,
            is_learned=branch.split is not None and len(children[branch.leaf]) > 1,
        )
        for branch in sorted(contribution.branches, key=lambda branch: number_of(branch.leaf))
        if branch.leaf in children
    ]


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
    # A ridge is chosen by the roots; nobody reads the weights of one of them.
    arrays: Arrays = candidate.trial_arrays() if says.is_trial else candidate.arrays(says.ridge)
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
        branches=candidate.group.branches,
    )
    return statement, blobs
