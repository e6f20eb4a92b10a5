"""Askers' profiles: whose sums agree with the examples, what is kept of that, and when it ends."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coordinator.agreement import agreeing_owners, is_clearly_better
from coordinator.profile_files import ProfileFiles
from coordinator.profile_turns import MOST_WAITING
from coordinator.profiles import Profiles
from coordinator.solver_jobs import Group, Solution
from swarm.answering.active_gate import ActiveGate
from swarm.answering.query_checks import check_examples, check_profiled
from swarm.digests import digest_of
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    ShapeMismatchError,
    TrunkMismatchError,
)
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import NodeId
from swarm.domain.inference import Examples, Profile, Query
from swarm.domain.membership import Caller
from swarm.gating.class_columns import ClassColumns, halved
from swarm.gating.gate_arrays import target_rows
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


@dataclass(frozen=True)
class World:
    """What each owner calls the samples of the four classes, and of which of these it has any."""

    calls: Mapping[str, str] = field(default_factory=lambda: CONVENTIONS)
    has: Mapping[str, str] = field(default_factory=dict)

    def names(self, owner: str) -> tuple[str, ...]:
        return tuple(sorted(self.calls[owner][CLASSES.index(place)] for place in self.has.get(owner, "abcd")))

    def sums(self, owner: str) -> OwnerSums:
        features, places = cloud(30, len(owner) + ord(owner[0]))
        kept = [CLASSES[place] in self.has.get(owner, "abcd") for place in places]
        labels = np.array([self.names(owner).index(self.calls[owner][place]) for place in places[kept]])
        q = quantised(features[kept], FIXED_POINT, False)
        return OwnerSums(
            owner=owner,
            samples=len(q),
            columns=target_columns(q, labels, len(self.names(owner))),
            exact=pack_triangle(exact_gram(q)),
        )

    def leaves(self, without: str = "") -> tuple[GateLeaf, ...]:
        return tuple(
            replace(leaf, class_names=self.names(leaf.owner), has_columns=True)
            for leaf in leaves()
            if leaf.owner != without
        )


WORLD = World()


class InProcess:
    """A solver without its child; it counts what it was asked."""

    def __init__(self, world: World = WORLD) -> None:
        self.world = world
        self.groups: list[tuple[str, ...]] = []

    async def solve(
        self, groups: Sequence[Group], class_names: Sequence[str], ridges: Sequence[float], trunk: Any
    ) -> list[Solution]:
        found = []
        for group in groups:
            owners = tuple(dict.fromkeys(leaf.owner for leaf in group.leaves))
            self.groups.append(owners)
            weights = solve([self.world.sums(owner) for owner in owners], ridges, trunk.fixed_point)
            found.append(Solution(prototypes={}, weights=weights.astype(np.float32), roots=None))
        return found


class OfTwoRegions(InProcess):
    """Classes have two columns each, of which the first speaks for nothing."""

    async def solve(
        self, groups: Sequence[Group], class_names: Sequence[str], ridges: Sequence[float], trunk: Any
    ) -> list[Solution]:
        found = []
        for group, solved in zip(
            groups, await super().solve(groups, class_names, ridges, trunk), strict=True
        ):
            _, rows = target_rows(group.leaves, class_names)
            assert solved.weights is not None
            root = ClassColumns.summing(solved.weights[0], rows, len(class_names))
            weights = np.repeat(root.weights, 2, axis=1)
            weights[:, ::2] = 0
            weights[-1, ::2] = -9
            roots, scales = halved(weights[None])
            found.append(replace(solved, roots=roots, scales=scales, class_targets=np.repeat(root.rows, 2)))
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


def everyone(*, without: str = "", version: int = 7, world: World = WORLD) -> ActiveGate:
    """The small gate of a world's owners, all with sums, and with their root."""
    active = gate(version=version)
    assert active.analytic is not None
    rows = world.leaves(without)
    leaf_rows, class_rows = target_rows(rows, CLASSES)
    analytic = replace(
        active.analytic,
        weights=solve([world.sums(leaf.owner) for leaf in rows], (1.0,), FIXED_POINT)[0].astype(np.float32),
        leaf_rows=leaf_rows,
        class_rows=class_rows,
        leaves=len(rows),
    )
    contributions = tuple(digest_of(leaf.owner.encode()) for leaf in rows)
    value = replace(active.value, leaves=rows, contributions=contributions)
    digest = digest_of(f"gate {version}".encode())
    statement = replace(active.statement, value=value, digest=digest)
    return replace(active, statement=statement, analytic=analytic)


def kept_aside(*owners: str, world: World = WORLD) -> Any:
    """What is kept beside any gate: these owners' contributions."""
    rows = {
        NodeId(leaf.owner): Group(contributions=(digest_of(leaf.owner.encode()),), leaves=(leaf,))
        for leaf in world.leaves()
        if leaf.owner in owners
    }
    return SimpleNamespace(beside=lambda gate: rows)


ZOE = Caller(role="client", id=NodeId("zoe"))


def profiles(
    folder: Path, solver: InProcess | None = None, aside: tuple[str, ...] = (), **options: Any
) -> Profiles:
    solver = solver or InProcess()
    owners = {digest_of(owner.encode()): owner for owner in KNOWS}
    contributions = SimpleNamespace(
        statement=lambda digest: SimpleNamespace(value=SimpleNamespace(owner=owners[digest]))
    )
    return Profiles(
        files=ProfileFiles(folder, **options),
        contributions=contributions,  # type: ignore[arg-type]  # whose each is, is all that is asked
        aside=kept_aside(*aside, world=solver.world),
        solver=solver,
        trunk=lambda: spec().trunk,
    )


def examples(convention: str, each: int = 12, *, of: str = "abcd") -> Examples:
    given, places = cloud(each, 5)
    kept = [CLASSES[place] in of for place in places]
    return Examples(inputs=given[kept], labels=tuple(convention[place] for place in places[kept]))


def swarm(folder: Path, solver: InProcess | None = None, **options: Any) -> SmallSwarm:
    world = solver.world if solver else WORLD
    return SmallSwarm(everyone(world=world), profiles=profiles(folder, solver, **options))


async def test_an_asker_is_answered_by_the_conventions_of_the_owners_who_agree(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    common = await small.router.make_profile(ZOE, examples("abcd"), 20)
    swapped = await small.router.make_profile(ZOE, examples("bacd"), 20)
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
    swapped = await small.router.make_profile(ZOE, examples("bacd"), 20)
    assert swapped.owners == (BOB,)
    assert best(await small.ask("abcd", profile=swapped.id)) == "bacd"
    common = await small.router.make_profile(ZOE, examples("abcd"), 20)
    assert common.owners == (ADA, DAN, EVE)
    gone = SmallSwarm(everyone(without="bob"), profiles=profiles(tmp_path))
    with pytest.raises(NotFoundError, match="bob"):
        await gone.ask("a", profile=swapped.id)
    assert (await gone.router.make_profile(ZOE, examples("bacd"), 20)).id != swapped.id


async def test_examples_that_do_not_tell_owners_apart_bring_nobody_in_who_is_kept_aside(
    tmp_path: Path,
) -> None:
    # Bob swaps a and b; the examples are of c and d only, on which he agrees with everybody.
    small = SmallSwarm(everyone(without="bob"), profiles=profiles(tmp_path, aside=("bob",)))
    profile = await small.router.make_profile(ZOE, examples("abcd", of="cd"), 20)
    assert BOB not in profile.owners
    assert best(await small.ask("abcd", profile=profile.id)) == "abcd"


PLAIN = dict.fromkeys(KNOWS, "abcd")


@pytest.mark.parametrize(
    "world",
    [
        World(calls=PLAIN, has={"ada": "ab", "bob": "cd", "dan": "cd", "eve": "cd"}),
        World(calls=PLAIN | {"eve": "abdc"}, has={"bob": "cd", "dan": "cd"}),
    ],
    ids=["the others know other classes", "one who agrees swaps what is not shown"],
)
async def test_nobody_is_left_out_where_those_who_agree_are_no_better_than_all(
    tmp_path: Path, world: World
) -> None:
    small = swarm(tmp_path, InProcess(world))
    profile = await small.router.make_profile(ZOE, examples("abcd", 20, of="ab"), 20)
    assert profile.owners == (ADA, BOB, DAN, EVE) and profile.accuracy == profile.accuracy_all > 0.9
    answer = await small.ask("abcd", profile=profile.id)
    assert (best(answer), answer.class_names) == ("abcd", CLASSES)


@pytest.mark.parametrize(("convention", "owners"), [("abcd", (ADA, DAN)), ("bacd", (BOB, EVE))])
async def test_few_examples_tell_two_conventions_apart_that_are_mixed_evenly(
    tmp_path: Path, convention: str, owners: tuple[NodeId, ...]
) -> None:
    small = swarm(tmp_path, InProcess(World(calls=PLAIN | {"bob": "bacd", "eve": "bacd"})))
    profile = await small.router.make_profile(ZOE, examples(convention, 4), 20)
    assert profile.owners == owners and profile.accuracy > profile.accuracy_all
    assert best(await small.ask("abcd", profile=profile.id)) == convention


async def test_a_profile_of_owners_who_know_fewer_classes_answers_by_those_alone(tmp_path: Path) -> None:
    small = swarm(tmp_path, InProcess(World(calls=PLAIN | {"ada": "bacd"}, has={"ada": "ab"})))
    profile = await small.router.make_profile(ZOE, examples("bacd", of="ab"), 20)
    assert profile.owners == (ADA,) and profile.accuracy > profile.accuracy_all
    answer = await small.ask("ab", profile=profile.id)
    assert (answer.class_names, best(answer)) == (("a", "b"), "ba")
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, atol=1e-6)


async def test_who_is_kept_aside_has_to_beat_the_root_of_all_owners_too(tmp_path: Path) -> None:
    # Alone nobody in the gate knows half as much as bob.
    world = World(calls=PLAIN, has={"ada": "ab", "dan": "c", "eve": "d"})
    small = SmallSwarm(
        everyone(without="bob", world=world), profiles=profiles(tmp_path, InProcess(world), aside=("bob",))
    )
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    assert profile.owners == (ADA, DAN, EVE) and profile.accuracy > 0.9


async def test_what_all_owners_say_together_is_taken_where_it_gets_more_examples_right(
    tmp_path: Path,
) -> None:
    active = everyone()
    assert active.analytic is not None
    # Alone each owner's solution is swapped for one of them or the other: nobody agrees as well as all do.
    small = SmallSwarm(active, profiles=profiles(tmp_path, OfTwoClasses()))
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    assert profile.owners == (ADA, BOB, DAN, EVE) and profile.accuracy == profile.accuracy_all == 1.0
    assert best(await small.ask("abcd", profile=profile.id)) == "abcd"


async def test_the_root_of_all_is_the_one_that_answers_by_class_weights_where_there_are_some(
    tmp_path: Path,
) -> None:
    active = everyone()
    assert active.analytic is not None
    right = active.analytic.class_columns
    other = replace(active.analytic, weights=-active.analytic.weights, by_class=right)
    small = SmallSwarm(replace(active, analytic=other), profiles=profiles(tmp_path, OfTwoClasses()))
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    assert profile.accuracy_all == 1.0


async def test_a_class_of_several_regions_is_one_class_of_the_answer(tmp_path: Path) -> None:
    small = swarm(tmp_path, solver=OfTwoRegions())
    profile = await small.router.make_profile(ZOE, examples("bacd"), 20)
    assert profile.owners == (BOB,) and profile.accuracy == 1.0
    answer = await small.ask("abcd", profile=profile.id)
    assert answer.class_names == tuple("abcd") and best(answer) == "bacd"


async def test_a_profile_ends_when_an_owner_replaces_its_sums(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(ZOE, examples("bacd"), 20)
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
    first = await small.router.make_profile(ZOE, examples("bacd"), 20)
    asked = len(solver.groups)
    assert await small.router.make_profile(ZOE, examples("bacd"), 20) == first
    again = swarm(tmp_path, solver)
    assert await again.router.make_profile(ZOE, examples("bacd"), 20) == first
    assert len(solver.groups) == asked == 4
    before = (await small.ask("ab", profile=first.id)).probabilities
    np.testing.assert_array_equal((await again.ask("ab", profile=first.id)).probabilities, before)


async def test_a_profile_of_an_older_gate_stays_valid_and_says_so(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    small.active = everyone(version=8)
    assert (await small.ask("a", profile=profile.id)).gate_version == 7
    newer = await small.router.make_profile(ZOE, examples("abcd"), 20)
    assert newer.id != profile.id and newer.gate_version == 8


async def test_a_profile_ends_when_one_of_its_owners_withdraws(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    other = await small.router.make_profile(ZOE, examples("bacd"), 20)
    small.active = everyone(without="dan", version=8)
    with pytest.raises(NotFoundError, match=r"dan.*--examples"):
        await small.ask("a", profile=profile.id)
    assert not list(tmp_path.glob(f"{profile.id}*"))
    assert await small.ask("a", profile=other.id)


async def test_a_profile_of_another_trunk_is_refused(tmp_path: Path) -> None:
    small = swarm(tmp_path)
    profile = await small.router.make_profile(ZOE, examples("abcd"), 20)
    value = replace(small.active.value, trunk=digest_of(b"another"))
    small.active = replace(small.active, statement=replace(small.active.statement, value=value))
    with pytest.raises(TrunkMismatchError, match="trunk"):
        await small.ask("a", profile=profile.id)


async def test_an_unknown_profile_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--examples"):
        await swarm(tmp_path).ask("a", profile=digest_of(b"nobody's"))


async def test_a_damaged_profile_is_never_used(tmp_path: Path) -> None:
    profile = await swarm(tmp_path).router.make_profile(ZOE, examples("abcd"), 20)
    path = tmp_path / f"{profile.id}.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(NotFoundError):
        await swarm(tmp_path).ask("a", profile=profile.id)


async def test_only_the_profiles_used_last_are_kept(tmp_path: Path) -> None:
    small = swarm(tmp_path, most=2, in_memory=1)
    first, second = [await small.router.make_profile(ZOE, examples("abcd", each), 20) for each in (3, 4)]
    for age, profile in ((20, first), (10, second)):
        stamp = (tmp_path / f"{profile.id}.json").stat().st_mtime - age
        os.utime(tmp_path / f"{profile.id}.json", (stamp, stamp))
    await small.ask("a", profile=first.id)
    third = await small.router.make_profile(ZOE, examples("abcd", 5), 20)
    kept = {path.stem for path in tmp_path.glob("*.json")}
    assert kept == {first.id, third.id} == {path.stem for path in tmp_path.glob("*.npy")}
    with pytest.raises(NotFoundError):
        await small.ask("a", profile=second.id)


async def test_who_has_the_most_profiles_makes_room_for_the_others(tmp_path: Path) -> None:
    small = swarm(tmp_path, most=3)

    async def made(caller: str, each: int, age: int) -> str:
        asker = Caller(role="client", id=NodeId(caller))
        profile = await small.router.make_profile(asker, examples("abcd", each), 20)
        path = tmp_path / f"{profile.id}.json"
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
        return profile.id

    of_ada = await made("ada", 3, age=100)
    of_eve = [await made("eve", each, age=50 - each) for each in (4, 5)]
    small = swarm(tmp_path, most=3)  # whose each is, is known after a restart
    of_eve += [await made("eve", each, age=20 - each) for each in (6, 7, 8)]
    assert {path.stem for path in tmp_path.glob("*.json")} == {of_ada, *of_eve[-2:]}


class Waiting(InProcess):
    """A solver that waits for leave to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.leave, self.asked = asyncio.Event(), asyncio.Event()

    async def solve(
        self, groups: Sequence[Group], class_names: Sequence[str], ridges: Sequence[float], trunk: Any
    ) -> list[Solution]:
        self.asked.set()
        await self.leave.wait()
        return await super().solve(groups, class_names, ridges, trunk)


async def test_a_callers_flood_of_examples_is_refused_and_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    solver = Waiting()
    small = swarm(tmp_path, solver)
    finished: list[str] = []

    async def ask(caller: str, each: int) -> None:
        asker = Caller(role="client", id=NodeId(caller))
        await small.router.make_profile(asker, examples("abcd", each), 20)
        finished.append(caller)

    first = asyncio.create_task(ask("eve", 3))
    await solver.asked.wait()
    flood = [asyncio.create_task(ask("eve", 4 + number)) for number in range(12)]
    _, pending = await asyncio.wait(flood, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
    async with asyncio.timeout(5):
        while len(pending) > MOST_WAITING:
            _, pending = await asyncio.wait(pending, timeout=0.05)
    other = asyncio.create_task(ask("ada", 30))
    await asyncio.sleep(0.2)
    solver.leave.set()
    results = await asyncio.gather(first, other, *flood, return_exceptions=True)
    refused = [result for result in results if isinstance(result, ExhaustedError)]
    assert len(refused) == 12 - MOST_WAITING and finished[:2] == ["eve", "ada"]
    assert "profiles of eve" in str(refused[0]) and "wait until one is answered" in refused[0].remedy
    assert len(finished) == 2 + MOST_WAITING


async def test_a_profile_that_is_made_waits_for_nobody(tmp_path: Path) -> None:
    known = await swarm(tmp_path).router.make_profile(ZOE, examples("bacd"), 20)
    solver = Waiting()
    small = swarm(tmp_path, solver)
    slow = asyncio.create_task(small.router.make_profile(ZOE, examples("abcd"), 20))
    await solver.asked.wait()
    assert await small.router.make_profile(ZOE, examples("bacd"), 2) == known
    solver.leave.set()
    await slow


async def test_a_profile_needs_sums_and_stands_alone_in_a_query(tmp_path: Path) -> None:
    small = SmallSwarm(gate("prototypes", sums=False), profiles=profiles(tmp_path))
    with pytest.raises(NotReadyError, match="sums"):
        await small.router.make_profile(ZOE, examples("abcd"), 20)
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


@pytest.mark.parametrize(
    ("gained", "lost", "better"),
    [(5, 0, True), (4, 0, False), (7, 1, True), (6, 1, False), (0, 0, False), (0, 9, False)],
)
def test_a_solution_is_clearly_better_beyond_two_standard_errors(
    gained: int, lost: int, better: bool
) -> None:
    right = np.array([True] * gained + [False] * lost + [True, False], dtype=bool)
    other = np.array([False] * gained + [True] * lost + [True, False], dtype=bool)
    assert is_clearly_better(right, other) is better


def test_files_without_facts_are_swept_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "half.npy").write_bytes(b"")
    ProfileFiles(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("owners", [None, np.array([0, 0, 1])])
def test_a_profile_is_read_as_it_was_kept(tmp_path: Path, owners: np.ndarray | None) -> None:
    profile = Profile(
        id=digest_of(b"p"), owners=(ADA,), examples=3, accuracy=1.0, accuracy_all=0.5, gate_version=2
    )
    weights = np.arange(12 if owners is None else 24, dtype=np.float32).reshape(4, -1)
    rows = np.array([0, 1, 1])
    ProfileFiles(tmp_path).put(
        profile,
        ClassColumns(weights=weights, rows=rows, classes=2, owners=owners),
        asker=ADA,
        contributions=(digest_of(b"ada"),),
        class_names=("a", "b", "b"),
        class_temperature=0.1,
        trunk=digest_of(b"t"),
    )
    known = ProfileFiles(tmp_path).get(profile.id)
    assert known is not None and known.facts.profile == profile
    np.testing.assert_array_equal(known.root.weights, weights)
    assert known.facts.answered == ("a", "b") and known.root.rows.tolist() == [0, 1, 1]
    assert (known.root.owners is None) == (owners is None)
    assert owners is None or np.array_equal(known.root.owners, owners)
