"""What the agent asks of the training process, and what that leaves in the job's folder.

A job is one folder. The agent writes `job.json` and starts `python -m node.learner JOB_DIR`; killed at any
moment and started again, the process goes on from its checkpoints. What it leaves:

- `result.json`: a LearningResult, written last, so its presence says that the job is done;
- `blobs/`: content-addressed files (`swarm.modules.blobs.BlobFiles`) with the new experts' weights;
- `leaf-<number>.npz`: each leaf's `prototypes`, `prototype_counts` and `radii`;
- `leaf-<number>.sums.npz`: each leaf's sums (`node.sums`);
- `leaf-<number>.shard.npz`: where each leaf's samples are (`node.shard_source`);
- `leaf-<number>.memory`: what the next update of each leaf needs (`swarm.experts.updating`); raw samples;
- `waiting.npz`: samples of a stream that wait for more of their kind (`node.stream.gathered`);
- `contribution.bin`: the one blob of the contribution's tensors, which `result.json` describes;
- `validation.npz`: raw `inputs` and `labels` (class names), held out first. It never leaves the node.

Standard output carries one JSON object a line: `{"stage", "message", "fraction"}`, or, before exit code 2,
`{"problem": {"code", "subject", "found", "expected", "remedy"}}`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from swarm.domain.agent import TrainOrder
from swarm.domain.contributions import BranchContribution, FeatureSums, LeafContribution
from swarm.domain.errors import InvalidInputError, NotFoundError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, number_of
from swarm.domain.inference import Listing
from swarm.domain.manifests import Correction, Cost, NetReference
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry, TensorEntry

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
VALIDATION_FILE = "validation.npz"
CONTRIBUTION_FILE = "contribution.bin"
WAITING_FILE = "waiting.npz"
BLOBS_FOLDER = "blobs"
DEFAULT_NET = "mlp:128x2"


class JobRecord:
    """Reading and writing as one JSON file that is there entirely or not at all."""

    __slots__ = ()
    FILE: ClassVar[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the record in folder; NotFoundError if there is none, InvalidInputError if malformed."""
        path = folder / cls.FILE
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFoundError(str(path), found="no such file", expected="a training job's folder") from None
        except ValidationError as error:
            raise InvalidInputError(str(path), found=str(error.errors()[0]["msg"])) from None

    def write(self, folder: Path) -> None:
        """Write the record into folder, replacing it in one step."""
        temporary = folder / f".{self.FILE}.{os.getpid()}"
        with temporary.open("wb") as file:
            file.write(TypeAdapter(type(self)).dump_json(self, indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / self.FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedWeights:
    """An expert's weights that a leaf may start from: of its parent, trained while that was split, or an
    imported one's. The modules lie in the job's `blob_folder`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    manifest: Digest
    net: NetReference
    class_names: tuple[str, ...]
    modules: tuple[ModuleEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingBranch:
    """A leaf that was split: `prototypes` is the path of the summary that it had as a leaf, `split` that of
    its learned binary gate (`.npy`, float32 [R + 1]; empty: its children decide)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    prototypes: str
    parent: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingLeaf:
    """A leaf that the node owns already: training continues it from its head's weights.

    `modules` lie in the job's `blob_folder`. `class_counts`, `prototypes` and `sums` are of the job that
    trained it last: `prototypes` is the path of its summary (`.npz`), by which new clusters are matched to
    leaves, `sums` that of its sums; each empty if it is lost. `parent` names the branch that it is a child of
    (empty: at the top). `memory` is the path of what its update remembers, `shard` that of where its samples
    are (empty: none). `offered` are weights that its parent was trained to while it was split: it starts
    from them where they are better on its validation samples. `moved_out` are the proposals by which samples
    that it stood for are in another leaf.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    version: int
    net: NetReference
    class_names: tuple[str, ...]
    modules: tuple[ModuleEntry, ...]
    prototypes: str = ""
    sums: str = ""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    parent: str = ""
    offered: "OfferedWeights | None" = None
    memory: str = ""
    shard: str = ""
    moved_out: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return number_of(self.leaf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lender:
    """A peer's leaf in the active gate; its prototypes lie in the job's blob folder."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    expert: ExpertId
    prototypes: TensorEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningJob(JobRecord):
    """One training run. `blob_folder` (a BlobFiles folder, e.g. the node's cache) holds the trunk's blobs,
    the existing leaves' weights and, where corrections are to be trained, the arrays of `gate`, whose
    statement has digest `gate_digest`. `default_net` is used where the order names no net. `lenders` are the
    peers whose experts a new leaf may start from, `branches` the node's leaves that were split, `start` an
    imported expert that new leaves begin with."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = JOB_FILE

    node: NodeId
    order: TrainOrder
    specification: Specification
    blob_folder: str
    existing: tuple[ExistingLeaf, ...] = ()
    first_free_leaf: int = 1
    default_net: str = DEFAULT_NET
    threads: int = 1
    gate: GateStatement | None = None
    gate_digest: str = ""
    lenders: tuple[Lender, ...] = ()
    branches: tuple[ExistingBranch, ...] = ()
    start: OfferedWeights | None = None

    @property
    def net(self) -> str:
        """The factory of the experts to train."""
        return self.order.net or self.default_net


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLeaf:
    """One trained leaf, everything that its manifest and its part of the contribution need.

    `class_names` is in the order of the net's outputs; `class_counts` counts the shard's training samples.
    `parent_version` is the version that was continued, 0 for a new leaf. `summary`, `sums`, `shard` and
    `memory` (empty: none) name files of the job's folder. `borrowed_from` is the manifest's digest of the
    peer's expert that it began with (empty: its own or random weights). After a dry run `modules` is empty,
    metrics are missing.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    parent_version: int
    class_names: tuple[str, ...]
    class_counts: Mapping[str, int]
    net: NetReference
    modules: tuple[ModuleEntry, ...]
    summary: str
    metrics: Mapping[str, float]
    cost: Cost
    sums: str = ""
    borrowed_from: str = ""
    shard: str = ""
    memory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinedLeaf:
    """An existing leaf with a new correction; everything else of its expert stays as it is."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaf: LeafId
    class_counts: Mapping[str, int]
    correction: Correction


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionDraft:
    """What a contribution will say, but for its epoch; its tensors lie in the job's `contribution.bin`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    leaves: tuple[LeafContribution, ...]
    sums: FeatureSums | None
    size_bytes: int
    branches: tuple[BranchContribution, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningResult(JobRecord):
    """What a job came to. `listings` is what would leave this machine if the result were published.

    `samples` counts training samples, without the `validation_samples` held out first.
    `features_flops`, `clustering_flops` and `sums_flops` come on top of the leaves' own costs.
    `idle_leaves` are existing leaves that got no data this time; `contribution` also holds those of them
    whose summaries are kept (None: nothing to contribute). `notes` are for the person who trains.
    `forward_flops` is the part of `train_flops` that was forward passes (what an update strategy adds is not
    taken apart).
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = RESULT_FILE

    dataset: str
    dry_run: bool
    leaves: tuple[LearnedLeaf, ...]
    idle_leaves: tuple[LeafId, ...]
    samples: int
    validation_samples: int
    features_flops: int
    clustering_flops: int
    sums_flops: int
    duration_s: float
    device: str
    listings: tuple[Listing, ...]
    notes: tuple[str, ...] = ()
    contribution: ContributionDraft | None = None
    refined: tuple[RefinedLeaf, ...] = ()
    forward_flops: int = 0

    @property
    def train_flops(self) -> int:
        """Everything that the job cost: features, clusters, sums, and the training of weights."""
        costs = [leaf.cost for leaf in self.leaves] + [leaf.correction.cost for leaf in self.refined]
        trained = sum(cost.train_flops for cost in costs)
        return trained + self.features_flops + self.clustering_flops + self.sums_flops
