"""The solver's child process: checks contributions and solves gates, away from queries and their memory.

`python -m coordinator.solver JOB_DIR` reads contributions as mapped files, so that memory holds one M x M
matrix and no owner's sums. It never decides anything: the same job gives the same bits.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.contribution_arrays import CheckedContribution, check_arrays, read_arrays
from coordinator.contributions import ContributionFiles, mapped
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
    read_job,
    write_record,
)
from swarm.domain.errors import ShapeMismatchError, SwarmError
from swarm.domain.manifests import GateLeaf
from swarm.domain.problems import Problem
from swarm.gating.analytic_gate import target_rows
from swarm.gating.prototype_gate import build_prototype_gate
from swarm.gating.ridge import solve

NICENESS = 10
"""Answers come first."""
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


def solve_group(
    contributions: Sequence[CheckedContribution],
    leaves: Sequence[GateLeaf],
    class_names: Sequence[str],
    ridges: Sequence[float],
    fixed_point: float,
) -> Solution:
    """Return the arrays of a gate with these leaves: a pure function, whatever came and went before.

    An owner's sums count where its leaves have columns. Raises InvalidInputError where the sums are not
    positive definite with a ridge, ShapeMismatchError for leaves that the contributions do not have.
    """
    wanted = {leaf.leaf: leaf for leaf in leaves}
    summaries = {
        leaf.leaf: summary
        for each in contributions
        for leaf, summary in zip(each.contribution.leaves, each.summaries, strict=True)
        if leaf.leaf in wanted
    }
    if list(summaries) != list(wanted):
        raise ShapeMismatchError(
            "gate leaves",
            found=", ".join(wanted)[:200],
            expected=f"those of the contributions, in their order: {', '.join(summaries)[:200]}",
        )
    prototypes: dict[str, NDArray[np.generic]] = {}
    if summaries:
        owned_by = [leaf.owner for leaf in wanted.values()]
        prototypes = build_prototype_gate(list(summaries.values()), 1.0, owned_by).arrays()
    with_columns = {leaf.owner for leaf in leaves if leaf.has_columns}
    owners = [each.sums for each in contributions if each.contribution.owner in with_columns]
    sums = [each for each in owners if each is not None]
    if not sums or not ridges:
        return Solution(prototypes=prototypes, weights=None, roots=None)
    weights = solve(sums, ridges, fixed_point)
    _, class_rows = target_rows(leaves, class_names)
    if weights.shape[2] != len(class_rows):
        raise ShapeMismatchError(
            "gate weights", found=f"{weights.shape[2]} columns", expected=f"{len(class_rows)} targets"
        )
    return Solution(
        prototypes=prototypes,
        weights=weights.astype(np.float32),
        roots=_by_class(weights, class_rows, len(class_names)),
    )


def _by_class(
    weights: NDArray[np.float64], class_rows: NDArray[np.int64], classes: int
) -> NDArray[np.float16]:
    roots = np.zeros((*weights.shape[:2], classes))
    for target, row in enumerate(class_rows):
        roots[:, :, row] += weights[:, :, target]
    return np.clip(roots, -_MAX_FLOAT16, _MAX_FLOAT16).astype(np.float16)


def _check(job: CheckJob) -> None:
    check_arrays(job.digest, job.contribution, mapped(Path(job.arrays)), job.trunk)


def _solve(job: SolveJob, folder: Path) -> None:
    files = ContributionFiles(Path(job.folder), sweep=False)
    known: dict[str, CheckedContribution] = {}
    for number, group in enumerate(job.groups):
        for digest in group.contributions:
            if digest not in known:
                value = files.statement(digest).value
                known[digest] = read_arrays(digest, value, files.arrays(digest))
        _solved(job, group, known).write(folder, number)


def _solved(job: SolveJob, group: Group, known: dict[str, CheckedContribution]) -> Solution:
    contributions = [known[digest] for digest in group.contributions]
    return solve_group(contributions, group.leaves, job.class_names, job.ridges, job.trunk.fixed_point)


def _make_root(job: RootJob, folder: Path) -> None:
    # Torch is loaded by this kind of job only.
    from swarm.experts.flops import forward_flops
    from swarm.experts.ridge_root import ridge_root_net, root_modules
    from swarm.modules.blobs import BlobFiles

    blobs = BlobFiles(Path(job.blobs))
    weights = np.load(folder / ROOT_WEIGHTS_FILE, allow_pickle=False)
    made = root_modules(job.trunk, blobs.open_verified, weights, job.class_temperature, job.input_shape)
    if made is None:
        write_record(folder / ROOT_FILE, RootNet(net=None))
        return
    net, modules, data = made
    for each in data.values():
        blobs.put(each)
    flops = forward_flops(ridge_root_net(net, job.trunk.factory), job.input_shape)
    write_record(folder / ROOT_FILE, RootNet(net=net, modules=modules, inference_flops=flops))


def run(job: Job, folder: Path) -> None:
    """Do a job in this process."""
    if isinstance(job, CheckJob):
        _check(job)
    elif isinstance(job, SolveJob):
        _solve(job, folder)
    else:
        _make_root(job, folder)


def main() -> int:
    """Do the job in the folder that the command line names; return the exit status."""
    folder = Path(sys.argv[1])
    with suppress(OSError):
        os.nice(NICENESS)
    try:
        run(read_job(folder), folder)
    except SwarmError as error:
        write_record(folder / PROBLEM_FILE, Problem.of(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
