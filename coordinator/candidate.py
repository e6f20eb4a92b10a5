"""A gate from its contributions: pure, so that the same ones always give the same gate.

Leaves come in the order of their owners' names, and only those whose expert has a published version. The
gate without an owner therefore equals, to the bit, the gate that never had it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.contribution_checks import CheckedContribution
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import GateLeaf, GateStatement, Manifest
from swarm.domain.specification import Specification
from swarm.gating.prototype_gate import PrototypeGate, build_prototype_gate
from swarm.modules.packing import pack_arrays

EMPTY_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A gate that nobody signed yet. `gate` is None where no leaf is left."""

    contributions: tuple[Digest, ...]
    leaves: tuple[GateLeaf, ...]
    gate: PrototypeGate | None

    @property
    def temperature(self) -> float:
        return EMPTY_TEMPERATURE if self.gate is None else self.gate.temperature

    @property
    def owners(self) -> frozenset[NodeId]:
        return frozenset(leaf.owner for leaf in self.leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signable:
    """What a gate's statement says besides its leaves and arrays."""

    version: int
    specification: Specification
    specification_digest: Digest
    temperature: float
    top_k: int
    reason: str
    created_at: float
    evidence: Mapping[str, float] = field(default_factory=dict)


def assemble(
    contributions: Iterable[CheckedContribution],
    heads: Mapping[ExpertId, Manifest],
    temperature: float | None = None,
) -> Candidate:
    """Return the gate of these contributions, one per owner; temperature None: the gate's own default."""
    ordered = sorted(contributions, key=lambda checked: checked.contribution.owner)
    leaves, summaries = [], []
    for checked in ordered:
        for leaf, summary in zip(checked.contribution.leaves, checked.summaries, strict=True):
            if leaf.expert not in heads:
                continue
            names = tuple(sorted(leaf.class_counts))
            leaves.append(
                GateLeaf(
                    leaf=leaf.leaf, owner=checked.contribution.owner, expert=leaf.expert, class_names=names
                )
            )
            summaries.append(summary)
    return Candidate(
        contributions=tuple(checked.digest for checked in ordered),
        leaves=tuple(leaves),
        gate=build_prototype_gate(summaries, temperature) if summaries else None,
    )


def gate_statement(candidate: Candidate, says: Signable) -> tuple[GateStatement, dict[Digest, bytes]]:
    """Return the statement of a candidate, and the blobs that its arrays lie in."""
    entries, blobs = pack_arrays(candidate.gate.arrays()) if candidate.gate is not None else ((), {})
    statement = GateStatement(
        swarm=says.specification.swarm,
        version=says.version,
        kind="prototypes",
        specification=says.specification_digest,
        trunk=says.specification.trunk.digest,
        contributions=candidate.contributions,
        leaves=candidate.leaves,
        class_names=says.specification.class_names,
        temperature=says.temperature,
        ridge=0.0,
        top_k=says.top_k,
        arrays=entries,
        evidence=dict(says.evidence),
        reason=says.reason,
        created_at=says.created_at,
    )
    return statement, blobs
