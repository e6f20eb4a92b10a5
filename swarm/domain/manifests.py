"""Signed statements: an expert's version, an owner's contribution, a gate, a node's record, a tombstone.

Each travels as the predicate of an in-toto statement in a DSSE envelope (`swarm.trust.statements`). Its
digest is the blake3 of the statement's bytes, so the same statement has one name whoever signs it.
Times are seconds since the epoch (UTC).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from swarm.domain.combination import Combination, CombinationName
from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId, expert_of, owner_of
from swarm.domain.specification import check_class_names
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry, TensorEntry

Share = Literal["serve-only", "borrow", "public"]
Role = Literal["node", "coordinator", "registry", "operator", "client"]
MAX_VERSION = 10**9
MAX_TRAIN_FLOPS = 10**27
MAX_INFERENCE_FLOPS = 10**14
Computation = tuple[object, ...]
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
class Correction:
    """What an expert adds to the root's class scores: a second set of weights for the expert's own net.

    Trained from a zeroed output layer on CE(a(x) / class_temperature + h(x)) over the expert's own classes,
    where a are the class scores of gate `base` (its statement's digest). `metrics` and `cost` are its own.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    modules: tuple[ModuleEntry, ...]
    base: Digest
    class_temperature: float
    metrics: Mapping[str, float]
    cost: Cost

    def __post_init__(self) -> None:
        if not self.modules or not (0 < self.class_temperature < math.inf):
            raise InvalidInputError(
                "correction",
                found=f"{len(self.modules)} modules, class temperature {self.class_temperature}",
                expected="at least one module and a positive temperature",
            )
        if not all(map(math.isfinite, self.metrics.values())):
            raise InvalidInputError("correction", found="a metric that is not finite")


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
    correction: Correction | None = None

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

    @property
    def computes(self) -> Computation:
        """What the expert computes: manifests with the same one answer every input alike.

        Net, classes and weights, its correction's too; not its id, owner, version, metrics or times. So the
        exact copies of an expert that was split are one expert, until they are trained.
        """
        net, correction = self.net, self.correction
        return (
            (net.factory, net.code_digest, net.input_shape, self.class_names),
            tuple((module.name, module.digest) for module in self.modules),
            ()
            if correction is None
            else (
                correction.class_temperature,
                tuple((module.name, module.digest) for module in correction.modules),
            ),
        )

    def blobs(self) -> tuple[Digest, ...]:
        """Return the distinct blobs that this version needs, in order of first use."""
        corrections = self.correction.modules if self.correction is not None else ()
        modules = (*self.modules, *corrections)
        return tuple(dict.fromkeys(t.blob for module in modules for t in module.tensors))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafContribution:
    """One leaf's part of a contribution.

    Tensors: `prototypes` float32 [P, D]; `prototype_counts` int64 [P]; `radii` float32 [P, 3], the
    distances to the prototype at the quantiles .5, .9 and .99 of its own samples. Prototypes lie in the
    region columns of the features (`swarm.gating.regions.region_columns`). `columns` integer [M, classes] is
    F't, one column for each class of `class_counts` in sorted order; None without `Contribution.sums`.
    `parent` names the branch that the leaf is a child of, empty at the top. `manifest` pins the version that
    answers, by its digest, while a change is on trial; empty: the head.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    expert: ExpertId
    class_counts: Mapping[str, int]
    prototypes: TensorEntry
    prototype_counts: TensorEntry
    radii: TensorEntry
    columns: TensorEntry | None = None
    parent: str = ""
    manifest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchContribution:
    """A leaf that was split: its region goes on, and its children share its weight.

    `prototypes`, `prototype_counts` and `radii` are those it had as a leaf; `parent` names the branch above,
    empty at the top. `split` float32 [R + 1] is a learned binary gate over the region columns and the
    constant 1: the first child's share is its logistic; None: the children's scores or prototypes decide.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    prototypes: TensorEntry
    prototype_counts: TensorEntry
    radii: TensorEntry
    parent: str = ""
    split: TensorEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSums:
    """An owner's F'F over the `samples` of all its leaves, F int16 [samples, M] in fixed point.

    `exact`: `gram`, int32 or int64 [M (M + 1) / 2], the upper triangle row by row. `compact`: `factors` int16
    [M, w], where r > w `minor_factors` int8 [M, r - w], `factor_scales` float32 [r] and `diagonal` float32
    [M]: with L = (factors, minor_factors) * scales they mean L L' + diag(diagonal).
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    form: Literal["exact", "compact"]
    samples: int
    tensors: tuple[TensorEntry, ...]

    def tensor(self, name: str) -> TensorEntry:
        """Return the tensor of that name; InvalidInputError where there is none."""
        found = next((entry for entry in self.tensors if entry.name == name), None)
        if found is None:
            raise InvalidInputError(f"{self.form} sums", found="no such tensor", expected=name)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one owner gives to the gate; each new epoch replaces the owner's last one entirely.

    Without `sums` its leaves are routed to by prototypes only. `branches` are the leaves that were split,
    each with at least two children among leaves and branches. `proposal` names the one that this carries out.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    swarm: SwarmId
    owner: NodeId
    epoch: int
    trunk: Digest
    leaves: tuple[LeafContribution, ...]
    created_at: float
    sums: FeatureSums | None = None
    branches: tuple[BranchContribution, ...] = ()
    proposal: str = ""

    def class_names(self) -> tuple[str, ...]:
        """Return the names of all classes with samples, sorted."""
        return tuple(sorted({name for leaf in self.leaves for name in leaf.class_counts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLeaf:
    """One leaf of a gate. `parent` names the branch that it is a child of, empty at the top.

    `class_names` are the classes with samples, sorted. `has_columns`: `weights` has a column for each.
    `manifest` pins the version that answers, by its digest; empty: the head.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    owner: NodeId
    expert: ExpertId
    class_names: tuple[str, ...]
    parent: str = ""
    has_columns: bool = False
    manifest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateBranch:
    """A leaf that was split. Its children (leaves and branches that name it as `parent`) share its weight: by
    a learned binary gate (`is_learned`: the first of two children by number has the logistic of it), else by
    their own scores or prototypes."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    owner: NodeId
    parent: str = ""
    is_learned: bool = False


ChangeKind = Literal[
    "contribute", "fit", "rollback", "withdraw", "split", "settle", "add", "merge", "remove", "retire"
]
"""Why a gate came: `split` puts exact copies under a branch, `settle` decides on what was trained since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChange:
    """What changed from the gate before: `proposal` names the growth that it belongs to (empty: none), `cost`
    what it takes: `train_flops`, `gate_flops` and `expert_flops` for a query, before and after."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    kind: ChangeKind
    proposal: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatement:
    """A version of the gate: a pure function of specification, trunk, contributions, ridge, temperatures.

    `arrays`: `prototypes.<row into leaves>` float32 [P, R] for each leaf, then `branch.<row into branches>`
    likewise; `log_prior` float32 [K] and `radii` float32 [K, 3] over the K prototypes of all leaves, then of
    all branches, in that order; `split.<row into branches>` float32 [R + 1] where that is learned. Kind
    `analytic` adds `weights` float32 [M, T]: one column for each leaf and class, leaves in their order and
    each leaf's `class_names` in theirs; and where there are branches `branch_weights` float32 [M, Tb], one
    for each branch and class of its leaves (sorted), in the order of branches: what its region is scored by.
    Leaves whose owner gave no sums have no columns (`has_columns`). `combinations` are the best found of each
    kind on validation data; `served` is the place of the one that answers unless a query asks for another.
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
    combinations: tuple[Combination, ...]
    served: int
    ridge: float
    arrays: tuple[TensorEntry, ...]
    evidence: Mapping[str, float]
    reason: str
    created_at: float
    branches: tuple[GateBranch, ...] = ()
    change: GateChange = field(default_factory=lambda: GateChange(kind="contribute"))

    def __post_init__(self) -> None:
        if not 0 <= self.served < len(self.combinations):
            raise InvalidInputError(
                f"gate {self.version}",
                found=f"combination {self.served} of {len(self.combinations)}",
                expected="one that is there",
            )

    def combination(self, name: CombinationName | str = "", top_k: int = 0) -> Combination:
        """Return the combination of that name (empty: the one served) at top_k (0: as it was chosen).

        Where none was chosen at that very top_k, the served or first one of the name is taken to it.
        Raises NotFoundError where this gate has none of the name.
        """
        served = self.combinations[self.served]
        wanted = name or served.name
        of_name = [served] if served.name == wanted else []
        of_name += [each for each in self.combinations if each.name == wanted]
        if not of_name:
            raise NotFoundError(
                f"combination {wanted[:40]!r}",
                found=f"gate {self.version} without it",
                expected=f"one of {', '.join(dict.fromkeys(each.name for each in self.combinations))}",
            )
        if not top_k:
            return of_name[0]
        exact = next((each for each in of_name if each.top_k == top_k), None)
        return exact if exact is not None else replace(of_name[0], top_k=top_k)


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
