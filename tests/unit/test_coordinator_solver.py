"""The solver's child process: the same bits as here, honest errors by name, nothing left behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator import solver_process
from coordinator.candidate import Candidate, plan_group
from coordinator.contribution_arrays import CheckedContribution, read_arrays
from coordinator.contributions import ContributionFiles
from coordinator.solver import solve_group
from coordinator.solver_jobs import CheckJob, Group, Solution, SolveJob, read_job, write_job
from coordinator.solver_process import Solver
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    ShapeMismatchError,
    SwarmError,
    VerificationError,
)
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import NodeId
from swarm.domain.problems import Problem
from swarm.domain.specification import Specification
from swarm.forking.forks import Forks
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.gate_arrays import ROOT_ARRAYS, Placed
from swarm.gating.regions import LeafSummary
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.contributions import (
    Arrays,
    GivenBranch,
    GivenLeaf,
    arrays_of,
    contribution_of,
    grown_contribution,
)
from tests.support.trust import manifest, specification

SIZE = 7
RIDGES = (30.0, 300.0)
SIGNER = Signer.generate()
LABELS = ["beech"] * 30 + ["élm"] * 25


def spec() -> Specification:
    made = specification()
    return replace(made, trunk=replace(made.trunk, feature_size=SIZE))


def features_of(owner: str) -> NDArray[np.float32]:
    generator = np.random.default_rng(sum(owner.encode()))
    return generator.normal(size=(len(LABELS), SIZE)).astype(np.float32)


class Store:
    """Contributions in a folder, and the solver over them."""

    def __init__(self, folder: Path) -> None:
        self.files = ContributionFiles(folder / "contributions")
        self.jobs = folder / "solver"
        self.solver = Solver(self.jobs, folder / "contributions", folder / "blobs")

    async def add(
        self, owner: str, form: str = "exact", labels: Sequence[str] = LABELS
    ) -> Statement[Contribution]:
        arrays = arrays_of(features_of(owner), labels, spec().trunk, form)
        return await self.keep(*contribution_of(owner, labels, arrays, spec()))

    async def keep(self, value: Contribution, blob: bytes) -> Statement[Contribution]:
        statement = read_statement(sign_statement(value, SIGNER), Contribution)
        arrived = await self.files.receive(value, chunks(blob))
        self.files.keep(statement.digest, statement.envelope, arrived)
        return statement

    async def solve(self, given: Sequence[Statement[Contribution]]) -> tuple[Group, Arrays]:
        heads = {manifest(s.value.owner).expert: manifest(s.value.owner) for s in given}
        group = plan_group(given, heads)
        found = (await self.solver.solve([group], spec().class_names, RIDGES, spec().trunk))[0]
        assert found.weights is not None and found.roots is not None
        return group, arrays_in(found)


def arrays_in(found: Solution) -> Arrays:
    named = {
        "weights": found.weights,
        "roots": found.roots,
        "scales": found.scales,
        "class_targets": found.class_targets,
        "class_owners": found.class_owners,
        "class_regions": found.class_regions,
    }
    return found.prototypes | {name: array for name, array in named.items() if array is not None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


async def chunks(blob: bytes) -> AsyncIterator[bytes]:
    yield blob


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == np.asarray(array).tobytes(), name


async def test_the_child_gives_the_bits_that_this_process_gives_and_leaves_nothing(store: Store) -> None:
    given = [await store.add(owner, form) for owner, form in (("ada", "exact"), ("bob", "compact"))]
    group, found = await store.solve(given)
    checked = [read_arrays(s.digest, s.value, store.files.arrays(s.digest)) for s in given]
    here = solve_group(checked, group.leaves, spec().class_names, RIDGES, spec().trunk.fixed_point)
    assert_same(found, arrays_in(here))
    assert list(store.jobs.iterdir()) == []


async def test_classes_of_very_different_sizes_are_scored_by_discriminants_and_nothing_stays_of_who_leaves(
    store: Store,
) -> None:
    few = ["beech"] * 50 + ["élm"] * 5
    ada, cyd = await store.add("ada", labels=few), await store.add("cyd", labels=few)
    group, never = await store.solve([ada, cyd])
    bob = await store.add("bob", labels=few)
    _, with_bob = await store.solve([cyd, bob, ada])
    assert with_bob["roots"].tobytes() != never["roots"].tobytes()
    _, without = await store.solve([cyd, ada])
    assert_same(without, never)
    checked = [read_arrays(s.digest, s.value, store.files.arrays(s.digest)) for s in (ada, cyd)]
    fixed_point = spec().trunk.fixed_point
    here = solve_group(checked, group.leaves, spec().class_names, RIDGES, fixed_point)
    assert here.roots is not None and here.scales is not None and here.roots.dtype == np.float16
    assert_same(never, arrays_in(here))
    candidate = Candidate(group=group, ridges=RIDGES, solution=here, has_corrections=False)
    served, tried = candidate.arrays(300.0), candidate.trial_arrays()
    assert np.array_equal(served["class_weights"], tried["root.1"])  # what is tried is what will be served
    assert np.array_equal(served["class_weights.scales"], tried["root.1.scales"])
    assert here.class_targets is not None and here.class_targets.tolist() == [0, 0, 1, 1]  # a region each
    assert np.array_equal(candidate.arrays(300.0)["class_targets"], here.class_targets)
    assert np.array_equal(candidate.trial_arrays()["class_targets"], here.class_targets)
    assert here.class_owners is not None and here.class_owners.tolist() == [0, 1, 0, 1]
    assert here.roots.shape[2] == 8  # between the owners, and within them
    assert np.array_equal(served["class_owners"], tried["class_owners"])
    assert here.class_regions is not None and here.class_regions.tolist() == [0, 1, 0, 1]
    assert served.keys() >= {"node_weights", "class_regions"} and "weights" not in served


async def test_classes_of_similar_sizes_are_scored_by_the_leaves_columns(store: Store) -> None:
    _, found = await store.solve([await store.add("ada"), await store.add("cyd")])
    assert "class_targets" not in found


@pytest.mark.parametrize("form", ["exact", "compact"])
async def test_the_gate_without_an_owner_has_the_bits_of_the_gate_that_never_had_it(
    store: Store, form: str
) -> None:
    ada, cyd = await store.add("ada", form), await store.add("cyd", form)
    _, never = await store.solve([ada, cyd])
    bob = await store.add("bob", form)
    _, with_bob = await store.solve([cyd, bob, ada])
    assert with_bob["weights"].shape != never["weights"].shape
    store.files.remove_owner(NodeId("bob"))
    _, without = await store.solve([cyd, ada])
    assert_same(without, never)


def test_an_owners_leaves_count_together() -> None:
    ada, bob = checked("ada", LABELS, 1), checked("bob", 2 * LABELS, 4)
    leaves = [
        GateLeaf(
            leaf=leaf.leaf,
            owner=each.contribution.owner,
            expert=leaf.expert,
            class_names=tuple(sorted(leaf.class_counts)),
            has_columns=False,
        )
        for each in (ada, bob)
        for leaf in each.contribution.leaves
    ]
    found = solve_group([ada, bob], leaves, spec().class_names, (), spec().trunk.fixed_point).prototypes
    counts = np.expm1(found["log_prior"].astype(np.float64))
    of_ada = len(found["prototypes.0"])
    assert counts[:of_ada].sum() == pytest.approx(len(LABELS), rel=1e-4)
    assert counts[of_ada:].sum() == pytest.approx(4 * len(LABELS), rel=1e-4)  # of eight times as many


def checked(owner: str, labels: list[str], leaves: int) -> CheckedContribution:
    """An owner's contribution without sums, of so many leaves with these samples."""
    features = np.random.default_rng(0).normal(size=(len(labels), SIZE)).astype(np.float32)
    arrays = arrays_of(features, labels, spec().trunk, "none")
    parts = [contribution_of(owner, labels, arrays, spec(), number=number + 1) for number in range(leaves)]
    whole = replace(parts[0][0], leaves=tuple(leaf for value, _ in parts for leaf in value.leaves))
    summary = LeafSummary(
        prototypes=arrays["prototypes"], counts=arrays["prototype_counts"], radii=arrays["radii"]
    )
    return CheckedContribution(digest=digest_of(b"x"), contribution=whole, summaries=(summary,) * leaves)


async def test_a_gate_with_branches_comes_back_from_the_child_with_the_bits_that_this_process_gives(
    store: Store,
) -> None:
    features, labels = features_of("ada"), np.array(LABELS)
    first = np.arange(len(labels)) % 2 == 0
    parts = {
        number: GivenLeaf(features=features[rows], labels=labels[rows].tolist(), parent=1)
        for number, rows in ((3, ~first), (2, first))
    }
    branch = GivenBranch(features=features, split=np.ones(SIZE + 1, np.float32))
    value, blob = grown_contribution("ada", parts, {1: branch}, spec())
    ada = await store.keep(value, blob)
    bob = await store.add("bob", "compact")
    heads = {manifest("ada", number).expert: manifest("ada", number) for number in (2, 3)}
    heads |= {manifest("bob").expert: manifest("bob")}
    group = plan_group([bob, ada], heads)
    assert [leaf.leaf for leaf in group.leaves] == ["ada.l2", "ada.l3", "bob.l1"]
    assert [(each.leaf, each.is_learned) for each in group.branches] == [("ada.l1", True)]
    found = (await store.solver.solve([group], spec().class_names, RIDGES, spec().trunk))[0]
    checked = [
        read_arrays(d, store.files.statement(d).value, store.files.arrays(d)) for d in group.contributions
    ]
    here = solve_group(
        checked, group.leaves, spec().class_names, RIDGES, spec().trunk.fixed_point, group.branches
    )
    assert_same(vars_of(found), vars_of(here))
    candidate = Candidate(group=group, ridges=RIDGES, solution=found, has_corrections=False)
    arrays = candidate.arrays(300.0)
    names = ["prototypes.0", "prototypes.1", "prototypes.2", "branch.0", "log_prior", "radii", "split.0"]
    assert list(arrays) == [*names, "weights", "branch_weights"]
    assert arrays["branch_weights"].shape == (SIZE + 1, 2) and len(candidate.prototype_temperatures()[0]) == 7
    whole = await store.add("ada")
    _, before = await store.solve([whole, bob])
    np.testing.assert_array_equal(arrays["branch_weights"], before["weights"][1][:, :2])
    np.testing.assert_array_equal(found.roots, before["roots"])


async def test_where_classes_have_columns_leaves_and_branches_are_scored_by_sums_over_classes(
    store: Store,
) -> None:
    """As by each class's columns, in a gate with a branch, an owner without sums and two with."""
    features = features_of("ada")
    names = np.array(["beech"] * (len(LABELS) - 4) + ["élm"] * 4)
    first = np.arange(len(names)) % 2 == 0
    parts = {
        number: GivenLeaf(features=features[rows], labels=names[rows].tolist(), parent=1)
        for number, rows in ((3, ~first), (2, first))
    }
    value, blob = grown_contribution("ada", parts, {1: GivenBranch(features=features)}, spec())
    given = [await store.keep(value, blob), await store.add("bob", "none")]
    given.append(await store.add("cyd", labels=["beech"] * 50 + ["élm"] * 5))
    heads = {manifest("ada", number).expert: manifest("ada", number) for number in (2, 3)}
    heads |= {manifest(name).expert: manifest(name) for name in ("bob", "cyd")}
    group = plan_group(given, heads)
    assert [leaf.has_columns for leaf in group.leaves] == [True, True, False, True]
    checked = [read_arrays(s.digest, s.value, store.files.arrays(s.digest)) for s in given]
    fixed_point = spec().trunk.fixed_point
    found = solve_group(checked, group.leaves, spec().class_names, RIDGES, fixed_point, group.branches)
    candidate = Candidate(group=group, ridges=RIDGES, solution=found, has_corrections=False)
    arrays = candidate.arrays(300.0)
    assert arrays["node_weights"].shape == (SIZE + 1, 4)  # three leaves with columns, and the branch
    assert found.weights is not None and found.branch_weights is not None
    placed, names_of_gate = Placed.of(group.leaves, group.branches), (*spec().class_names, "oak")

    def gate(arrays: Arrays, placed: Placed | None = placed) -> AnalyticGate:
        return AnalyticGate.from_statement_arrays(
            arrays, group.leaves, names_of_gate, fixed_point, False, placed
        )

    by_node = gate(arrays)
    of_classes = {"weights": found.weights[1], "branch_weights": found.branch_weights[1]}
    by_class = gate({name: array for name, array in arrays.items() if name != "node_weights"} | of_classes)
    scores, expected = by_node.scores(features), by_class.scores(features)
    np.testing.assert_allclose(
        by_node.leaf_weights(scores, 0.5), by_class.leaf_weights(expected, 0.5), rtol=1e-4
    )
    np.testing.assert_array_equal(by_node.class_scores(scores), by_class.class_scores(expected))
    assert by_node.flops_per_query < by_class.flops_per_query
    root = {name: arrays[name] for name in ROOT_ARRAYS if name in arrays}
    alone = gate(root, None)
    np.testing.assert_array_equal(alone.class_scores(alone.scores(features)), by_node.class_scores(scores))
    answered = by_node.class_scores(scores).argmax(axis=1)
    shares = by_node.region_shares(scores, answered)
    assert shares.shape == (len(features), 3) and (shares.sum(axis=1) == 1).all()
    assert not shares[:, 1].any() and shares[:, 0].mean() > 0.9  # bob gave no sums; these are ada's samples
    unknown = np.full(len(features), 2)
    assert not by_node.region_shares(scores, unknown).any()
    for name, changed, named in (
        ("node_weights", arrays["node_weights"][:, 1:], "node_weights"),
        ("node_weights", np.full_like(arrays["node_weights"], np.nan), "node_weights"),
        ("class_regions", arrays["class_regions"][1:], "class_regions"),
        ("class_regions", arrays["class_regions"].astype(np.int32), "class_regions"),
        ("class_regions", arrays["class_regions"] + 3, "class regions"),
    ):
        with pytest.raises(SwarmError, match=named):
            gate(arrays | {name: changed})
    with pytest.raises(ShapeMismatchError, match="class_weights"):
        gate({name: array for name, array in arrays.items() if name != "class_weights"})


def vars_of(found: Solution) -> Arrays:
    """All arrays of a solution."""
    named = {"weights": found.weights, "branch_weights": found.branch_weights, "roots": found.roots}
    return {**found.prototypes, **{name: array for name, array in named.items() if array is not None}}


async def test_several_groups_are_solved_in_one_child_each_as_if_alone(store: Store) -> None:
    given = [await store.add(owner) for owner in ("ada", "bob")]
    heads = {manifest(s.value.owner).expert: manifest(s.value.owner) for s in given}
    groups = [plan_group([each], heads) for each in given]
    found = await store.solver.solve(groups, spec().class_names, (300.0,), spec().trunk)
    for statement, solution in zip(given, found, strict=True):
        _, alone = await store.solve([statement])
        assert solution.weights is not None
        np.testing.assert_array_equal(solution.weights[0], alone["weights"][1])
    plain = await store.solver.solve(groups[:1], spec().class_names, (), spec().trunk)
    assert plain[0].weights is None and "prototypes.0" in plain[0].prototypes


async def test_what_the_child_refuses_comes_back_by_name(store: Store) -> None:
    ada = await store.add("ada")
    path = store.files.arrays_path(ada.digest)
    await store.solver.check(ada.digest, ada.value, path, spec().trunk)
    inflated = arrays_of(features_of("ada"), LABELS, spec().trunk)
    inflated["gram"] *= 1000
    value, blob = contribution_of("ada", LABELS, inflated, spec())
    arrived = await store.files.receive(value, chunks(blob))
    with pytest.raises(InvalidInputError, match="sums of ada"):
        await store.solver.check(ada.digest, value, arrived.path, spec().trunk)
    group, _ = await store.solve([ada])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match="contribution of ada"):
        await store.solver.solve([group], spec().class_names, RIDGES, spec().trunk)
    store.files.remove(ada.digest)
    with pytest.raises(NotFoundError, match=ada.digest[:12]):
        await store.solver.solve([group], spec().class_names, RIDGES, spec().trunk)
    assert list(store.jobs.iterdir()) == []


async def test_a_child_that_takes_too_long_or_dies_is_named_and_its_folder_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await store.add("ada")
    path = store.files.arrays_path(ada.digest)
    monkeypatch.setattr(solver_process, "CHECK_TIMEOUT_S", 0.0)
    with pytest.raises(DeadlineError, match="contribution of ada"):
        await store.solver.check(ada.digest, ada.value, path, spec().trunk)
    monkeypatch.setattr(solver_process, "CHECK_TIMEOUT_S", 60.0)
    monkeypatch.setattr(Forks, "of_this_process", None)
    monkeypatch.setattr(
        solver_process, "command_that_ends_with_us", lambda _: ["sh", "-c", "echo no room >&2; kill -9 $$"]
    )
    with pytest.raises(ExhaustedError, match=r"status -9: no room"):
        await store.solver.check(ada.digest, ada.value, path, spec().trunk)
    assert list(store.jobs.iterdir()) == []


async def test_whoever_stops_waiting_stops_the_child(store: Store) -> None:
    ada = await store.add("ada")
    waiting = asyncio.create_task(
        store.solver.check(ada.digest, ada.value, store.files.arrays_path(ada.digest), spec().trunk)
    )
    while not list(store.jobs.iterdir()):
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list(store.jobs.iterdir()) == []


def test_jobs_and_problems_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = arrays_of(features_of("ada"), LABELS, spec().trunk)
    value, _ = contribution_of("ada", LABELS, arrays, spec())
    check = CheckJob(digest=digest_of(b"x"), contribution=value, arrays="/a", trunk=spec().trunk)
    group = plan_group([], {})
    solve = SolveJob(folder="/f", groups=(group,), class_names=("a",), ridges=(1.0,), trunk=spec().trunk)
    for job in (check, solve):
        write_job(tmp_path, job)
        assert read_job(tmp_path) == job
    error = InvalidInputError("sums of ada", found="x", expected="y", remedy="z")
    again = Problem.of(error).as_error()
    assert (type(again), str(again)) == (InvalidInputError, str(error))
