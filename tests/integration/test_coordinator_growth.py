"""The gate grows by proposals: each accepted on evidence, or rolled back by name, while the swarm answers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    HarmfulContributionError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    NotReadyError,
)
from swarm.domain.growth import GrowthReport, LeafSurvey, Proposal, Survey
from swarm.domain.ids import ExpertId, LeafId
from swarm.domain.inference import Query
from swarm.domain.manifests import Parent
from tests.support.coordinator import BackEnd, back_end, refusal, samples
from tests.support.gates import current, swapped
from tests.support.growing_node import CHILDREN, GrowingNode
from tests.support.rpc import eventually

E0, E1, E2 = (ExpertId(f"ada.e{number}") for number in range(3))


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path, growth_patience_s=1.0, growth_every_s=0.2) as running:
        yield running


async def ada_and_bob(swarm: BackEnd, **options: Any) -> tuple[GrowingNode, Any]:
    """Ada believes that a looks like b and b like a; bob is right about c and d."""
    identity = await swarm.join("ada")
    ada = GrowingNode(swarm, identity, ("a", "b"), knows=swapped(), **options)
    await swarm.connect(ada)
    bob = await swarm.node("bob", "cd", **options)
    for node in (ada, bob):
        await node.train()
    return ada, bob


async def answers(node: Any) -> np.ndarray[Any, Any]:
    inputs = np.concatenate([samples(name, 3, 99) for name in "abcd"])
    return (await node.coordinator.predict(Query(inputs=inputs), 20.0)).probabilities


async def ended(swarm: BackEnd, proposal: Proposal) -> Proposal:
    """Return a proposal once it has ended."""
    operator = await swarm.operator()
    async with asyncio.timeout(30):
        while not (found := (await operator.proposals(proposal.id))[0]).has_ended:
            await asyncio.sleep(0.05)
    return found


async def events(swarm: BackEnd, kind: str) -> list[dict[str, str]]:
    found = [event async for event in (await swarm.operator()).events() if event.kind == kind]
    return [dict(event.fields) for event in found]


async def test_a_split_that_pays_is_accepted(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    before = await answers(ada)
    proposal = await (await swarm.operator()).propose("split", [E0])
    assert (proposal.state, proposal.owner, proposal.by) == ("working", "ada", "operator")
    assert [(order.proposal, order.kind, order.experts) for order in ada.orders] == [("p1", "split", (E0,))]

    assert (await ada.split("p1")).state == "activated"
    gate = await current(ada)
    assert (gate.change.kind, gate.change.proposal) == ("split", "p1")
    assert [branch.leaf for branch in gate.branches] == ["ada.l0"]
    np.testing.assert_allclose(await answers(ada), before, atol=1e-6)
    await ada.train_children({})
    np.testing.assert_allclose(await answers(ada), before, atol=1e-6)  # pinned until it is judged

    outcome = await ada.send("p1", pinned=False)
    assert outcome.state == "activated"
    found = (await ada.coordinator.proposals("p1"))[0]
    assert found.state == "accepted" and len(found.gate_versions) == 2
    assert found.evidence["tried_gained"] > found.evidence["tried_lost"] and found.evidence["tried_z"] > 1
    assert found.cost["train_flops"] == 2000 and found.cost["gate_flops_after"] > 0
    gate = await current(ada)
    assert (gate.change.kind, gate.change.proposal, gate.version) == ("settle", "p1", found.gate_versions[-1])
    assert gate.evidence["tried_samples"] == 80
    for name in ("proposed", "working", "trying", "accepted"):
        assert (await events(swarm, f"growth.{name}"))[0]["proposal"] == "p1"


@pytest.mark.growth
async def test_a_merge_is_accepted_for_what_it_saves_and_has_to_gain_where_it_saves_nothing(
    swarm: BackEnd,
) -> None:
    ada, _ = await ada_and_bob(swarm)
    operator = await swarm.operator()
    await operator.propose("split", [E0])
    await ada.split("p1")
    assert (await ada.settle("p1", {})).state == "activated"
    both = [ada.expert_of(number) for number in CHILDREN]
    await operator.propose("merge", both)
    error = await refusal(ada.send("p2", pinned=False))  # as many leaves as before
    assert isinstance(error, HarmfulContributionError) and "more than 1 wanted" in error.found
    await operator.propose("merge", both, {"steps": "50"})
    outcome = await ada.give("p3", {CHILDREN[0]: ada.called}, is_split=False, pinned=False)
    assert outcome.state == "activated"
    found = (await operator.proposals("p3"))[0]
    assert found.state == "accepted" and abs(found.evidence["tried_z"]) <= 1
    assert [leaf.leaf for leaf in (await current(ada)).leaves if leaf.owner == "ada"] == [
        ada.leaf(CHILDREN[0])
    ]


@pytest.mark.growth
@pytest.mark.parametrize("sums", ["", "exact"])
async def test_a_split_that_does_not_pay_is_rolled_back_by_name(swarm: BackEnd, sums: str) -> None:
    """With sums the experts speak beside a root that is right already."""
    ada, _ = await ada_and_bob(swarm, sums=sums)
    before = await answers(ada)
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    error = await refusal(ada.settle("p1", {} if sums else swapped()))
    assert isinstance(error, HarmfulContributionError) and "+0 -0, 0 standard errors" in error.found
    found = (await ada.coordinator.proposals("p1"))[0]
    assert found.state == "rolled-back" and found.evidence["tried_z"] == 0
    gate = await current(ada)
    assert (gate.change.kind, gate.change.proposal, gate.branches) == ("rollback", "p1", ())
    assert "split of ada.e0 (p1) rolled back" in gate.reason
    assert np.array_equal(await answers(ada), before)
    error = await refusal(ada.send("p1", pinned=False))
    assert isinstance(error, ConflictError) and "it was rolled back" in error.found
    assert (await ada.contribute()).state == "activated"  # an ordinary one may come again


@pytest.mark.growth
async def test_proposals_that_cannot_be_are_refused_by_name(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm, count=19)
    operator = await swarm.operator()
    version = (await current(ada)).version
    error = await refusal(operator.propose("split", [E0], gate_version=version - 1))
    assert isinstance(error, ConflictError)
    assert (error.subject, error.found) == (f"proposal against gate {version - 1}", f"gate {version}")
    assert isinstance(await refusal(operator.propose("split", [E1])), NotFoundError)
    assert isinstance(await refusal(bob.coordinator.propose("split", [E0])), NotAuthorisedError)
    for experts in ([E0, E0], [E0], [E0, ExpertId("bob.e0")]):
        assert isinstance(await refusal(operator.propose("merge", experts)), InvalidInputError)
    assert isinstance(await refusal(operator.propose("split", [E0], {"method": "ties"})), InvalidInputError)
    assert await operator.proposals() == []

    await ada.coordinator.propose("split", [E0], key="once")
    assert (await ada.coordinator.propose("split", [E0], key="once")).id == "p1"
    error = await refusal(operator.propose("retrain", [E0]))
    assert isinstance(error, ConflictError) and "split of ada.e0 (p1)" in error.found
    await bob.disconnect()
    error = await refusal(operator.propose("split", [ExpertId("bob.e0")]))
    assert isinstance(error, NotReadyError) and "bob away" in error.found


@pytest.mark.growth
async def test_a_leaf_below_the_least_shard_is_not_split(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm, count=9)
    error = await refusal(ada.coordinator.propose("split", [E0]))
    assert isinstance(error, InvalidInputError)
    assert (error.found, error.expected) == ("18 samples", "at least 20, 10 for each child")


async def test_two_simultaneous_proposals_on_one_leaf_become_one(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    operator = await swarm.operator()
    found = await asyncio.gather(
        *(each.propose("split", [E0]) for each in (operator, ada.coordinator)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in found) == ["ConflictError", "Proposal"]
    assert len(await operator.proposals()) == len(ada.orders) == 1


@pytest.mark.growth
async def test_an_owner_that_refuses_or_fails_ends_its_proposal_with_its_words(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    ada.fails_to_grow = InvalidInputError("split", found="two samples")
    found = await ada.coordinator.propose("split", [E0])
    assert found.state == "failed" and "two samples" in found.reason
    ada.fails_to_grow = None
    await ada.coordinator.propose("split", [E0])
    await ada.split("p2")
    report = GrowthReport(proposal="p2", stage="failed", reason="no memory")
    found = await ada.coordinator.report_growth(report)
    assert found.state == "rolled-back" and "no memory" in found.reason
    assert (await current(ada)).branches == ()


@pytest.mark.growth
async def test_only_the_split_that_was_proposed_comes_in(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    assert isinstance(await refusal(ada.contribute(proposal="p7")), ConflictError)
    await bob.coordinator.propose("retrain", [ExpertId("bob.e0")])
    error = await refusal(ada.contribute(proposal="p1"))
    assert isinstance(error, ConflictError) and "given to bob" in error.found
    await ada.coordinator.propose("split", [E0])
    error = await refusal(ada.contribute(proposal="p2"))
    assert isinstance(error, InvalidInputError)
    assert (await ada.coordinator.proposals("p2"))[0].state == "refused"


@pytest.mark.growth
async def test_ordinary_training_does_not_undo_a_split_on_its_way(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    assert (await ada.contribute()).state == "activated"  # nothing is in the gate yet
    await ada.split("p1")
    error = await refusal(ada.contribute())
    assert isinstance(error, ConflictError) and "ada.e0 was split by p1" in error.found
    assert (await bob.contribute()).state == "activated"
    assert (await current(ada)).branches != ()


async def test_an_owner_that_dies_in_the_middle_is_rolled_back(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    before = await answers(bob)
    proposal = await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    await ada.disconnect()
    found = await ended(swarm, proposal)
    assert found.state == "rolled-back" and "ada was away" in found.reason
    assert (await current(bob)).branches == ()
    await swarm.connect(ada)
    assert np.array_equal(await answers(bob), before)
    report = GrowthReport(proposal="p1", stage="trained")
    assert (await ada.coordinator.report_growth(report)).state == "rolled-back"  # told when it asks


@pytest.mark.growth
async def test_a_restart_in_the_middle_goes_on_or_is_made_up_for(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    await restarted(swarm, ada, bob)
    found = (await ada.coordinator.proposals("p1"))[0]
    assert found.state == "working" and len(found.gate_versions) == 1
    assert (await ada.settle("p1", {})).state == "activated"
    assert (await ada.coordinator.proposals("p1"))[0].state == "accepted"


@pytest.mark.growth
@pytest.mark.parametrize("step", ["split", "settle", "rollback"])
async def test_a_record_that_a_crash_left_behind_follows_the_gate(swarm: BackEnd, step: str) -> None:
    """The gate counts, and the coordinator dies before it writes down what became of the proposal."""
    ada, bob = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    record = swarm.home.coordinator / "proposals" / "p1.json"
    old = record.read_bytes()
    await ada.split("p1")
    if step != "split":
        old = record.read_bytes()
        if step == "settle":
            await ada.settle("p1", {})
        else:
            await (await swarm.operator()).cancel("p1")
    gate = await current(ada)
    await swarm.stop_coordinator()
    record.write_bytes(old)
    await swarm.start_coordinator(growth_patience_s=5.0)
    await again(swarm, ada, bob)
    found = (await ada.coordinator.proposals("p1"))[0]
    assert found.state == {"split": "working", "settle": "accepted", "rollback": "rolled-back"}[step]
    assert found.gate_versions[-1] == gate.version == (await current(ada)).version


@pytest.mark.growth
async def test_an_order_that_nobody_may_have_got_is_void_after_a_restart(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    record = swarm.home.coordinator / "proposals" / "p1.json"
    await ada.coordinator.propose("split", [E0])
    await swarm.stop_coordinator()
    record.write_bytes(record.read_bytes().replace(b'"working"', b'"open"'))
    (record.parent / "p2.json").write_bytes(b"{}")
    await swarm.start_coordinator(growth_patience_s=5.0)
    await again(swarm, ada, bob)
    assert [each.state for each in await ada.coordinator.proposals()] == ["failed"]
    assert (await ada.coordinator.propose("split", [E0])).id == "p3"  # p2's record was damaged


@pytest.mark.growth
async def test_a_split_is_undone_by_hand(swarm: BackEnd) -> None:
    """By cancelling it, and by going back to the gate before it."""
    ada, _ = await ada_and_bob(swarm)
    operator = await swarm.operator()
    version = (await current(ada)).version
    await operator.propose("split", [E0])
    await ada.split("p1")
    assert (await operator.cancel("p1")).state == "rolled-back"
    assert isinstance(await refusal(operator.cancel("p1")), ConflictError)
    await operator.propose("split", [E0])
    await ada.split("p2")
    await operator.rollback(version)
    found = (await operator.proposals("p2"))[0]
    assert found.state == "rolled-back" and f"rollback to gate {version}" in found.reason
    assert (await current(ada)).branches == ()


@pytest.mark.growth
async def test_an_accepted_split_is_undone_and_redone_by_rollback(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    operator = await swarm.operator()
    old, before = (await current(ada)).version, await answers(ada)
    await operator.propose("split", [E0])
    await ada.split("p1")
    await ada.settle("p1", {})
    new, after = (await current(ada)).version, await answers(ada)
    await operator.rollback(old)
    assert np.array_equal(await answers(ada), before)
    found = (await operator.proposals("p1"))[0]
    assert found.state == "accepted" and found.evidence["undone_in"] == (await current(ada)).version
    await operator.rollback(new)
    assert "undone_in" not in (await operator.proposals("p1"))[0].evidence
    assert np.array_equal(await answers(ada), after)
    assert (await current(ada)).change.kind == "rollback"


async def test_a_removal_need_only_not_be_worse(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    operator = await swarm.operator()
    await operator.propose("split", [E0])
    await ada.split("p1")
    await ada.settle("p1", {})
    await operator.propose("remove", [E2])
    error = await refusal(ada.remove("p2", keeps="a"))
    assert isinstance(error, HarmfulContributionError) and "-1 or more wanted" in error.found
    assert (await operator.proposals("p2"))[0].state == "refused"
    await operator.propose("remove", [E2])
    assert (await ada.remove("p3", keeps="ab")).state == "activated"  # e1 knows both classes
    found = (await operator.proposals("p3"))[0]
    assert found.state == "accepted" and found.evidence["tried_z"] >= -1
    gate = await current(ada)
    assert gate.change.kind == "remove" and E2 not in [leaf.expert for leaf in gate.leaves]


@pytest.mark.growth
async def test_all_that_an_owner_has_is_removed_without_its_work(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    operator = await swarm.operator()
    found = await ended(swarm, await operator.propose("remove", [E0]))
    assert found.state == "accepted", found.reason  # ada's expert was wrong about everything
    gate = await current(bob)
    assert gate.change.kind == "retire" and {leaf.owner for leaf in gate.leaves} == {"bob"}
    error = await refusal(bob.coordinator.propose("remove", [ExpertId("bob.e0")]))
    assert isinstance(error, ConflictError) and "the swarm's last leaves" in error.found
    assert (await ada.contribute()).state == "activated"  # it is still a member


@pytest.mark.growth
async def test_an_owner_that_leaves_ends_its_proposal(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    await ada.coordinator.leave("moving on")
    found = (await bob.coordinator.proposals("p1"))[0]
    assert found.state == "rolled-back" and "ada left: moving on" in found.reason


@pytest.mark.growth
async def test_the_policy_proposes_the_losing_leaf(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    leaves = (_found("ada.l0", 20, 60.0), _found("bob.l0", 20, 1.0))
    for node in (ada, bob):
        node.finds = Survey(gate_version=0, leaves=leaves)
    operator = await swarm.operator()
    assert await operator.growth_policy() == "manual"
    await asyncio.sleep(0.5)
    assert await operator.proposals() == []
    assert await operator.growth_policy("conservative") == "conservative"
    await eventually(lambda: bool(ada.orders), 20)
    found = (await operator.proposals())[0]
    assert (found.kind, found.experts, found.by) == ("split", (E0,), "policy")
    await operator.cancel(found.id)
    await asyncio.sleep(1.0)
    assert len(await operator.proposals()) == 1  # what failed rests
    await swarm.stop_coordinator()
    await swarm.start_coordinator()
    assert await (await swarm.operator()).growth_policy() == "conservative"


@pytest.mark.growth
async def test_what_was_trained_anew_is_accepted_on_report(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    version = (await current(ada)).version
    await (await swarm.operator()).propose("retrain", [E0], {"steps": "10"})
    report = GrowthReport(proposal="p1", stage="trained")
    assert isinstance(await refusal(bob.coordinator.report_growth(report)), NotAuthorisedError)
    assert (await ada.coordinator.report_growth(report)).state == "accepted"
    assert (await current(ada)).version == version


@pytest.mark.growth
async def test_what_was_split_is_not_trained_anew_and_leaves_no_record(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    assert (await ada.settle("p1", {})).state == "activated"
    operator = await swarm.operator()
    error = await refusal(operator.propose("retrain", [E0]))
    assert isinstance(error, NotFoundError) and "it was split into ada.l1 and ada.l2" in error.found
    assert len(await operator.proposals()) == 1
    found = await operator.propose("retrain", [E1, E2])
    assert (found.state, found.experts, found.owner) == ("working", (E1, E2), "ada")
    report = GrowthReport(proposal=found.id, stage="trained")
    found = await ada.coordinator.report_growth(report)
    assert (found.state, found.reason) == ("accepted", "each of 2 experts was trained anew")


@pytest.mark.growth
async def test_an_owner_gets_its_own_contributions_back_and_nobody_elses(
    swarm: BackEnd, tmp_path: Path
) -> None:
    ada, bob = await ada_and_bob(swarm)
    before = (await current(ada)).contributions
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    found = []
    for digest in {*before, *(await current(ada)).contributions}:
        for node in (ada, bob):
            try:
                envelope = await node.coordinator.contribution(digest, tmp_path / "arrays")
            except NotFoundError:
                continue
            statement = await node.verified.open(envelope, Contribution)
            assert (statement.digest, statement.value.owner) == (digest, node.id)
            entry = statement.value.leaves[0].prototypes
            assert digest_of((tmp_path / "arrays").read_bytes()) == entry.blob
            found.append(node.id)
    assert sorted(found) == ["ada", "ada", "bob"]


@pytest.mark.growth
async def test_queries_are_answered_throughout(swarm: BackEnd) -> None:
    ada, bob = await ada_and_bob(swarm)
    asked: list[int] = []
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            asked.append(len(await answers(bob)))

    asking = asyncio.create_task(ask())
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    await ada.settle("p1", {})
    stop.set()
    await asking
    assert len(asked) > 3 and set(asked) == {12}


def _found(leaf: str, samples: int, nll_sum: float) -> LeafSurvey:
    return LeafSurvey(leaf=LeafId(leaf), samples=samples, nll_sum=nll_sum, correct=0, novel=0)


async def restarted(swarm: BackEnd, *nodes: Any) -> None:
    await swarm.stop_coordinator()
    await swarm.start_coordinator(growth_patience_s=5.0)
    await again(swarm, *nodes)


async def again(swarm: BackEnd, *nodes: Any) -> None:
    """Wait until nodes have found the coordinator again."""
    for node in nodes:
        await asyncio.wait_for(node.welcomed.wait(), 20)


@pytest.mark.growth
async def test_an_add_that_knows_a_new_class_is_accepted(swarm: BackEnd) -> None:
    """What is right of a class that the present gate lacks counts for it."""
    ada, _ = await ada_and_bob(swarm, sums="exact")
    ada.classes = ("a", "b", "e")
    found = await ada.coordinator.propose("add", [])
    assert (found.owner, found.experts, found.kind) == ("ada", (), "add")
    parent = Parent(kind="trained-from", manifest=ada.heads[0][-1].manifest)
    ada.heads[0].append(await ada.publish_expert(0, ada.knows, parent))
    ada.heads[1] = [await ada.publish_expert(1, {}, parent)]
    outcome = await ada.give("p1", {0: ("a", "b"), 1: ("e",)}, is_split=False, pinned=False)
    assert outcome.state == "activated"
    found = (await ada.coordinator.proposals("p1"))[0]
    assert found.state == "accepted" and found.evidence["tried_gained"] >= 15
    gate = await current(ada)
    assert gate.change.kind == "add" and "e" in gate.class_names


@pytest.mark.growth
async def test_who_is_away_for_long_is_retired_and_comes_back_with_what_it_gave(tmp_path: Path) -> None:
    options = {"growth": "eager", "growth_every_s": 0.2, "growth_stale_after_s": 1.0, "gate_versions_kept": 1}
    async with back_end(tmp_path, **options) as swarm:
        ada, bob = await ada_and_bob(swarm)
        await ada.disconnect()

        async def owners() -> set[str]:
            return {leaf.owner for leaf in (await current(bob)).leaves}

        async with asyncio.timeout(30):
            while await owners() != {"bob"}:
                await asyncio.sleep(0.1)
        gate = await current(bob)
        assert (gate.change.kind, gate.change.proposal) == ("retire", "p1")
        assert "ada has had no lease" in (await events(swarm, "growth.proposed"))[0]["why"]
        await swarm.connect(ada)
        async with asyncio.timeout(30):
            while await owners() != {"ada", "bob"}:
                await asyncio.sleep(0.1)
        assert "ada is here again" in (await current(bob)).reason


@pytest.mark.growth
async def test_an_owner_takes_away_what_is_its_own_though_answers_are_lost(swarm: BackEnd) -> None:
    ada, _ = await ada_and_bob(swarm)
    await ada.coordinator.propose("split", [E0])
    await ada.split("p1")
    await ada.settle("p1", {})
    await ada.coordinator.propose("remove", [E2])
    assert (await ada.remove("p2", keeps="a")).state == "activated"
    found = (await ada.coordinator.proposals("p2"))[0]
    assert found.state == "accepted" and found.evidence["tried_z"] < -1
