"""The signed statement of a gate's version: leaves, branches, combinations, and what changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from swarm.domain.combination import USES_EXPERTS, Combination, CombinationName
from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN, TensorEntry


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GateHistory:
    """Signed statements of gates one after the other, oldest first: of the versions from `oldest` on that can
    be read. `current` is the version that counts, 0 before the first."""

    envelopes: tuple[bytes, ...]
    oldest: int
    current: int


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
    Where classes differ much in their samples, `class_weights` float16 [M, K] times
    `class_weights.scales` float32 [K] score the classes `class_targets` int64 [K] instead of the sum over the
    leaves (`swarm.gating.discriminants`), `class_regions` int64 [K] the places of their regions in the tree;
    of several owners, told apart by `class_owners` int64 [K], there are 2K columns and scales
    (`swarm.gating.owner_discriminants`). Leaves and branches are then scored by `node_weights` float32
    [M, N], the sums over the classes of `weights` for each leaf with columns and of `branch_weights` for each
    branch with columns, instead of by these. Leaves whose owner gave no sums have no columns (`has_columns`).
    `combinations` are the best found of each kind on validation data; `served` is the place of the one that
    answers unless a query asks for another.
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

        Where none was chosen at that very top_k, the served or first one of the name is taken to it, without
        its calibration. One that asks no expert is the same at any top_k.
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
        if not top_k or wanted not in USES_EXPERTS:
            return of_name[0]
        exact = next((each for each in of_name if each.top_k == top_k), None)
        return exact if exact is not None else replace(of_name[0], top_k=top_k, calibration=0.0)
