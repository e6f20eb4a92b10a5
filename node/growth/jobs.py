"""What the agent asks of the process that grows, and what that leaves in the job's folder.

As with training (`node.jobs`): the agent writes `growth.json` and starts `python -m node.learner FOLDER`,
which writes `result.json` last, and beside it `blobs/`, `contribution.bin` and each leaf's files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from node.jobs import ContributionDraft, JobRecord, OfferedWeights
from swarm.domain.contributions import Contribution
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, LeafId, NodeId
from swarm.domain.manifests import Correction, Cost, Manifest, NetReference, Parent
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry

GrowthTask = Literal["split", "child", "regate", "merge", "remove", "retrain", "add"]
"""split: exact copies of a leaf; child: train one of them; regate: fit the branch's learned gate anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowingLeaf:
    """An own leaf as it is: its expert's version `digest`, and the files of what is kept of it (`shard`:
    where its samples are; `sums`: its own sums; each empty if there is none)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    digest: Digest
    manifest: Manifest
    shard: str = ""
    sums: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthJob(JobRecord):
    """One task of a proposal. `leaves` are those that it is about, `new_leaves` the ids for those it makes.

    `contribution` is the one to change, its arrays the file `arrays`; `others` are the node's further leaves
    in it. `validation` is the file of the node's validation samples, `shard` where the samples of a leaf to
    add are, `held` the files that name what is on its way into other leaves, and `regions` that of the
    prototypes that it has in common with other nodes (empty: its own). The blobs of trunk, weights
    and `gate` lie in `blob_folder`. `ancestor` is the version from which the leaves to merge came.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "growth.json"

    node: NodeId
    proposal: str
    task: GrowthTask
    specification: Specification
    blob_folder: str
    validation: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    leaves: tuple[GrowingLeaf, ...] = ()
    others: tuple[GrowingLeaf, ...] = ()
    new_leaves: tuple[LeafId, ...] = ()
    contribution: Contribution | None = None
    arrays: str = ""
    gate: GateStatement | None = None
    gate_digest: str = ""
    offered: OfferedWeights | None = None
    ancestor: Manifest | None = None
    shard: str = ""
    held: tuple[str, ...] = ()
    regions: str = ""
    net: str = ""
    import_paths: tuple[str, ...] = ()
    steps: int = 1000
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownLeaf:
    """A version that a task made. `summary`, `sums` and `shard` name files of the job's folder; without a
    summary the leaf stands for the same samples as before."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    net: NetReference
    class_names: tuple[str, ...]
    class_counts: Mapping[str, int]
    modules: tuple[ModuleEntry, ...]
    parents: tuple[Parent, ...]
    metrics: Mapping[str, float]
    cost: Cost
    correction: Correction | None = None
    summary: str = ""
    sums: str = ""
    shard: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshapedLeaf:
    """A leaf of which samples moved to another one: its class counts before and after, and those of what
    moved. The job's folder has its files as `before-<number>`, `leaf-<number>` and `moved-<number>`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    before: Mapping[str, int]
    after: Mapping[str, int]
    moved: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthResult(JobRecord):
    """What a task came to. `split_gate` names the file of a branch's learned gate (empty: it has none);
    `reshaped` are leaves that gave samples away."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "result.json"

    task: GrowthTask
    leaves: tuple[GrownLeaf, ...]
    contribution: ContributionDraft | None = None
    split_gate: str = ""
    reshaped: tuple[ReshapedLeaf, ...] = ()
    notes: tuple[str, ...] = ()
