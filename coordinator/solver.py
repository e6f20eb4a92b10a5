"""The solver's child process: checks contributions and solves gates, away from queries and their memory.

`python -m coordinator.solver JOB_DIR` reads contributions as mapped files, so that memory holds a few M x M
matrices (seven at most, by discriminants of several owners) and no owner's sums. It never decides anything:
the same job gives the same bits.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coordinator.contribution_arrays import CheckedContribution, check_arrays, read_arrays
from coordinator.contributions import ContributionFiles, mapped
from coordinator.node_columns import solve_nodes
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
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.ids import NodeId
from swarm.domain.problems import Problem
from swarm.gating.class_columns import ClassColumns, halved
from swarm.gating.prototype_gate import build_prototype_gate
from swarm.gating.tree import Tree
from swarm.niceness import step_back


def solve_group(
    contributions: Sequence[CheckedContribution],
    leaves: Sequence[GateLeaf],
    class_names: Sequence[str],
    ridges: Sequence[float],
    fixed_point: float,
    branches: Sequence[GateBranch] = (),
) -> Solution:
    """Return the arrays of a gate with these leaves: a pure function, whatever came and went before.

    Without `branches` all leaves are regions. An owner's sums count where its leaves have columns. Raises
    InvalidInputError where the sums are not positive definite with a ridge, ShapeMismatchError for leaves
    that the contributions do not have.
    """
    of_owner: dict[NodeId, CheckedContribution] = {each.contribution.owner: each for each in contributions}
    _check_known(contributions, leaves)
    if not leaves:
        return Solution(prototypes={}, weights=None, roots=None)
    tree = Tree.of(leaves, branches) if branches else Tree.flat(len(leaves))
    splits = {
        row: split
        for row, branch in enumerate(branches)
        if branch.is_learned and (split := of_owner[branch.owner].split_of(branch.leaf)) is not None
    }
    nodes = [(leaf.owner, leaf.leaf) for leaf in leaves] + [(each.owner, each.leaf) for each in branches]
    prototypes = build_prototype_gate(
        [of_owner[owner].summary_of(leaf) for owner, leaf in nodes],
        1.0,
        [owner for owner, _ in nodes],
        tree,
        splits,
    ).arrays()
    if not ridges or not any(leaf.has_columns for leaf in leaves):
        return Solution(prototypes=prototypes, weights=None, roots=None)
    solved = solve_nodes(contributions, leaves, tree, class_names, ridges, fixed_point)
    by_class = solved.by_class
    roots, scales = halved(solved.roots if by_class is None else by_class.weights)
    return Solution(
        prototypes=prototypes,
        weights=solved.weights,
        roots=roots,
        scales=scales,
        branch_weights=solved.branch_weights,
        class_targets=None if by_class is None else by_class.targets,
        class_owners=None if by_class is None else by_class.owners,
        class_regions=solved.class_regions,
    )


def _check_known(contributions: Sequence[CheckedContribution], leaves: Sequence[GateLeaf]) -> None:
    wanted = [leaf.leaf for leaf in leaves]
    known = {leaf.leaf for each in contributions for leaf in each.contribution.leaves}
    if len(set(wanted)) != len(wanted) or not known.issuperset(wanted):
        raise ShapeMismatchError(
            "gate leaves",
            found=", ".join(wanted)[:200],
            expected=f"some of the contributions', each once: {', '.join(sorted(known))[:200]}",
        )


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
    return solve_group(
        contributions, group.leaves, job.class_names, job.ridges, job.trunk.fixed_point, group.branches
    )


def _make_root(job: RootJob, folder: Path) -> None:
    # Torch is loaded by this kind of job only.
    from swarm.experts.flops import forward_flops
    from swarm.experts.ridge_root import ridge_root_net, root_modules
    from swarm.modules.blobs import BlobFiles

    blobs = BlobFiles(Path(job.blobs))
    with np.load(folder / ROOT_WEIGHTS_FILE, allow_pickle=False) as stored:
        columns = ClassColumns(
            weights=stored["weights"], rows=stored["rows"], classes=job.classes, owners=stored.get("owners")
        )
    made = root_modules(job.trunk, blobs.open_verified, columns, job.class_temperature, job.input_shape)
    if made is None:
        write_record(folder / ROOT_FILE, RootNet(net=None))
        return
    net, modules, data = made
    for each in data.values():
        blobs.put(each)
    flops = forward_flops(ridge_root_net(net, net.factory.partition(":")[2]), job.input_shape)
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
    step_back()
    try:
        run(read_job(folder), folder)
    except SwarmError as error:
        write_record(folder / PROBLEM_FILE, Problem.of(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
