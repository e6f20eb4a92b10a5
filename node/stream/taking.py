"""What the agent asks of the process that takes a mega-batch (`node.stream.intake`), and what it says."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from node.children import Child
from node.jobs import JobRecord
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateStatement
from swarm.domain.manifests import Manifest
from swarm.domain.problems import Problem
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN

_ATTEMPTS = 3


class BadMegaBatchError(InvalidInputError):
    """What arrived cannot be learned from; the stream goes on without it."""


TRAINING_FILE = "training.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """One of this node's experts: its manifest, and the path of its leaf's summary."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    manifest: Manifest
    prototypes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeJob(JobRecord):
    """What to take, and who answers meanwhile. `state` is the node's folder with what was gathered so far;
    `gate` (None: this node's own leaves) says what is known, its arrays lie in `blob_folder`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "intake.json"

    number: int
    source: str
    import_paths: tuple[str, ...]
    specification: Specification
    blob_folder: str
    state: str
    answering: tuple[Answering, ...]
    test: str = ""
    seed: int = 0
    gate: GateStatement | None = None
    judge_only: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake(JobRecord):
    """What was found (see `node.stream.ledger.Taken`)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "taken.json"

    samples: int = 0
    held_out: int = 0
    error_before: float | None = None
    error: float
    judged: int
    measured_on: str
    fresh: int = 0
    novel: int = 0
    novelty_by: str = ""
    flops_forward: int = 0
    flops_total: int = 0
    seconds: float = 0.0


def parameters_of(manifests: list[Manifest]) -> int:
    """Return how many numbers experts' weights have."""
    modules = [module for manifest in manifests for module in manifest.modules]
    return sum(math.prod(tensor.shape) for module in modules for tensor in module.tensors)


async def carried_out(job: IntakeJob, folder: Path, log: Path) -> Intake:
    """Let a process do the job in its folder and return what it found; what was done already is not again.

    Raises BadMegaBatchError for samples that cannot be used, and where they end the process; other errors
    are not theirs.
    """
    if (folder / Intake.FILE).exists():
        return Intake.read(folder)
    job.write(folder)
    for _ in range(_ATTEMPTS):
        child = await Child.start("node.stream.intake", [str(folder)], log=log)
        try:
            async for said in child.lines():
                if "problem" in said:
                    error = Problem(**said["problem"]).as_error()
                    if said.get("of") != "samples":
                        raise error
                    raise BadMegaBatchError(
                        error.subject, found=error.found, expected=error.expected, remedy=error.remedy
                    )
            status, words = await child.wait(), child.last_words()
        finally:
            await child.stop()
        if status == 0:
            return Intake.read(folder)
    raise BadMegaBatchError(
        f"mega-batch {job.source}",
        found=f"the process that takes it ended with status {status}, {_ATTEMPTS} times ({words})",
        expected="0",
        remedy=f"read {log}",
    )
