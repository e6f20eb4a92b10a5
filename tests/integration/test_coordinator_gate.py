"""Contributions and gate versions, with a real registry, real Redis and nodes on real streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import gate_keeper
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    DeadlineError,
    HarmfulContributionError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.gating.ridge import RIDGES
from swarm.modules.packing import pack_single, unpack
from swarm.trust.statements import read_statement, sign_statement
from tests.support.coordinator import (
    BackEnd,
    SmallNode,
    back_end,
    refusal,
    samples,
)
from tests.support.gates import current, with_sums


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


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
    assert gate.evidence["accuracy_prototypes_top1"] > 0.95 > gate.evidence["incumbent_accuracy"]
    await told(ada.gates, 2)
    assert ada.keyring.open(ada.gates[-1], GateStatement).value == gate
    found = await ada.coordinator.history()
    gates, version = found.envelopes, found.current
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
    events = [event async for event in ada.coordinator.events(limit=0) if event.kind == "gate.refused"]
    assert len(events) == 1 and "ada would lose" in dict(events[0].fields)["because"]
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


async def test_a_class_goes_with_the_last_owner_that_has_it(
    swarm: BackEnd,
) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "be")
    await ada.train()
    await bob.train()
    cleo = await swarm.node("cleo", "cd")
    await cleo.train()
    operator = await swarm.operator()
    assert (await ada.ask("a")).class_names == ("a", "b", "c", "d", "e")
    await operator.revoke_node(NodeId("bob"), "floods the swarm with class names")
    assert (await ada.ask("a")).class_names == ("a", "b", "c", "d")
    value = read_statement(await ada.coordinator.specification(), Specification).value
    assert (value.version, value.class_names) == (3, ("a", "b", "c", "d"))
    await told(ada.specifications, 2)
    await operator.fit()
    assert (await ada.ask("d")).class_names == ("a", "b", "c", "d")


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
    assert (back.combinations, back.served) == (first.combinations, first.served)
    await bob.coordinator.leave("")
    forward = read_statement(await operator.rollback(2), GateStatement).value
    assert forward.contributions == first.contributions and "1 owner that left" in forward.reason
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
    assert "judges 1 of 2" in gate.reason


async def test_a_gate_that_nobody_could_try_does_not_come(swarm: BackEnd) -> None:
    ada = await swarm.node("ada", "ab")
    await ada.publish()
    ada.fails_to_judge = NotReadyError("expert server", found="starting")
    envelope, arrays = await ada.contribution()
    error = await refusal(ada.coordinator.contribute(envelope, arrays, ada.fence, "k"))
    assert isinstance(error, NotReadyError) and "try" in error.found
    ada.fails_to_judge = None
    assert (await ada.coordinator.contribute(envelope, arrays, ada.fence, "k")).gate_version == 1


def accuracy(gate: GateStatement, label: str) -> float:
    return gate.evidence[f"accuracy_{label}"]


async def no_jobs(swarm: BackEnd) -> bool:
    """Whether no child works any more (the root is published after the gate), and none left anything."""
    return not list((swarm.home.coordinator / "solver").iterdir())


async def until(found: Callable[[], Awaitable[Any]], timeout_s: float = 90) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := await found()):
            await asyncio.sleep(0.05)
        return value


@pytest.mark.parametrize("form", ["exact", "compact"])
async def test_contributions_with_sums_make_an_analytic_gate_that_says_what_it_serves(
    swarm: BackEnd, form: str
) -> None:
    ada, _ = await with_sums(swarm, form, ada="ab", bob="cd")
    gate = await current(ada)
    assert (gate.kind, gate.version) == ("analytic", 2) and gate.ridge in RIDGES
    assert all(leaf.has_columns for leaf in gate.leaves)
    labels = [each.label for each in gate.combinations]
    assert gate.combination().name == "root" and len(set(labels)) == len(labels)
    assert {"root", "gate top-1", "gate top-2", "poe top-2", "prototypes top-4"} <= set(labels)
    assert "serves root: 80 of 80 right; judges 2 of 2" in gate.reason
    assert accuracy(gate, "root") == 1.0 and gate.evidence["z_gate_top2"] <= 1.0
    assert (await ada.ask("a", "c")).combination == "root"
    arrays = {entry.name: entry for entry in gate.arrays}
    assert arrays["weights"].shape == (7, 4) and not any(name.startswith("root.") for name in arrays)
    await until(lambda: no_jobs(swarm))


@pytest.mark.parametrize("form", ["exact", "compact"])
async def test_withdrawal_with_sums_gives_the_bits_of_the_gate_that_never_had_the_owner(
    swarm: BackEnd, form: str
) -> None:
    ada, _ = await with_sums(swarm, form, ada="ab", cyd="bc")
    never = await current(ada)
    bob = await swarm.node("bob", "cd", sums=form)
    await bob.train()
    with_bob = await current(ada)
    await bob.coordinator.leave("moving on")
    gate = await current(ada)
    assert gate.ridge == with_bob.ridge and gate.combinations == with_bob.combinations
    if gate.ridge == never.ridge:
        assert gate.arrays == never.arrays
    operator = await swarm.operator()
    back = read_statement(await operator.rollback(never.version), GateStatement).value
    assert back.arrays == never.arrays and back.combinations == never.combinations


async def test_contributions_that_come_while_another_is_judged_are_judged_together(swarm: BackEnd) -> None:
    nodes = [
        await swarm.node(name, known, sums="exact")
        for name, known in (("ada", "ab"), ("bob", "bc"), ("cyd", "cd"), ("dan", "da"))
    ]
    for node in nodes:
        await node.publish()
    outcomes = await asyncio.gather(*(node.contribute(key="k") for node in nodes))
    assert {outcome.state for outcome in outcomes} == {"activated"}
    gate = await current(nodes[0])
    assert [leaf.owner for leaf in gate.leaves] == ["ada", "bob", "cyd", "dan"]
    assert gate.version < len(nodes)


async def test_new_corrections_are_tried_together_soon_after_they_come(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "QUIET_S", 0.5)
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    before = await current(ada)
    assert "corrected" not in {each.name for each in before.combinations}
    for node in (ada, bob):
        node.corrects = True
        await node.publish()

    async def fitted() -> GateStatement | None:
        gate = await current(ada)
        return gate if gate.version > before.version else None

    gate = await until(fitted)
    assert "fitted anew" in gate.reason
    assert {"corrected top-1", "corrected top-2"} <= {each.label for each in gate.combinations}
    await asyncio.sleep(1.5)
    assert (await current(ada)).version == gate.version


async def test_a_judge_that_is_away_has_its_say_in_how_the_gate_answers(swarm: BackEnd) -> None:
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    judged = bob.try_gate

    async def lives_by_experts(candidate: bytes, incumbent: bytes, options: Any, specification: bytes) -> Any:
        found = await judged(candidate, incumbent, options, specification)
        names = [option.combination.name for option in options]
        return replace(
            found,
            correct=tuple(40 if name == "gate" else 20 for name in names),
            gained_on_root=tuple(20 if name == "gate" else 0 for name in names),
            lost_on_root=(0,) * len(names),
        )

    bob.try_gate = lives_by_experts  # type: ignore[method-assign]
    await ada.contribute()
    assert (await current(ada)).combination().name == "gate"
    await bob.disconnect()
    await swarm.stop_coordinator()
    await swarm.start_coordinator()
    await asyncio.wait_for(ada.welcomed.wait(), 10)
    outcome = await ada.contribute()
    assert outcome.reason.endswith("judges 1 of 2, 1 not heard as found last")
    gate = await current(ada)
    assert gate.combination().name == "gate" and gate.evidence["judges_remembered"] == 1


async def test_a_correction_is_tried_however_many_more_come(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "QUIET_S", 60.0)
    monkeypatch.setattr(gate_keeper, "LATEST_S", 0.5)
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    before = (await current(ada)).version
    for node in (ada, bob):
        node.corrects = True
        await node.publish()

    async def fitted() -> bool:
        return (await current(ada)).version > before

    await until(fitted)


async def test_corrections_that_nobody_could_try_are_tried_again(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "QUIET_S", 0.2)
    monkeypatch.setattr(gate_keeper, "AGAIN_S", 0.2)
    ada, bob = await with_sums(swarm, ada="ab", bob="cd")
    before, asked = await current(ada), list[str]()
    judged = ada.try_gate, bob.try_gate

    async def late(*_: Any) -> Any:
        asked.append("late")
        raise DeadlineError("trial", found="no answer in time")

    ada.try_gate = bob.try_gate = late  # type: ignore[method-assign]
    ada.corrects = True
    await ada.publish()

    async def tried_in_vain() -> bool:
        return len(asked) >= 2

    await until(tried_in_vain)
    assert (await current(ada)).version == before.version
    ada.try_gate, bob.try_gate = judged  # type: ignore[method-assign]

    async def fitted() -> bool:
        return "corrected" in {each.name for each in (await current(ada)).combinations}

    await until(fitted)


async def root_seen_at(node: SmallNode, gate_version: int) -> Manifest | None:
    """The published root, if it is of this gate or a later one."""
    try:
        found = (await node.verified.manifest(ExpertId("coordinator.e0"))).value
    except NotFoundError:
        return None
    return found if found.gate_version_seen >= gate_version else None


async def test_the_root_is_a_signed_expert_that_everybody_may_fetch(swarm: BackEnd) -> None:
    (ada,) = await with_sums(swarm, ada="ab")

    first = await until(lambda: root_seen_at(ada, 1))
    assert (first.owner, first.share, first.net.factory) == ("coordinator", "public", "ridge-root:identity")
    assert first.gate_version_seen == 1 and first.metrics["validation_accuracy"] == 1.0
    await ada.verified.blobs(first)
    bob = await swarm.node("bob", "cd", sums="exact")
    await bob.train()
    second = await until(lambda: root_seen_at(ada, 2))
    assert second.gate_version_seen == 2 and second.parent_version == 1
    await ada.verified.blobs(second)
    specification = read_statement(await ada.coordinator.specification(), Specification).value
    inputs = np.concatenate([samples(name, 3, 1) for name in "abcd"])
    expert = LoadedExpert.load(second, ada.verified.cache.open_verified, specification)
    right = expert.probabilities(inputs).argmax(axis=1)
    assert [second.class_names[row] for row in right] == [name for name in "abcd" for _ in range(3)]


async def test_a_class_of_several_regions_in_unbalanced_sums_answers_by_its_best_region(
    swarm: BackEnd,
) -> None:
    ada = await swarm.node("ada", "abcd", sums="exact", count=20)
    await ada.train()
    eve = await swarm.node("eve", "a", sums="exact", count=600)
    await eve.train()
    gate = await current(ada)
    arrays = {entry.name: entry for entry in gate.arrays}
    assert arrays["class_targets"].shape == (5,) and arrays["class_owners"].shape == (5,)
    assert arrays["class_weights"].shape[1] == 10  # between the owners, and within them
    assert gate.evidence["accuracy_root"] == 1.0

    published = await until(lambda: root_seen_at(ada, gate.version))
    assert published.net.factory == "ridge-root:owners-of-5:identity"
    await ada.verified.blobs(published)
    specification = read_statement(await ada.coordinator.specification(), Specification).value
    expert = LoadedExpert.load(published, ada.verified.cache.open_verified, specification)
    right = expert.probabilities(np.concatenate([samples(name, 3, 1) for name in "abcd"])).argmax(axis=1)
    assert [published.class_names[row] for row in right] == [name for name in "abcd" for _ in range(3)]


async def test_sums_that_cannot_be_true_are_refused_and_the_old_gate_stays(swarm: BackEnd) -> None:
    ada, _ = await with_sums(swarm, ada="ab", bob="cd")
    before = await current(ada)
    await ada.publish()

    async def attack(refused: type[SwarmError], named: str, **changed: Any) -> None:
        error = await refusal(contribute_changed(ada, **changed))
        assert isinstance(error, refused) and named in str(error), error
        assert (await current(ada)).version == before.version

    await attack(InvalidInputError, "sums of ada", columns=lambda array: array * 5)
    await attack(
        InvalidInputError, "sums of ada", columns=lambda array: array * 1000, gram=lambda array: array * 1000
    )
    await attack(InvalidInputError, "prototypes", prototypes=lambda array: array * np.nan)
    await attack(InvalidInputError, "1000000000 samples", samples=10**9)
    await attack(TrunkMismatchError, "trunk", trunk=digest_of(b"another trunk"))
    await attack(InvalidInputError, "sums of ada", gram=lambda array: -array)
    # Features of another trunk under this one's name: in fixed point they have another constant.
    halved = {name: lambda array: array // 2 for name in ("columns", "gram")}
    await attack(InvalidInputError, "sums of ada", **halved)
    stored = {path.suffix for path in (swarm.home.coordinator / "contributions").iterdir()}
    assert stored == {".json", ".bin"} and len(before.contributions) == 2
    assert len(list((swarm.home.coordinator / "contributions").glob("*.bin"))) == 2


async def test_compact_sums_with_values_that_are_not_finite_are_refused(swarm: BackEnd) -> None:
    (ada,) = await with_sums(swarm, "compact", ada="ab")
    for name in ("diagonal", "factor_scales"):
        error = await refusal(contribute_changed(ada, **{name: lambda array: array * np.nan}))
        assert isinstance(error, InvalidInputError) and "sums of ada" in str(error)
    assert (await current(ada)).version == 1


async def contribute_changed(node: SmallNode, **changed: Any) -> Any:
    """Contribute with some arrays or facts changed, signed as if they were true."""
    envelope, blob = await node.contribution()
    value = read_statement(envelope, Contribution).value
    leaf = value.leaves[0]
    assert value.sums is not None and leaf.columns is not None
    entries = [leaf.prototypes, leaf.prototype_counts, leaf.radii, leaf.columns, *value.sums.tensors]
    arrays = unpack(entries, lambda _: memoryview(blob))
    kept = {
        name: changed[name](array).astype(array.dtype) if name in changed else array
        for name, array in arrays.items()
    }
    made, _, data = pack_single(kept)
    by_name = {entry.name: entry for entry in made}
    counts = dict(leaf.class_counts)
    if "samples" in changed:
        counts = dict.fromkeys(counts, changed["samples"] // len(counts))
    leaf = replace(
        leaf,
        class_counts=counts,
        prototypes=by_name["prototypes"],
        prototype_counts=by_name["prototype_counts"],
        radii=by_name["radii"],
        columns=by_name["columns"],
    )
    sums = replace(
        value.sums,
        samples=sum(counts.values()),
        tensors=tuple(by_name[entry.name] for entry in value.sums.tensors),
    )
    value = replace(value, leaves=(leaf,), sums=sums, trunk=changed.get("trunk", value.trunk))
    signed = sign_statement(value, node.identity.required_signer())
    return await node.coordinator.contribute(signed, data, node.fence)
