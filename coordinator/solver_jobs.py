"""What the coordinator asks of the solver's child process, and what that leaves in the job's folder.

A job is one folder with `job.json`. `python -m coordinator.solver JOB_DIR` ends with 0 and the files that the
job promises, or with 2 and `problem.json`, the error by name. A folder is removed as soon as it was read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from swarm.domain.contributions import Contribution
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.ids import Digest
from swarm.domain.manifests import NetReference
from swarm.domain.problems import Problem
from swarm.domain.specification import TrunkReference
from swarm.domain.tensors import FORBID_UNKNOWN, ModuleEntry

JOB_FILE = "job.json"
PROBLEM_FILE = "problem.json"
ROOT_FILE = "root.json"
ROOT_WEIGHTS_FILE = "root-weights.npz"
Arrays = Mapping[str, NDArray[Any]]
_IN_FILES = (
    "weights",
    "roots",
    "scales",
    "branch_weights",
    "class_targets",
    "class_owners",
    "class_regions",
)
"""The fields of `Solution` with a file of their own each."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJob:
    """Check a contribution's arrays, the file at `arrays`. Leaves nothing where they are sound."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    digest: Digest
    contribution: Contribution
    arrays: str
    trunk: TrunkReference
    kind: Literal["check"] = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Contributions, one per owner and in the order of owners, and the leaves of theirs to solve for.

    Without `branches` all leaves count as regions.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    contributions: tuple[Digest, ...]
    leaves: tuple[GateLeaf, ...]
    branches: tuple[GateBranch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveJob:
    """Solve each group. Leaves for the i-th `prototypes.<i>.npz` and, where a leaf has columns,
    `weights.<i>.npy` float32 [R, M, T], `roots.<i>.npy` float16 [R, M, C] and, with branches,
    `branch_weights.<i>.npy` float32 [R, M, Tb], R being the ridges."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    folder: str
    groups: tuple[Group, ...]
    class_names: tuple[str, ...]
    ridges: tuple[float, ...]
    trunk: TrunkReference
    kind: Literal["solve"] = "solve"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootJob:
    """Make the root's modules of `root-weights.npz`, the arrays of `ClassColumns` for so many classes. Leaves
    `root.json` here, and the blobs among those of `blobs`, where the trunk's are."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    blobs: str
    trunk: TrunkReference
    input_shape: tuple[int, ...]
    class_temperature: float
    classes: int
    kind: Literal["root"] = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootNet:
    """The root as an expert: `net` None where nobody else could build it (a user's own trunk)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    net: NetReference | None
    modules: tuple[ModuleEntry, ...] = ()
    inference_flops: int = 0


Job = CheckJob | SolveJob | RootJob


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """What came of one group.

    `prototypes` are a gate statement's arrays of that kind, by name (empty: no leaves). `weights` float32
    [R, M, T], `branch_weights` float32 [R, M, Tb] and the class columns `roots` float16 [R, M, C] times
    `scales` float32 [R, C] are mapped from a file; None where no leaf, or no branch, has columns. Where the
    classes are unbalanced, the gate scores classes by these: `class_targets` int64 [K] are then those that
    the roots [R, M, K] are of, `class_regions` int64 [K] the places of their regions, and with `class_owners`
    int64 [K] the roots are [R, M, 2K] (`ByClass`). Else these are None. Weights take features in fixed point.
    """

    prototypes: Arrays
    weights: NDArray[np.float32] | None
    roots: NDArray[np.float16] | None
    scales: NDArray[np.float32] | None = None
    branch_weights: NDArray[np.float32] | None = None
    class_targets: NDArray[np.int64] | None = None
    class_owners: NDArray[np.int64] | None = None
    class_regions: NDArray[np.int64] | None = None

    def write(self, folder: Path, number: int) -> None:
        """Leave the arrays in folder."""
        arrays: dict[str, Any] = dict(self.prototypes)
        np.savez(folder / f"prototypes.{number}.npz", **arrays)
        for name in _IN_FILES:
            if (array := getattr(self, name)) is not None:
                np.save(folder / f"{name}.{number}.npy", array)

    @classmethod
    def read(cls, folder: Path, number: int) -> "Solution":
        """Return what `write` left; the weights stay valid after the folder is gone."""
        with np.load(folder / f"prototypes.{number}.npz", allow_pickle=False) as stored:
            prototypes = {name: stored[name] for name in stored.files}

        def mapped(name: str) -> NDArray[Any] | None:
            path = folder / f"{name}.{number}.npy"
            return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None

        return cls(prototypes=prototypes, **{name: mapped(name) for name in _IN_FILES})


def write_job(folder: Path, job: Job) -> None:
    """Leave a job for the child."""
    (folder / JOB_FILE).write_bytes(TypeAdapter(Job).dump_json(job))


def read_job(folder: Path) -> Job:
    """Return the job that was left."""
    return TypeAdapter(Job).validate_json((folder / JOB_FILE).read_bytes())


def write_record(path: Path, record: Problem | RootNet) -> None:
    """Leave a record for the parent."""
    path.write_bytes(TypeAdapter(type(record)).dump_json(record))


def read_record(path: Path, cls: type[_T]) -> _T:
    """Return the record that the child left."""
    return TypeAdapter(cls).validate_json(path.read_bytes())
