"""Nobody degrades the others: who judges a contribution, against what, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.solver_process import Solver
from swarm.domain.errors import (
    DeadlineError,
    HarmfulContributionError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.inference import Examples
from swarm.trust.statements import read_statement
from tests.support.coordinator import (
    BackEnd,
    back_end,
    held_judging,
    queued_owners,
    refusal,
    samples,
)
from tests.support.gates import current, hanging, swapped, with_sums
from tests.support.rpc import eventually


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


async def test_flipped_labels_are_refused_by_those_they_harm(swarm: BackEnd) -> None:
    ada, _ = await with_sums(swarm, ada="ab", bob="cd")
    eve = await swarm.node("eve", "ab", sums="exact", count=900, calls={"a": "b", "b": "a"})
    await eve.publish(swapped())
    error = await refusal(eve.contribute())
    assert isinstance(error, HarmfulContributionError) and "ada would lose" in error.found
    assert (await current(ada)).version == 2
    # Kept aside, one for each owner, for those who call things as eve does; gone when she goes.
    files = swarm.home.coordinator / "contributions"
    assert len(list(files.glob("*.bin"))) == 3
    await refusal(eve.contribute())
    assert len(list(files.glob("*.bin"))) == 3
    inputs, labels = samples("a", 20, 5), ("b",) * 20
    profile = await ada.coordinator.make_profile(Examples(inputs=inputs, labels=labels))
    assert profile.owners == ("eve",) and profile.accuracy == 1.0 > profile.accuracy_all
    await eve.coordinator.leave("moving on")
    assert len(list(files.glob("*.bin"))) == 2
    assert isinstance(await refusal(ada.ask("a", profile=profile.id)), NotFoundError)


async def test_an_incumbents_class_under_anothers_name_is_refused(swarm: BackEnd) -> None:
    """Among its own classes ada would lose nothing."""
    ada, _ = await with_sums(swarm, ada="ab", bob="cd")
    eve = await swarm.node("eve", "a", sums="exact", count=900, calls={"a": "c"})
    await eve.publish({"c": samples("a", 1, 0)[0]})
    error = await refusal(eve.contribute())
    assert isinstance(error, HarmfulContributionError) and "among the swarm's classes" in error.found
    assert (await current(ada)).version == 2


async def test_a_judge_that_hangs_is_not_waited_for_long_nor_twice(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.gate_trials.PATIENCE_S", 1.0)
    ada, bob, _ = await with_sums(swarm, ada="ab", bob="cd", cyd="ef")
    asked = hanging(ada)
    assert (await bob.contribute()).state == "activated"
    gate = await current(bob)
    evidence = (gate.evidence["incumbents"], gate.evidence["incumbents_heard"], len(asked))
    assert evidence == (2, 1, 1)


async def test_nobody_judges_its_own_contribution(swarm: BackEnd) -> None:
    """The only other incumbent does not answer: then eve's own word is not enough."""
    ada, eve = await with_sums(swarm, ada="ab", eve="cd")
    ada.fails_to_judge = DeadlineError("trial", found="no answer")
    eve.classes, eve.calls, eve.count = ("a", "b"), {"a": "b", "b": "a"}, 900
    await eve.publish(swapped())
    error = await refusal(eve.contribute())
    assert isinstance(error, NotReadyError) and "1 of 1 connected incumbents" in error.found
    assert (await current(eve)).version == 2


async def test_an_incumbent_that_contributes_anew_beside_an_attacker_keeps_its_protection(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    eve = await swarm.node("eve", "ab", sums="exact", count=900, calls={"a": "b", "b": "a"})
    await eve.publish(swapped())
    queued, (asked, release) = queued_owners(monkeypatch), held_judging(bob)
    first = asyncio.create_task(bob.contribute())
    await asked.wait()
    sent = [asyncio.create_task(node.contribute()) for node in (ada, eve)]
    await eventually(lambda: {"ada", "eve"} <= set(queued), 20)
    release.set()
    await first
    found = await asyncio.gather(*sent, return_exceptions=True)
    assert found[0].state == "activated" and isinstance(found[1], HarmfulContributionError)
    assert {leaf.owner for leaf in (await current(ada)).leaves} == {"ada", "bob"}


async def test_an_incumbent_may_send_again_what_others_have_lost_by_already(swarm: BackEnd) -> None:
    """Bob came when ada was there: what she costs him is in the gate, with or without her newer epoch."""
    ada = await swarm.node("ada", "ab", sums="exact", count=200)
    await ada.train()
    bob = await swarm.node("bob", "ab", sums="exact", count=60, calls={"a": "b", "b": "a"})
    await bob.publish(swapped())
    assert (await bob.contribute()).state == "activated"
    assert (await ada.contribute()).state == "activated"
    assert {leaf.owner for leaf in (await current(ada)).leaves} == {"ada", "bob"}


async def test_what_is_kept_aside_stays_when_it_is_sent_again_and_nobody_can_judge_it(swarm: BackEnd) -> None:
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    eve = await swarm.node("eve", "ab", sums="exact", count=900, calls={"a": "b", "b": "a"})
    await eve.publish(swapped())
    envelope, arrays = await eve.contribution()
    error = await refusal(eve.coordinator.contribute(envelope, arrays, eve.fence, "first"))
    assert isinstance(error, HarmfulContributionError)
    ada.fails_to_judge = bob.fails_to_judge = DeadlineError("trial", found="no answer")
    error = await refusal(eve.coordinator.contribute(envelope, arrays, eve.fence, "second"))
    assert isinstance(error, NotReadyError)
    examples = Examples(inputs=samples("a", 20, 5), labels=("b",) * 20)
    assert (await ada.coordinator.make_profile(examples)).owners == ("eve",)


async def test_one_contribution_sent_many_times_is_checked_and_judged_once(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await swarm.node("ada", "ab", sums="exact")
    await ada.publish()
    envelope, arrays = await ada.contribution()
    checked: list[str] = []
    check = Solver.check

    async def counted(self: Solver, digest: Digest, *rest: Any) -> None:
        checked.append(digest)
        await check(self, digest, *rest)

    monkeypatch.setattr(Solver, "check", counted)
    sent = [ada.coordinator.contribute(envelope, arrays, ada.fence, f"k{row}") for row in range(12)]
    outcomes = await asyncio.gather(*sent)
    assert {outcome.gate_version for outcome in outcomes} == {1} and len(checked) == 1


async def test_sums_with_flipped_labels_are_refused_though_their_expert_is_honest(swarm: BackEnd) -> None:
    """Another combination may do without the root, which still answers where no expert can."""
    ada, _ = await with_sums(swarm, ada="ab", bob="cd")
    eve = await swarm.node("eve", "ab", sums="exact", count=200, calls={"a": "b", "b": "a"})
    await eve.publish()
    error = await refusal(eve.contribute())
    assert isinstance(error, HarmfulContributionError) and "where the root answers" in error.found
    assert (await current(ada)).version == 2


async def test_a_newer_contribution_is_compared_with_the_gate_without_its_owner(swarm: BackEnd) -> None:
    """Or one owner could go far in small steps."""
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    compared: list[bytes] = []
    judge = ada.try_gate

    async def noted(candidate: bytes, incumbent: bytes, *rest: Any) -> Any:
        compared.append(incumbent)
        return await judge(candidate, incumbent, *rest)

    ada.try_gate = noted  # type: ignore[method-assign]
    await bob.contribute()
    gates = [read_statement(each, GateStatement).value for each in compared]
    assert [[leaf.owner for leaf in gate.leaves] for gate in gates] == [["ada"]] * 2
    assert all(gate.kind == "analytic" and gate.arrays for gate in gates)
    newest = await current(ada)
    assert newest.version == 3 and {leaf.owner for leaf in newest.leaves} == {"ada", "bob"}


async def test_a_contribution_at_fault_takes_nobody_with_it(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    eve, fay = await swarm.node("eve", "ab", sums="exact"), await swarm.node("fay", "ab", sums="exact")
    await eve.publish()
    await fay.publish()
    solve = Solver.solve

    async def without_eve(self: Solver, groups: Any, *rest: Any) -> Any:
        if any(leaf.owner == "eve" for group in groups for leaf in group.leaves):
            raise InvalidInputError("sums", found="F'F that is not positive definite")
        return await solve(self, groups, *rest)

    monkeypatch.setattr(Solver, "solve", without_eve)
    queued, (asked, release) = queued_owners(monkeypatch), held_judging(ada)
    first = asyncio.create_task(bob.contribute())
    await asked.wait()
    sent = [asyncio.create_task(node.contribute()) for node in (eve, fay)]
    await eventually(lambda: {"eve", "fay"} <= set(queued), 20)
    release.set()
    assert (await first).state == "activated"
    found = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(found[0], InvalidInputError) and found[1].state == "activated"
    assert {leaf.owner for leaf in (await current(ada)).leaves} == {"ada", "bob", "fay"}


async def test_where_they_harm_somebody_together_each_is_judged_alone(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ada,) = await with_sums(swarm, ada="ab")
    bob = await swarm.node("bob", "cd", sums="exact")
    # Eve has ada's samples, many of them, by each other's names.
    eve = await swarm.node("eve", "ab", sums="exact", count=900, calls={"a": "b", "b": "a"})
    await bob.publish()
    await eve.publish(swapped())
    queued, (asked, release) = queued_owners(monkeypatch), held_judging(ada)
    first = asyncio.create_task(ada.contribute())
    await asked.wait()
    sent = [asyncio.create_task(bob.contribute()), asyncio.create_task(eve.contribute())]
    await eventually(lambda: {"bob", "eve"} <= set(queued), 20)
    release.set()
    assert (await first).state == "activated"
    found = await asyncio.gather(*sent, return_exceptions=True)
    assert found[0].state == "activated" and isinstance(found[1], HarmfulContributionError)
    assert {leaf.owner for leaf in (await current(ada)).leaves} == {"ada", "bob"}
    assert len(list((swarm.home.coordinator / "contributions").glob("*.bin"))) >= 2
    answer = await ada.ask("a", "c")
    assert [answer.class_names[i] for i in answer.probabilities.argmax(axis=1)] == ["a", "c"]


@pytest.mark.parametrize("failure", [DeadlineError, UnreachableError, InvalidInputError])
async def test_a_candidate_that_its_incumbents_cannot_try_does_not_come(
    swarm: BackEnd, failure: type[SwarmError]
) -> None:
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    ada.fails_to_judge = bob.fails_to_judge = failure("trial", found="no answer")
    eve = await swarm.node("eve", "ab", sums="exact", count=900, calls={"a": "b", "b": "a"})
    await eve.publish(swapped())
    error = await refusal(eve.contribute())
    assert isinstance(error, NotReadyError) and "2 of 2 connected incumbents" in error.found
    assert (await current(ada)).version == 2
