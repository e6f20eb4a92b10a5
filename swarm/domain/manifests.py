"""Signed statements: an expert's version, an owner's contribution, a gate, a node's record, a tombstone.

Each travels as the predicate of an in-toto statement in a DSSE envelope (`swarm.trust.statements`). Its
digest is the blake3 of the statement's bytes, so the same statement has one name whoever signs it.
Times are seconds since the epoch (UTC).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId, expert_of, owner_of
from swarm.domain.specification import check_class_names
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry, TensorEntry

Share = Literal["serve-only", "borrow", "public"]
Role = Literal["node", "coordinator", "registry", "operator", "client"]
MAX_VERSION = 10**9
MAX_TRAIN_FLOPS = 10**27
MAX_INFERENCE_FLOPS = 10**14
ParentKind = Literal["trained-from", "borrowed-from", "split-from", "merged-from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetReference:
    """How to build an expert's network.

    `factory` is a built-in name (`mlp:128x2`, `cnn:16x32`) or `package.module:factory`, called with
    `input_shape` and `classes`. `code_digest` is the blake3 of the user's source file, empty for built-ins.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    factory: str
    input_shape: tuple[int, ...]
    classes: int
    code_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One edge of the lineage: how this version came from another, by that manifest's digest."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    kind: ParentKind
    manifest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an expert cost to train (FLOPs, samples seen, seconds) and costs per query (FLOPs)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    train_flops: int
    inference_flops: int
    samples_seen: int
    duration_s: float

    def __post_init__(self) -> None:
        # Others add these up and send them on: what cannot be true must not stop them.
        for name, largest in (
            ("train_flops", MAX_TRAIN_FLOPS),
            ("inference_flops", MAX_INFERENCE_FLOPS),
            ("samples_seen", MAX_TRAIN_FLOPS),
            ("duration_s", float(MAX_TRAIN_FLOPS)),
        ):
            value = getattr(self, name)
            if not 0 <= value <= largest:
                raise InvalidInputError(
                    f"cost {name}", found=str(value)[:40], expected=f"0 to {float(largest):g}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of one expert. `parent_version` is the head that it replaces, 0 for a first version."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    expert: ExpertId
    version: int
    parent_version: int
    leaf: LeafId
    owner: NodeId
    net: NetReference
    class_names: tuple[str, ...]
    modules: tuple[ModuleEntry, ...]
    parents: tuple[Parent, ...]
    trunk: Digest
    gate_version_seen: int
    share: Share
    metrics: Mapping[str, float]
    cost: Cost
    created_at: float

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        if owner_of(self.expert) != self.owner or expert_of(self.leaf) != self.expert:
            raise InvalidInputError(
                f"manifest of {self.expert}", found=f"leaf {self.leaf} of {self.owner}", expected="one owner"
            )
        if self.version != self.parent_version + 1 or not 1 <= self.version <= MAX_VERSION:
            raise InvalidInputError(
                f"{self.expert}@{str(self.version)[:20]}",
                found=f"parent version {str(self.parent_version)[:20]}",
                expected=f"the version before it, of 1 to {MAX_VERSION}",
            )
        if len(self.class_names) != self.net.classes or not self.modules:
            raise InvalidInputError(
                f"{self.expert}@{self.version}",
                found=f"{len(self.class_names)} class names, {len(self.modules)} modules",
                expected=f"{self.net.classes} class names and at least one module",
            )
        if not all(map(math.isfinite, self.metrics.values())):
            raise InvalidInputError(f"{self.expert}@{self.version}", found="a metric that is not finite")

    def blobs(self) -> tuple[Digest, ...]:
        """Return the distinct blobs that this version needs, in order of first use."""
        return tuple(dict.fromkeys(t.blob for module in self.modules for t in module.tensors))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafContribution:
    """One leaf's part of a contribution.

    Tensors: `prototypes` float32 [P, D]; `prototype_counts` int64 [P]; `radii` float32 [P, 3], the
    distances to the prototype at the quantiles .5, .9 and .99 of its own samples.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    expert: ExpertId
    class_counts: Mapping[str, int]
    prototypes: TensorEntry
    prototype_counts: TensorEntry
    radii: TensorEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one owner gives to the gate; each new epoch replaces the owner's last one entirely."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    owner: NodeId
    epoch: int
    trunk: Digest
    leaves: tuple[LeafContribution, ...]
    created_at: float

    def class_names(self) -> tuple[str, ...]:
        """Return the names of all classes with samples, sorted."""
        return tuple(sorted({name for leaf in self.leaves for name in leaf.class_counts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLeaf:
    """One leaf of a gate. `parent` names the leaf that a split made it from, empty at the top."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    owner: NodeId
    expert: ExpertId
    class_names: tuple[str, ...]
    parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatement:
    """A version of the gate: a pure function of specification, trunk, contributions, ridge, temperature.

    `arrays` of kind `prototypes`: `prototypes.<row into leaves>` float32 [P, D] for each leaf; `log_prior`
    float32 [K] and `radii` float32 [K, 3] over the K prototypes of all leaves in that order. The analytic
    kind brings other arrays under their names.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    version: int
    kind: Literal["prototypes", "analytic"]
    specification: Digest
    trunk: Digest
    contributions: tuple[Digest, ...]
    leaves: tuple[GateLeaf, ...]
    class_names: tuple[str, ...]
    temperature: float
    ridge: float
    top_k: int
    arrays: tuple[TensorEntry, ...]
    evidence: Mapping[str, float]
    reason: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """Who a member is: signed by the CA, so that anyone can verify a manifest offline.

    `signing_key` is the raw Ed25519 public key in hexadecimal, empty for members that sign nothing.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    role: Role
    id: NodeId
    signing_key: str
    joined_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A withdrawal that stops what was withdrawn from coming back."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    kind: Literal["expert", "node"]
    id: str
    reason: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """The members that are no longer trusted; `number` grows with every issue."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    number: int
    nodes: tuple[NodeId, ...]
    issued_at: float
