"""Which versions keep their weights, and why: pure rules over manifests and gates."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.domain.collection import RetentionPolicy
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, Digest, ExpertId, NodeId, owner_of
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
        which = f"among the newest {policy.keep_versions}" if policy.keep_versions else "one of all"
        for digest in newest:
            keep(digest, f"{which} versions of {expert}")
    if policy.keep_ancestors != "none":
        heads_of: dict[NodeId, dict[ExpertId, Digest]] = defaultdict(dict)
        for expert, digest in heads.items():
            heads_of[owner_of(expert)][expert] = digest
        for owner, theirs in heads_of.items():
            for ancestor, reached_by in _ancestors_of_heads(manifests, theirs).items():
                origin = living.get(ancestor)
                if origin is None or (origin.owner != owner and origin.share == "serve-only"):
                    continue
                wanted = [
                    each for each in reached_by if policy.keep_ancestors == "all" or each != origin.expert
                ]
                if wanted:
                    keep(ancestor, f"ancestor of the head of {wanted[0]}", owner)
    return kept


def _by_expert(manifests: Mapping[Digest, Manifest]) -> dict[ExpertId, list[Digest]]:
    found: dict[ExpertId, list[Digest]] = defaultdict(list)
    for digest in sorted(manifests, key=lambda each: -manifests[each].version):
        found[manifests[digest].expert].append(digest)
    return found


def _ancestors_of_heads(
    manifests: Mapping[Digest, Manifest], heads: Mapping[ExpertId, Digest]
) -> dict[Digest, list[ExpertId]]:
    """Return for each version that heads came from the first two experts whose heads did.

    Two tell whether one of them is another expert's; so no version is visited more than twice.
    """
    reached: dict[Digest, list[ExpertId]] = defaultdict(list)
    for expert, head in heads.items():
        waiting = [head]
        while waiting:
            made = manifests.get(waiting.pop())
            for parent in made.parents if made is not None else ():
                by = reached[parent.manifest]
                if len(by) < 2 and expert not in by:
                    by.append(expert)
                    waiting.append(parent.manifest)
    return reached
