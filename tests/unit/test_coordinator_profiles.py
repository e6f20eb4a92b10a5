"""Askers' profiles: whose sums agree with the examples, what is kept of that, and when it ends."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coordinator.active_gate import ActiveGate
from coordinator.agreement import agreeing_owners, root_columns
from coordinator.profile_files import ProfileFiles
from coordinator.profiles import Profiles
from coordinator.query_checks import check_examples, check_profiled
from coordinator.solver_jobs import Group, Solution
from swarm.digests import digest_of
from swarm.domain.errors import (
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    ShapeMismatchError,
    TrunkMismatchError,
)
from swarm.domain.ids import NodeId
from swarm.domain.inference import Examples, Profile, Query
from swarm.gating.ridge import OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from tests.support.answers import CLASSES, FIXED_POINT, KNOWS, SmallSwarm, best, gate, inputs, leaves, spec

ADA, BOB, DAN, EVE = (NodeId(name) for name in KNOWS)
CONVENTIONS = {"ada": "abcd", "bob": "bacd", "dan": "abcd", "eve": "abcd"}
"""What each owner calls the samples of the first, second, third and fourth class."""


def cloud(each: int, seed: int) -> tuple[Any, Any]:
    labels = np.repeat(np.arange(4), each)
    noise = np.random.default_rng(seed).normal(scale=0.2, size=(len(labels), 4))
    return (np.eye(4)[labels] + noise).astype(np.float32), labels


def sums_of(owner: str) -> OwnerSums:
    features, places = cloud(30, len(owner) + ord(owner[0]))
    labels = np.array([CLASSES.index(CONVENTIONS[owner][place]) for place in places])
    q = quantised(features, FIXED_POINT, False)
    return OwnerSums(
        owner=owner,
        samples=len(q),
        columns=target_columns(q, labels, 4),
        exact=pack_triangle(exact_gram(q)),
    )


class InProcess:
    """A solver without its child; it counts what it was asked."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, ...]] = []

    async def solve(
        self, groups: Sequence[Group], class_names: Sequence[str], ridges: Sequence[float], trunk: Any
    ) -> list[Solution]:
        found = []
        for group in groups:
            owners = tuple(dict.fromkeys(leaf.owner for leaf in group.leaves))
            self.groups.append(owners)
            weights = solve([sums_of(owner) for owner in owners], ridges, trunk.fixed_point)
            found.append(Solution(prototypes={}, weights=weights.astype(np.float32), roots=None))
        return found


class OfTwoClasses(InProcess):
    """Alone, and among themselves, owners know the first two classes only."""

    async def solve(
        self, groups: Sequence[Group], class_names: Sequence[str], ridges: Sequence[float], trunk: Any
    ) -> list[Solution]:
        found = await super().solve(groups, class_names, ridges, trunk)
        for solution in found:
            assert solution.weights is not None
            solution.weights[:, 2:, :] = 0
        return found


def everyone(*, without: str = "", version: int = 7) -> ActiveGate:
    """The small gate, its owners all with all classes and with sums."""
    active = gate(version=version)
    rows = tuple(
        replace(leaf, class_names=CLASSES, has_columns=True) for leaf in leaves() if leaf.owner != without
    )
    contributions = tuple(digest_of(leaf.owner.encode()) for leaf in rows)
    value = replace(active.value, leaves=rows, contributions=contributions)
    digest = digest_of(f"gate {version}".encode())
    return replace(active, statement=replace(active.statement, value=value, digest=digest))


def kept_aside(*owners: str) -> Any:
    """What is kept beside any gate: these owners' contributions."""
    rows = {
        NodeId(leaf.owner): (
            digest_of(leaf.owner.encode()),
            (replace(leaf, class_names=CLASSES, has_columns=True),),
        )
        for leaf in leaves()
        if leaf.owner in owners
    }
    return SimpleNamespace(beside=lambda gate: rows)


def profiles(
    folder: Path, solver: InProcess | None = None, aside: tuple[str, ...] = (), **options: Any
) -> Profiles:
    owners = {digest_of(owner.encode()): owner for owner in KNOWS}
    contributions = SimpleNamespace(
        statement=lambda digest: SimpleNamespace(value=SimpleNamespace(owner=owners[digest]))
    )
    return Profiles(
        files=ProfileFiles(folder, **options),
        contributions=contributions,  # type: ignore[arg-type]  # whose each is, is all that is asked
        aside=kept_aside(*aside),
        solver=solver or InProcess(),
        trunk=lambda: spec().trunk,
    )


def examples(convention: str, each: int = 12) -> Examples:
    given, places = cloud(each, 5)
    return Examples(inputs=given, labels=tuple(convention[place] for place in places))


def swarm(folder: Path, solver: InProcess | None = None, **options: Any) -> SmallSwarm:
    return SmallSwarm(everyone(), profiles=profiles(folder, solver, **options))


async def test_an_asker_is_answered_by_the_conventions_of_the_owners_who_agree(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    common = await small.router.make_profile(examples("abcd"), 20)
    swapped = await small.router.make_profile(examples("bacd"), 20)
    assert (common.owners, swapped.owners) == ((ADA, DAN, EVE), (BOB,))
    assert common.accuracy > 0.9 and swapped.accuracy > 0.9 > swapped.accuracy_all
    assert (common.examples, common.gate_version) == (48, 7)
    assert best(await small.ask("abcd", profile=common.id)) == "abcd"
    answer = await small.ask("abcd", profile=swapped.id)
    assert (best(answer), answer.combination, answer.degraded) == ("bacd", "asker", (False,) * 4)
    (source,) = answer.sources[0]
    assert (source.owner, source.manifest, source.weight) == ("coordinator", swapped.id, 1.0)
    assert not any(owner.asked for owner in small.owners.values())


async def test_owners_whose_contributions_are_kept_aside_answer_those_who_agree_with_them(
    tmp_path: Path,
) -> None:
    small = SmallSwarm(everyone(without="bob"), profiles=profiles(tmp_path, aside=("bob",)))
    swapped = await small.router.make_profile(examples("bacd"), 20)
    assert swapped.owners == (BOB,)
    assert best(await small.ask("abcd", profile=swapped.id)) == "bacd"
    common = await small.router.make_profile(examples("abcd"), 20)
    assert common.owners == (ADA, DAN, EVE)
    gone = SmallSwarm(everyone(without="bob"), profiles=profiles(tmp_path))
    with pytest.raises(NotFoundError, match="bob"):
        await gone.ask("a", profile=swapped.id)
    assert (await gone.router.make_profile(examples("bacd"), 20)).id != swapped.id


async def test_examples_that_do_not_tell_owners_apart_bring_nobody_in_who_is_kept_aside(
    tmp_path: Path,
) -> None:
    # Bob swaps a and b; the examples are of c and d only, on which he agrees with everybody.
    small = SmallSwarm(everyone(without="bob"), profiles=profiles(tmp_path, aside=("bob",)))
    shown = examples("abcd")
    kept = [row for row, label in enumerate(shown.labels) if label in "cd"]
    given = Examples(inputs=shown.inputs[kept], labels=tuple(shown.labels[row] for row in kept))
    profile = await small.router.make_profile(given, 20)
    assert BOB not in profile.owners
    assert best(await small.ask("abcd", profile=profile.id)) == "abcd"


async def test_what_all_owners_say_together_is_taken_where_it_gets_more_examples_right(
    tmp_path: Path,
) -> None:
    active = everyone()
    assert active.analytic is not None
    # Alone each owner's solution is swapped for one of them or the other: nobody agrees as well as all do.
    small = SmallSwarm(active, profiles=profiles(tmp_path, OfTwoClasses()))
    profile = await small.router.make_profile(examples("abcd"), 20)
    assert profile.owners == (ADA, BOB, DAN, EVE) and profile.accuracy == profile.accuracy_all == 1.0
    assert best(await small.ask("abcd", profile=profile.id)) == "abcd"


async def test_a_profile_ends_when_an_owner_replaces_its_sums(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(examples("bacd"), 20)
    assert profile.owners == (BOB,)
    value = small.active.value
    anew = tuple(
        digest_of(b"bob, epoch 2") if digest == digest_of(b"bob") else digest
        for digest in value.contributions
    )
    small.active = replace(
        small.active, statement=replace(small.active.statement, value=replace(value, contributions=anew))
    )
    with pytest.raises(NotFoundError, match=r"bob, who withdrew or replaced them"):
        await small.ask("a", profile=profile.id)


async def test_the_same_examples_are_solved_once_and_their_profile_survives_a_restart(tmp_path: Path) -> None:
    solver = InProcess()
    small = swarm(tmp_path, solver)
    first = await small.router.make_profile(examples("bacd"), 20)
    asked = len(solver.groups)
    assert await small.router.make_profile(examples("bacd"), 20) == first
    again = swarm(tmp_path, solver)
    assert await again.router.make_profile(examples("bacd"), 20) == first
    assert len(solver.groups) == asked == 4
    before = (await small.ask("ab", profile=first.id)).probabilities
    np.testing.assert_array_equal((await again.ask("ab", profile=first.id)).probabilities, before)


async def test_a_profile_of_an_older_gate_stays_valid_and_says_so(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(examples("abcd"), 20)
    small.active = everyone(version=8)
    assert (await small.ask("a", profile=profile.id)).gate_version == 7
    newer = await small.router.make_profile(examples("abcd"), 20)
    assert newer.id != profile.id and newer.gate_version == 8


async def test_a_profile_ends_when_one_of_its_owners_withdraws(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(examples("abcd"), 20)
    other = await small.router.make_profile(examples("bacd"), 20)
    small.active = everyone(without="dan", version=8)
    with pytest.raises(NotFoundError, match=r"dan.*--examples"):
        await small.ask("a", profile=profile.id)
    assert not list(tmp_path.glob(f"{profile.id}*"))
    assert await small.ask("a", profile=other.id)


async def test_a_profile_of_another_trunk_is_refused(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(examples("abcd"), 20)
    value = replace(small.active.value, trunk=digest_of(b"another"))
    small.active = replace(small.active, statement=replace(small.active.statement, value=value))
    with pytest.raises(TrunkMismatchError, match="trunk"):
        await small.ask("a", profile=profile.id)


async def test_an_unknown_profile_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--examples"):
        await swarm(tmp_path).ask("a", profile=digest_of(b"nobody's"))


async def test_a_damaged_profile_is_never_used(tmp_path: Path) -> None:
    profile = await swarm(tmp_path).router.make_profile(examples("abcd"), 20)
    path = tmp_path / f"{profile.id}.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(NotFoundError):
        await swarm(tmp_path).ask("a", profile=profile.id)


async def test_only_the_profiles_used_last_are_kept(tmp_path: Path) -> None:
    small = swarm(tmp_path, most=2, in_memory=1)
    first, second = [await small.router.make_profile(examples("abcd", each), 20) for each in (3, 4)]
    for age, profile in ((20, first), (10, second)):
        stamp = (tmp_path / f"{profile.id}.json").stat().st_mtime - age
        os.utime(tmp_path / f"{profile.id}.json", (stamp, stamp))
    await small.ask("a", profile=first.id)
    third = await small.router.make_profile(examples("abcd", 5), 20)
    kept = {path.stem for path in tmp_path.glob("*.json")}
    assert kept == {first.id, third.id} == {path.stem for path in tmp_path.glob("*.npy")}
    with pytest.raises(NotFoundError):
        await small.ask("a", profile=second.id)


async def test_a_profile_needs_sums_and_stands_alone_in_a_query(tmp_path: Path) -> None:
    small = SmallSwarm(gate("prototypes", sums=False), profiles=profiles(tmp_path))
    with pytest.raises(NotReadyError, match="sums"):
        await small.router.make_profile(examples("abcd"), 20)
    profile = digest_of(b"p")
    for beside in ({"owners": (ADA,)}, {"combination": "gate"}, {"top_k": 2}, {"uniform": True}):
        with pytest.raises(InvalidInputError, match="a profile alone"):
            check_profiled(Query(inputs=inputs("a"), profile=profile, **beside))  # type: ignore[arg-type]


def test_examples_are_checked_like_queries_and_their_labels_by_name() -> None:
    value = gate().value
    np.testing.assert_array_equal(
        check_examples(Examples(inputs=inputs("ca"), labels=("c", "a")), spec(), value), [2, 0]
    )
    refusals: list[tuple[Examples, type[Exception], str]] = [
        (Examples(inputs=inputs("a"), labels=("fern",)), InvalidInputError, "'fern'.*one of a, b, c, d"),
        (Examples(inputs=inputs("a"), labels=()), InvalidInputError, "one label for each"),
        (Examples(inputs=inputs("a")[:, :2], labels=("a",)), ShapeMismatchError, "shape"),
        (Examples(inputs=inputs("a").astype(np.int64), labels=("a",)), ShapeMismatchError, "dtype"),
        (Examples(inputs=inputs("a") * np.nan, labels=("a",)), InvalidInputError, "row 0"),
        (Examples(inputs=inputs("a" * 3000), labels=("a",) * 3000), InvalidInputError, "1 to 2048"),
    ]
    for given, error, words in refusals:
        with pytest.raises(error, match=words):
            check_examples(given, spec(), value)


@pytest.mark.parametrize(
    ("correct", "examples_", "agreeing"),
    [
        ({ADA: 40, BOB: 20}, 50, (ADA,)),
        ({ADA: 40, BOB: 35}, 50, (ADA, BOB)),
        ({ADA: 50, BOB: 49, DAN: 40}, 50, (ADA, BOB)),
        ({ADA: 0, BOB: 0}, 5, (ADA, BOB)),
        ({}, 5, ()),
    ],
)
def test_owners_agree_within_two_standard_errors_of_the_best(
    correct: dict[NodeId, int], examples_: int, agreeing: tuple[NodeId, ...]
) -> None:
    assert agreeing_owners(correct, examples_) == agreeing


def test_the_root_sums_the_targets_of_each_class() -> None:
    weights = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(root_columns(weights, np.array([0, 2, 0]), 4), [[4, 0, 2, 0]])


def test_files_without_facts_are_swept_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "half.npy").write_bytes(b"")
    ProfileFiles(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_profile_is_read_as_it_was_kept(tmp_path: Path) -> None:
    profile = Profile(
        id=digest_of(b"p"), owners=(ADA,), examples=3, accuracy=1.0, accuracy_all=0.5, gate_version=2
    )
    root = np.arange(8, dtype=np.float32).reshape(4, 2)
    ProfileFiles(tmp_path).put(
        profile,
        root,
        contributions=(digest_of(b"ada"),),
        class_names=("a", "b"),
        class_temperature=0.1,
        trunk=digest_of(b"t"),
    )
    known = ProfileFiles(tmp_path).get(profile.id)
    assert known is not None and known.facts.profile == profile
    np.testing.assert_array_equal(known.root, root)
