"""Run the solver's child: one job at a time per slot, bounded in time, its folder always removed."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from coordinator.solver_jobs import (
    PROBLEM_FILE,
    ROOT_FILE,
    ROOT_WEIGHTS_FILE,
    CheckJob,
    Group,
    Job,
    RootJob,
    RootNet,
    Solution,
    SolveJob,
    read_record,
    write_job,
)
from swarm.domain.contributions import Contribution
from swarm.domain.errors import DeadlineError, ExhaustedError
from swarm.domain.ids import Digest
from swarm.domain.problems import Problem
from swarm.domain.specification import TrunkReference
from swarm.end_with_parent import command_that_ends_with_us
from swarm.forking.forks import Forked, Forks
from swarm.gating.class_columns import ClassColumns

CHECK_TIMEOUT_S = 300.0
SOLVE_TIMEOUT_S = 900.0
"""Exact sums of 6,400 features take some 10 s on two idle cores, and many times that on busy ones."""
AT_ONCE = 2
"""Each job may hold an M x M matrix."""
MOST_THREADS = 4
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LOG_FILE = "log"
SOLVER = "coordinator.solver"
SOLVER_NEEDS = (SOLVER, "scipy.linalg", "scipy.special")
"""What takes its child long to import."""
ROOT_NEEDS = ("swarm.experts.ridge_root", "swarm.experts.flops")
"""What makes a root's child of the solver slow to start: torch, which no other job needs."""

log = structlog.get_logger()


def threads() -> dict[str, str]:
    """Return the settings of a child's environment that say how many threads it may use."""
    return dict.fromkeys(_THREAD_SETTINGS, str(min(MOST_THREADS, os.cpu_count() or 1)))


class Solver:
    """Checks contributions and solves gates in child processes; this process keeps W and not the sums."""

    def __init__(self, folder: Path, contributions: Path, blobs: Path) -> None:
        """`folder` is for jobs alone: what a crash left in it is removed."""
        self._folder, self._contributions, self._blobs = folder, contributions, blobs
        self._slots = asyncio.Semaphore(AT_ONCE)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)

    async def check(
        self, digest: Digest, contribution: Contribution, arrays: Path, trunk: TrunkReference
    ) -> None:
        """Raise by name unless the arrays in a file are what the contribution says and can be true."""
        job = CheckJob(digest=digest, contribution=contribution, arrays=str(arrays), trunk=trunk)
        async with self._job(f"check of the contribution of {contribution.owner}") as run:
            await run.child(job, CHECK_TIMEOUT_S)

    async def solve(
        self,
        groups: Sequence[Group],
        class_names: Sequence[str],
        ridges: Sequence[float],
        trunk: TrunkReference,
    ) -> list[Solution]:
        """Return the solution of each group for each ridge; no ridge: of the prototypes alone.

        Raises VerificationError for a contribution whose file was damaged, NotFoundError for one that is
        gone, and what the solution itself raises.
        """
        job = SolveJob(
            folder=str(self._contributions),
            groups=tuple(groups),
            class_names=tuple(class_names),
            ridges=tuple(float(ridge) for ridge in ridges),
            trunk=trunk,
        )
        async with self._job("solution of the gate") as run:
            await run.child(job, SOLVE_TIMEOUT_S)
            return [
                await asyncio.to_thread(Solution.read, run.folder, number) for number in range(len(groups))
            ]

    async def make_root(
        self,
        columns: ClassColumns,
        class_temperature: float,
        trunk: TrunkReference,
        input_shape: tuple[int, ...],
    ) -> RootNet:
        """Return the root with these columns as a net; its blobs are then among the coordinator's."""
        job = RootJob(
            blobs=str(self._blobs),
            trunk=trunk,
            input_shape=input_shape,
            class_temperature=class_temperature,
            classes=columns.classes,
        )
        async with self._job("root expert") as run:
            file = run.folder / ROOT_WEIGHTS_FILE
            arrays: dict[str, Any] = {"weights": columns.weights, "rows": columns.rows}
            if columns.owners is not None:
                arrays["owners"] = columns.owners
            await asyncio.to_thread(np.savez, file, **arrays)
            await run.child(job, SOLVE_TIMEOUT_S)
            return read_record(run.folder / ROOT_FILE, RootNet)

    @asynccontextmanager
    async def _job(self, subject: str) -> AsyncIterator["_Run"]:
        async with self._slots:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="job-", dir=self._folder))
            try:
                yield _Run(folder, subject)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """One job's folder, and its child."""

    def __init__(self, folder: Path, subject: str) -> None:
        self.folder, self._subject = folder, subject

    async def child(self, job: Job, timeout_s: float) -> None:
        """Run the job to its end; the child is killed with whoever waits for it, and at the timeout."""
        await asyncio.to_thread(write_job, self.folder, job)
        with (self.folder / _LOG_FILE).open("wb") as words:
            needs = SOLVER_NEEDS + (ROOT_NEEDS if isinstance(job, RootJob) else ())
            process = await self._started(needs, words.fileno())
        try:
            async with asyncio.timeout(timeout_s):
                status = await process.wait()
        except TimeoutError:
            raise DeadlineError(
                self._subject,
                found=f"no end after {timeout_s:g} s",
                remedy="give the coordinator's machine more cores, or contribute compact sums",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())
        if status:
            self._raise(status)

    async def _started(self, needs: Sequence[str], words: int) -> asyncio.subprocess.Process | Forked:
        """Return the child, forked where this process forks; what it says goes to the descriptor words."""
        arguments = [str(self.folder)]
        if (forks := Forks.of_this_process) is not None:
            forked = await forks.fork(SOLVER, arguments, needs=needs, errors=words, output=words)
            if forked is not None:
                return forked
        return await asyncio.create_subprocess_exec(
            *command_that_ends_with_us([sys.executable, "-m", SOLVER, *arguments]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env={**os.environ, **threads()},
        )

    def _raise(self, status: int) -> None:
        problem = self.folder / PROBLEM_FILE
        if problem.exists():
            raise read_record(problem, Problem).as_error()
        words = (self.folder / _LOG_FILE).read_bytes()[-8192:].decode(errors="replace").strip()
        log.error("solver.failed", subject=self._subject, status=status, words=words[-2000:])
        raise ExhaustedError(
            self._subject,
            found=f"the solver ended with status {status}: {(words.splitlines() or [''])[-1][-200:]}",
            expected="a result",
            remedy="give the coordinator's machine more memory, or contribute compact sums",
        )
