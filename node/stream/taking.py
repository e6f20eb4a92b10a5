"""What the agent asks of the process that takes a mega-batch (`node.stream.intake`), and what it says."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from node.children import Child
from node.jobs import JobRecord
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.manifests import Manifest
from swarm.domain.problems import Problem
from swarm.domain.specification import Specification
from swarm.domain.tensors import FORBID_UNKNOWN


class BadMegaBatchError(InvalidInputError):
    """What arrived cannot be learned from; the stream goes on without it."""


class NotTakenError(SwarmError):
    """What arrived could not be taken, and its samples are not to blame for it. `reason` says why in a few
    words, without names of files."""

    def __init__(
        self, subject: str, *, found: str = "", expected: str = "", remedy: str = "", reason: str
    ) -> None:
        super().__init__(subject, found=found, expected=expected, remedy=remedy)
        self.reason = reason


TRAINING_FILE = "training.npz"
HELD_OUT_FILE = "held_out.npz"
"""What a mega-batch itself gave for validation."""
VALIDATION_SO_FAR = "validation samples gathered so far"
"""What errors are measured on unless a stream is given other data."""


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
    """What was found (see `node.stream.ledger.Taken`). `added_to`: the digest of the validation samples that
    its own were added to."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    FILE: ClassVar[str] = "taken.json"

    samples: int = 0
    held_out: int = 0
    error_before: float | None = None
    error: float
    judged: int
    measured_on: str
    added_to: str = ""
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

    Raises BadMegaBatchError for samples that cannot be used, and for nothing else; NotTakenError where the
    process ended before it was done, or the machine failed it (so does OSError); other errors are the node's.
    """
    if (folder / Intake.FILE).exists():
        return Intake.read(folder)
    job.write(folder)
    child = await Child.start("node.stream.intake", [str(folder)], log=log)
    try:
        async for said in child.lines():
            if "problem" in said:
                raise _error_of(said)
        status, words = await child.wait(), child.last_words()
    finally:
        await child.stop()
    if status == 0:
        return Intake.read(folder)
    by_signal = status < 0
    ended = f"signal {-status}" if by_signal else f"status {status}"
    raise NotTakenError(
        f"mega-batch {job.source}",
        found=f"the process that takes it ended with {ended}{'' if by_signal else f' ({words})'}",
        expected="0",
        remedy=f"read {log}",
        reason=f"its process ended with {ended}",
    )


def _error_of(said: dict[str, Any]) -> SwarmError:
    """Return the error of a process that says what went wrong and whose fault it is."""
    error = Problem(**said["problem"]).as_error()
    match said.get("of"):
        case "samples":
            return BadMegaBatchError(
                error.subject, found=error.found, expected=error.expected, remedy=error.remedy
            )
        case "machine":
            return NotTakenError(
                error.subject,
                found=error.found,
                expected=error.expected,
                remedy=error.remedy,
                reason=str(said["reason"]),
            )
    return error
