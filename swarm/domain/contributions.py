"""The signed statement that an owner gives to the gate: leaves, branches and sums."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.tensors import FORBID_UNKNOWN, TensorEntry


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
