"""The training process: `python -m node.learner JOB_DIR` (see `node.jobs` for the folder and its output).

A folder with a `growth.json` is a task of growth (`node.growth.jobs`).

Exit codes: 0 the result is there; 2 the job cannot be done, with the problem as the last line; 1 a fault
of the program; 143 or 130 asked to stop. Started again, it resumes.
"""

import errno
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from node.children import die_with_parent
from node.growth.jobs import GrowthJob, GrowthResult
from node.jobs import RESULT_FILE, JobRecord, LearningJob, LearningResult
from swarm.domain.errors import ExhaustedError, SwarmError, UsageError
from swarm.domain.problems import Problem
from swarm.niceness import step_back

PROBLEM_EXIT = 2
_said: TextIO = sys.stdout
_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job in the folder that the arguments name and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1:
            raise UsageError("learner", found=f"{len(arguments)} arguments", expected="JOB_DIR")
        _run(Path(arguments[0]))
    except SwarmError as error:
        say({"problem": asdict(Problem.of(error))})
        return PROBLEM_EXIT
    return 0


def _run(folder: Path) -> None:
    if (folder / GrowthJob.FILE).exists():
        _do(folder, GrowthResult, lambda: _grow(GrowthJob.read(folder), folder))
    else:
        job = LearningJob.read(folder)
        _do(folder, LearningResult, lambda: _learn(job, folder))
    say({"stage": "done", "message": "the result is written", "fraction": 1.0})


def _do(folder: Path, result: type[JobRecord], work: Callable[[], None]) -> None:
    if (folder / RESULT_FILE).exists():
        result.read(folder)
    else:
        _exhaustion_named(folder, work)


def _grow(job: GrowthJob, folder: Path) -> None:
    from node.growth.working import grow

    grow(job, folder, _report).write(folder)


def _learn(job: LearningJob, folder: Path) -> None:
    import torch

    from node.learning import learn

    torch.set_num_threads(max(1, job.threads))
    learn(job, folder, _report, time.monotonic).write(folder)


def _report(stage: str, message: str, fraction: float) -> None:
    say({"stage": stage, "message": message, "fraction": round(fraction, 4)})


def say(fields: dict[str, object]) -> None:
    """Write one JSON line to standard output at once."""
    print(json.dumps(fields), file=_said, flush=True)


def _keep_standard_output() -> TextIO:
    """Return standard output for `say` alone; what people's own code prints goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _exhaustion_named(folder: Path, work: Callable[[], None]) -> None:
    """Run work; a full disk or memory becomes an ExhaustedError that says so."""
    import torch

    try:
        work()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ExhaustedError(
            f"disk of {folder}",
            found=os.strerror(error.errno),
            expected="room for the job",
            remedy="free some space and train again; training resumes where it was",
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ExhaustedError(
            "memory",
            found=str(error).splitlines()[0] if str(error) else "none left",
            expected="room for data, features and net",
            remedy="use a smaller net or fewer samples",
        ) from error


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # Checkpoints are whole at every moment, so nothing needs tidying up.
    os._exit(128 + number)


if __name__ == "__main__":
    _said = _keep_standard_output()
    # The job's folder holds private samples.
    os.umask(0o077)
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _stop)
    step_back()
    mode = os.fstat(0).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        die_with_parent()
    sys.exit(main())
