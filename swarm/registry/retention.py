"""Which versions keep their weights, and why: pure rules over manifests and gates."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.domain.collection import RetentionPolicy
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, Digest, ExpertId, NodeId, owner_of
from swarm.domain.lineage import descendants
from swarm.domain.manifests import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUse:
    """What one gate's version needs of the registry: its arrays' blobs, and the versions that it pins."""

    version: int
    blobs: frozenset[Digest]
    pinned: frozenset[Digest]

    @classmethod
    def of(cls, gate: GateStatement) -> "GateUse":
        return cls(
            version=gate.version,
            blobs=frozenset(entry.blob for entry in gate.arrays),
            pinned=frozenset(Digest(leaf.manifest) for leaf in gate.leaves if leaf.manifest),
        )


@dataclass(slots=True, kw_only=True)
class Kept:
    """Why a version's weights stay, the first reason that holds, and which owners need them at all."""

    reason: str
    needed_by: set[NodeId] = field(default_factory=set)


def gates_in_reach(gates: Iterable[GateUse], policy: RetentionPolicy) -> list[GateUse]:
    """Return the newest gates whose arrays stay, the newest first."""
    return sorted(gates, key=lambda gate: -gate.version)[: policy.gate_versions]


def kept_versions(
    manifests: Mapping[Digest, Manifest],
    heads: Mapping[ExpertId, Digest],
    gates: Sequence[GateUse],
    is_withdrawn: Callable[[Manifest], bool],
    policy: RetentionPolicy,
) -> dict[Digest, Kept]:
    """Return the versions whose weights stay, and why.

    `gates` are those in reach. Withdrawn versions never stay: nobody may fetch them. Nor do versions that a
    head of another owner says to come from and cannot: they are serve-only.
    """
    living = {digest: made for digest, made in manifests.items() if not is_withdrawn(made)}
    parents = {digest: [parent.manifest for parent in made.parents] for digest, made in manifests.items()}
    kept: dict[Digest, Kept] = {}

    def keep(digest: Digest, reason: str, needed_by: NodeId | None = None) -> None:
        if digest in living:
            found = kept.setdefault(digest, Kept(reason=reason))
            found.needed_by.add(needed_by or living[digest].owner)

    for expert, digest in heads.items():
        keep(digest, f"head of {expert}")
    for gate in gates:
        for digest in sorted(gate.pinned):
            keep(digest, f"pinned by gate {gate.version}")
    in_reach = {gate.version for gate in gates}
    for digest, made in living.items():
        if made.expert == ROOT_EXPERT and made.gate_version_seen in in_reach:
            keep(digest, f"root of gate {made.gate_version_seen}")
    for expert, versions in _by_expert(living).items():
        newest = versions[: policy.keep_versions] if policy.keep_versions else versions
        for digest in newest:
            keep(digest, f"among the newest {policy.keep_versions} versions of {expert}")
    for expert, digest in heads.items():
        for ancestor in descendants(parents, [digest]) if policy.keep_ancestors != "none" else ():
            origin = living.get(ancestor)
            if origin is None or (policy.keep_ancestors == "borrowed" and origin.expert == expert):
                continue
            if origin.owner == owner_of(expert) or origin.share != "serve-only":
                keep(ancestor, f"ancestor of the head of {expert}", owner_of(expert))
    return kept


def _by_expert(manifests: Mapping[Digest, Manifest]) -> dict[ExpertId, list[Digest]]:
    found: dict[ExpertId, list[Digest]] = defaultdict(list)
    for digest in sorted(manifests, key=lambda each: -manifests[each].version):
        found[manifests[digest].expert].append(digest)
    return found
