"""Contributions and gate versions, with a real registry, real Redis and nodes on real streams."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    ConflictError,
    HarmfulContributionError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.manifests import Contribution, GateStatement
from swarm.domain.specification import Specification
from swarm.trust.statements import read_statement
from tests.support.coordinator import BackEnd, SmallNode, back_end, samples


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


async def refusal(work: Any) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        await work
    return caught.value


async def current(node: SmallNode) -> GateStatement:
    return read_statement(await node.coordinator.gate(), GateStatement).value


async def told(found: list[bytes], count: int) -> None:
    async with asyncio.timeout(5):
        while len(found) < count:
            await asyncio.sleep(0.02)


async def test_contributions_make_signed_versions_that_every_node_is_told(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    assert isinstance(await refusal(ada.coordinator.gate()), NotReadyError)
    assert (await ada.train()).gate_version == 1
    outcome = await bob.train()
    assert (outcome.state, outcome.gate_version) == ("activated", 2)
    gate = await current(ada)
    assert [leaf.owner for leaf in gate.leaves] == ["ada", "bob"]
    assert gate.evidence["judges"] == 2 and gate.evidence["incumbents"] == 1
    assert gate.evidence["accuracy_top1"] > 0.95 > gate.evidence["incumbent_accuracy"]
    await told(ada.gates, 2)
    assert ada.keyring.open(ada.gates[-1], GateStatement).value == gate
    gates, version = await ada.coordinator.history()
    assert (len(gates), version) == (2, 2)


async def test_the_same_contribution_again_is_a_duplicate_and_a_resent_call_acts_once(swarm: BackEnd) -> None:
    ada = await swarm.node("ada", "ab")
    await ada.publish()
    envelope, arrays = await ada.contribution()
    first = await ada.coordinator.contribute(envelope, arrays, ada.fence, "k")
    assert await ada.coordinator.contribute(envelope, arrays, ada.fence, "k") == first
    again = await ada.coordinator.contribute(envelope, arrays, ada.fence, "other")
    assert (again.state, again.gate_version) == ("duplicate", 1)
    assert (await current(ada)).version == 1


async def test_a_new_epoch_replaces_the_owners_last_and_an_old_one_is_refused(swarm: BackEnd) -> None:
    ada = await swarm.node("ada", "ab")
    await ada.train()
    old = await ada.contribution()
    await ada.contribute()
    assert len((await current(ada)).contributions) == 1
    error = await refusal(ada.coordinator.contribute(*old, ada.fence))
    assert isinstance(error, ConflictError) and "epoch" in error.found


async def test_what_may_not_enter_is_refused_by_name_and_the_gate_stays(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    envelope, arrays = await ada.contribution()
    assert isinstance(await refusal(ada.coordinator.contribute(envelope, arrays, ada.fence)), NotFoundError)
    await ada.train()
    mine, arrays = await ada.contribution()
    theirs, _ = await bob.contribution()
    leaf = read_statement(theirs, Contribution)
    cases: list[tuple[Any, type[SwarmError]]] = [
        (ada.coordinator.contribute(mine, arrays[:-1], ada.fence), VerificationError),
        (ada.coordinator.contribute(mine, arrays, ada.fence + 1), StaleFenceError),
        (bob.coordinator.contribute(mine, arrays, bob.fence), SwarmError),
        (ada.contribute(trunk=digest_of(b"another trunk")), TrunkMismatchError),
        (ada.contribute(leaves=()), InvalidInputError),
        (ada.contribute(leaves=leaf.value.leaves), VerificationError),
    ]
    for work, expected in cases:
        assert isinstance(await refusal(work), expected)
    assert (await current(ada)).version == 1
    stored = list((swarm.home.coordinator / "contributions").glob("*.json"))
    assert len(stored) == 1
    await ada.contribute()


async def test_a_contribution_that_harms_an_incumbent_is_refused_and_remembered(swarm: BackEnd) -> None:
    ada, eve = await swarm.node("ada", "ab"), await swarm.node("eve", "cd", count=600)
    await ada.train()
    # Eve's prototypes sit on ada's classes while her expert answers c and d there.
    await eve.publish({"c": samples("a", 1, 0)[0], "d": samples("b", 1, 0)[0]})
    envelope, arrays = await eve.contribution(over="ab")
    for _ in range(2):
        error = await refusal(eve.coordinator.contribute(envelope, arrays, eve.fence, "k"))
        assert isinstance(error, HarmfulContributionError) and "ada would lose" in error.found
    assert (await current(ada)).version == 1
    kinds = [event.kind async for event in ada.coordinator.events(limit=0)]
    assert kinds.count("gate.refused") == 1
    assert (await ada.ask("a")).gate_version == 1


async def test_a_new_class_makes_a_new_specification_and_is_answered(swarm: BackEnd) -> None:
    ada, dan = await swarm.node("ada", "ab"), await swarm.node("dan", "ce")
    await ada.train()
    await dan.train()
    await told(ada.specifications, 1)
    value = ada.keyring.open(ada.specifications[-1], Specification).value
    assert (value.version, value.class_names) == (2, ("a", "b", "c", "d", "e"))
    answer = await ada.ask("e", "a")
    assert [answer.class_names[i] for i in answer.probabilities.argmax(axis=1)] == ["e", "a"]
    old = read_statement(await ada.coordinator.specification(1), Specification).value
    assert old.class_names == ("a", "b", "c", "d")
    assert isinstance(await refusal(ada.coordinator.specification(7)), NotFoundError)


async def test_the_gate_without_an_owner_equals_the_gate_that_never_had_it(swarm: BackEnd) -> None:
    ada, bob, cyd = [await swarm.node(n, c) for n, c in (("ada", "ab"), ("bob", "cd"), ("cyd", "bc"))]
    for node in (ada, cyd):
        await node.train()
    never = await current(ada)
    await bob.train()
    version, experts = await bob.coordinator.leave("moving on")
    assert (version, experts) == (4, (bob.expert,))
    gate = await current(ada)
    assert (gate.contributions, gate.leaves) == (never.contributions, never.leaves)
    assert gate.arrays == never.arrays
    assert len(list((swarm.home.coordinator / "contributions").glob("*.json"))) == 2
    heads = [head.expert for head in await ada.registry.heads()]
    assert heads == [ada.expert, cyd.expert]


async def test_when_the_last_owner_leaves_the_gate_is_empty_and_answers_not_ready(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    await ada.train()
    await ada.coordinator.leave("")
    gate = await current(bob)
    assert (gate.version, gate.leaves, gate.contributions) == (2, (), ())
    assert isinstance(await refusal(bob.ask("a")), NotReadyError)
    assert (await bob.train()).gate_version == 3
    assert (await bob.ask("c")).gate_version == 3


async def test_a_rollback_is_a_new_version_with_the_old_content_and_brings_no_owner_back(
    swarm: BackEnd,
) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    operator = await swarm.operator()
    await ada.train()
    first = await current(ada)
    await bob.train()
    envelope = await operator.rollback(1, key="r")
    assert await operator.rollback(1, key="r") == envelope
    back = read_statement(envelope, GateStatement).value
    assert (back.version, back.arrays, back.leaves) == (3, first.arrays, first.leaves)
    assert back.temperature == first.temperature
    await bob.coordinator.leave("")
    forward = read_statement(await operator.rollback(2), GateStatement).value
    assert forward.contributions == first.contributions and "1 owners that left" in forward.reason
    assert isinstance(await refusal(operator.rollback(99)), NotFoundError)
    fitted = await operator.fit()
    assert (fitted.state, fitted.gate_version) == ("activated", forward.version + 1)


async def test_a_node_that_does_not_judge_has_no_say_and_stops_nobody(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    await ada.train()
    await ada.disconnect()
    await bob.train()
    gate = await current(bob)
    assert (gate.evidence["incumbents"], gate.evidence["incumbents_heard"]) == (1, 0)
    assert np.isfinite(gate.temperature)


async def test_a_gate_that_nobody_could_try_does_not_come(swarm: BackEnd) -> None:
    ada = await swarm.node("ada", "ab")
    await ada.publish()
    ada.fails_to_judge = NotReadyError("expert server", found="starting")
    envelope, arrays = await ada.contribution()
    error = await refusal(ada.coordinator.contribute(envelope, arrays, ada.fence, "k"))
    assert isinstance(error, NotReadyError) and "try" in error.found
    ada.fails_to_judge = None
    assert (await ada.coordinator.contribute(envelope, arrays, ada.fence, "k")).gate_version == 1
