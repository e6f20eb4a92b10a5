"""How the gate's combinations become answers: who is asked what, who steps in, and what an answer says."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swarm.answering.active_gate import ActiveGate
from swarm.answering.known_head import KnownHead
from swarm.answering.query_checks import rows_that_fit
from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError
from swarm.domain.gates import GateBranch
from swarm.domain.ids import ROOT_EXPERT, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.inference import MAX_QUERY_ROWS, Answer, ExpertAnswer, Query
from swarm.domain.specification import MAX_CLASSES
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import Cluster
from swarm.gating.gate_arrays import Placed
from swarm.gating.prototype_gate import PrototypeGate
from swarm.rpc.convert import answer_to_pb
from swarm.rpc.options import MAX_MESSAGE_BYTES
from tests.support.answers import (
    CLASSES,
    DISTANCE_FLOPS,
    EXPERT_FLOPS,
    LIFT,
    TRUNK_FLOPS,
    SmallSwarm,
    best,
    gate,
    head,
    inputs,
)


def owners_of(answer: Answer, row: int = 0) -> list[str]:
    return [source.owner for source in answer.sources[row]]


def softmax(logits: Any) -> Any:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


async def test_the_root_answers_by_the_class_scores_and_asks_nobody() -> None:
    swarm = SmallSwarm(gate("root"))
    answer = await swarm.ask("abcd")
    assert (best(answer), answer.combination) == ("abcd", "root")
    np.testing.assert_allclose(answer.probabilities, softmax(inputs("abcd") / 0.1), atol=1e-5)
    assert not any(owner.asked for owner in swarm.owners.values())
    (source,) = answer.sources[0]
    assert (source.expert, source.owner, source.weight) == (ROOT_EXPERT, "coordinator", 1.0)
    assert (source.manifest, source.version) == (digest_of(b"gate"), 7)
    # It says on whose sums each answer rests.
    shares = [{each.owner: each.weight for each in given.owners} for (given,) in answer.sources]
    assert [set(each) for each in shares] == [{"ada"}, {"ada"}, {"bob", "dan"}, {"bob"}]
    assert shares[2]["bob"] / shares[2]["dan"] == pytest.approx(0.6 / 0.4)
    assert all(sum(each.values()) == pytest.approx(1.0) for each in shares)
    assert swarm.active.analytic is not None
    assert answer.flops_per_query == TRUNK_FLOPS + swarm.active.analytic.flops_per_query + DISTANCE_FLOPS


async def test_where_the_root_is_served_no_owners_absence_degrades_an_answer() -> None:
    swarm = SmallSwarm(gate("root"))
    for owner in swarm.owners:
        swarm.gone(owner)
    answer = await swarm.ask("abcd")
    assert (best(answer), answer.degraded) == ("abcd", (False,) * 4)


async def test_a_query_names_another_combination_and_its_experts() -> None:
    swarm = SmallSwarm(gate("root"))
    answer = await swarm.ask("ac", combination="gate", top_k=1)
    assert (best(answer), answer.combination) == ("ac", "gate top-1")
    assert [owners_of(answer, row) for row in (0, 1)] == [["ada"], ["bob"]]
    assert swarm.active.analytic is not None
    expected = TRUNK_FLOPS + swarm.active.analytic.flops_per_query + DISTANCE_FLOPS + EXPERT_FLOPS
    assert answer.flops_per_query == expected


async def test_the_gate_weighs_experts_by_their_leaf_scores_and_passes_over_who_gave_no_sums() -> None:
    answer = await SmallSwarm().ask("c", top_k=4)
    assert set(owners_of(answer)) == {"ada", "bob", "dan"}
    weights = {source.owner: source.weight for source in answer.sources[0]}
    expected = np.exp(np.array([0.6, 0.4]) / 0.1)
    assert weights["bob"] / weights["dan"] == pytest.approx(expected[0] / expected[1], rel=1e-4)
    assert sum(weights.values()) == pytest.approx(1.0)


async def test_prototypes_reach_owners_without_sums() -> None:
    answer = await SmallSwarm().ask("a", combination="prototypes")
    assert (owners_of(answer), answer.combination) == (["eve"], "prototypes top-1")


async def test_poe_multiplies_the_experts_mixture_by_the_roots_posterior() -> None:
    answer = await SmallSwarm().ask("c", combination="poe")
    assert best(answer) == "c"
    assert (answer.sources[0][0].owner, answer.sources[0][0].weight) == ("coordinator", 1.0)
    assert owners_of(answer)[1:] == ["bob", "dan"]
    assert sum(source.weight for source in answer.sources[0][1:]) == pytest.approx(1.0)


async def test_corrections_are_added_to_the_class_scores_with_their_leaf_weights() -> None:
    swarm = SmallSwarm(gate("corrected"))
    answer = await swarm.ask("a", top_k=1)
    assert {task.form for owner in swarm.owners.values() for r in owner.asked for task in r.tasks} == {
        "corrections"
    }
    logits = inputs("a") / 0.2
    logits[:, :2] += 0.5 * np.array([LIFT / 2, -LIFT / 2])
    np.testing.assert_allclose(answer.probabilities, softmax(logits), atol=1e-5)
    assert owners_of(answer) == ["coordinator", "ada"]
    assert answer.sources[0][1].module_digests != head("ada").module_digests


async def test_an_expert_without_a_correction_adds_nothing_and_is_not_asked() -> None:
    swarm = SmallSwarm(gate("corrected"), corrects="bob dan")
    answer = await swarm.ask("ac", top_k=1)
    assert not swarm.owners["ada"].asked and swarm.owners["bob"].asked
    assert answer.degraded == (False, False) and answer.missing_experts == ()
    np.testing.assert_allclose(answer.probabilities[:1], softmax(inputs("a") / 0.2), atol=1e-5)
    assert owners_of(answer, 0) == ["coordinator"]


@pytest.mark.parametrize("combination", ["gate", "poe", "corrected", "prototypes"])
async def test_the_root_answers_where_the_expert_is_away_and_the_answer_says_degraded(
    combination: str,
) -> None:
    swarm = SmallSwarm(gate(combination))
    for owner in swarm.owners:
        swarm.gone(owner)
    answer = await swarm.ask("abcd", top_k=1)
    assert (best(answer), answer.degraded) == ("abcd", (True,) * 4)
    np.testing.assert_allclose(answer.probabilities, softmax(inputs("abcd") / 0.1), atol=1e-5)
    assert [owners_of(answer, row) for row in range(4)] == [["coordinator"]] * 4
    assert len(answer.missing_experts) == (4 if combination == "prototypes" else 2)


@pytest.mark.parametrize("combination", ["gate", "poe", "corrected"])
async def test_the_root_has_the_weight_of_one_expert_of_two_that_is_away(combination: str) -> None:
    swarm = SmallSwarm(gate(combination))
    whole = await swarm.ask("c", top_k=2)
    weights = {source.owner: source.weight for source in whole.sources[0]}
    swarm.gone("bob")
    answer = await swarm.ask("c", top_k=2)
    assert answer.degraded == (True,) and answer.missing_experts == ("bob.e0",) and best(answer) == "c"
    left = {source.owner: source.weight for source in answer.sources[0]}
    assert left["dan"] == pytest.approx(weights["dan"]) and "bob" not in left
    assert left["coordinator"] == pytest.approx(weights["bob"] if combination == "gate" else 1.0)
    if combination == "gate":
        by_root, by_dan = softmax(inputs("c") / 0.1), await swarm.ask("c", owners=("dan",))
        mixture = weights["bob"] * by_root + weights["dan"] * by_dan.probabilities
        np.testing.assert_allclose(answer.probabilities, mixture, atol=1e-4)
        assert [source.weight for source in answer.sources[0]] == sorted(left.values(), reverse=True)


async def test_without_sums_the_next_leaf_steps_in() -> None:
    swarm = SmallSwarm(gate("prototypes", sums=False))
    before = owners_of(await swarm.ask("d", top_k=1))
    swarm.gone(before[0])
    answer = await swarm.ask("d", top_k=1)
    assert answer.degraded == (True,) and owners_of(answer) != before


async def test_rows_that_fell_back_do_not_change_the_others() -> None:
    swarm = SmallSwarm(gate("gate"))
    whole = await swarm.ask("ad", top_k=1)
    swarm.gone("bob")
    swarm.gone("dan")
    partly = await swarm.ask("ad", top_k=1)
    assert partly.degraded == (False, True)
    np.testing.assert_array_equal(partly.probabilities[0], whole.probabilities[0])


async def test_without_sums_and_without_experts_the_answer_is_not_ready() -> None:
    swarm = SmallSwarm(gate("prototypes", sums=False))
    for owner in swarm.owners:
        swarm.gone(owner)
    with pytest.raises(NotReadyError, match=r"ada.e0"):
        await swarm.ask("a", top_k=4)


async def test_the_root_answers_before_any_expert_is_published() -> None:
    swarm = SmallSwarm(gate("gate"))
    swarm.heads.clear()
    answer = await swarm.ask("abcd")
    assert (best(answer), answer.degraded) == ("abcd", (True,) * 4)


async def test_the_root_expert_is_named_by_its_manifest_where_it_is_of_this_gate() -> None:
    swarm = SmallSwarm(gate("root"))
    published = head("ada")
    for seen, expected in ((7, published.digest), (6, digest_of(b"gate"))):
        value = replace(published.manifest, gate_version_seen=seen)
        swarm.heads[ROOT_EXPERT] = replace(published, manifest=value)
        answer = await swarm.ask("a")
        assert answer.sources[0][0].manifest == expected


@pytest.mark.parametrize("served", ["root", "poe", "corrected", "gate"])
async def test_among_some_owners_their_own_experts_answer_by_the_gate(served: str) -> None:
    swarm = SmallSwarm(gate(served))
    answer = await swarm.ask("ac", owners=(NodeId("ada"),))
    assert [owners_of(answer, row) for row in (0, 1)] == [["ada"], ["ada"]]
    assert (answer.combination, answer.degraded) == ("gate top-2", (False, False))
    np.testing.assert_allclose(answer.probabilities[:, 2:], 0, atol=1e-5)


async def test_an_owner_without_sums_alone_answers_by_prototypes() -> None:
    answer = await SmallSwarm(gate("root")).ask("a", owners=(NodeId("eve"),))
    assert (owners_of(answer), answer.combination) == (["eve"], "prototypes top-1")


@pytest.mark.parametrize("combination", ["root", "poe", "corrected"])
async def test_what_needs_all_sums_is_refused_for_some_owners(combination: str) -> None:
    with pytest.raises(InvalidInputError, match="owners ada"):
        await SmallSwarm().ask("a", owners=(NodeId("ada"),), combination=combination)


async def test_what_does_not_go_together_or_is_not_there_is_refused_by_name() -> None:
    swarm = SmallSwarm(gate("prototypes", sums=False))
    with pytest.raises(NotFoundError, match="one of prototypes"):
        await swarm.ask("a", combination="root")
    with pytest.raises(InvalidInputError, match="uniform"):
        await swarm.ask("a", combination="gate", uniform=True)
    with pytest.raises(NotFoundError, match="owner nobody"):
        await swarm.ask("a", owners=(NodeId("nobody"),))
    with pytest.raises(InvalidInputError, match="no sums of eve"):
        await SmallSwarm().ask("a", owners=(NodeId("eve"),), combination="gate")


async def test_an_owner_asked_alone_that_is_away_is_not_replaced_by_the_root() -> None:
    swarm = SmallSwarm()
    swarm.gone("ada")
    with pytest.raises(NotReadyError, match=r"ada.e0"):
        await swarm.ask("a", owners=(NodeId("ada"),))


async def test_uniform_asks_all_experts_alike_without_the_gate() -> None:
    answer = await SmallSwarm(gate("root")).ask("a", uniform=True)
    assert [source.weight for source in answer.sources[0]] == [0.25] * 4
    assert (answer.combination, answer.flops_per_query) == ("uniform", 4 * EXPERT_FLOPS)


def spoiled(**changes: Any) -> Callable[[ExpertAnswer], ExpertAnswer]:
    return lambda answer: replace(answer, **changes)


@pytest.mark.parametrize(
    ("form", "spoils"),
    [
        ("corrected", spoiled(values=np.array([[1.0, 1.0]], np.float32))),
        ("corrected", spoiled(values=np.array([[np.nan, 0.0]], np.float32))),
        ("corrected", spoiled(values=np.array([[2e4, -2e4]], np.float32))),
        ("corrected", spoiled(form="probabilities")),
        ("gate", spoiled(form="corrections")),
        ("gate", spoiled(values=np.array([[0.9, 0.9]], np.float32))),
        ("gate", spoiled(values=np.array([[2.0, -1.0]], np.float32))),
        ("gate", spoiled(class_names=("a", "c"))),
        ("gate", spoiled(values=np.ones((1, 1), np.float32))),
    ],
)
async def test_an_answer_that_cannot_be_true_is_not_used(form: str, spoils: Any) -> None:
    swarm = SmallSwarm(gate(form))
    swarm.owners["ada"].spoils = spoils
    answer = await swarm.ask("a", top_k=1)
    assert answer.degraded == (True,) and "ada" not in owners_of(answer)


async def test_identical_experts_count_as_one() -> None:
    swarm = SmallSwarm()
    same = swarm.heads[expert_of(leaf_of(NodeId("bob"), 0))]
    swarm.heads[expert_of(leaf_of(NodeId("dan"), 0))] = same
    answer = await swarm.ask("c", top_k=4)
    assert owners_of(answer) == ["bob", "ada"]


def test_the_small_gate_is_what_it_says() -> None:
    analytic = gate().analytic
    assert analytic is not None
    np.testing.assert_allclose(analytic.class_scores(analytic.scores(inputs("abcd"))), np.eye(4), atol=1e-6)
    assert gate().value.class_names == CLASSES


def of_many_classes(active: ActiveGate, classes: int) -> ActiveGate:
    names = tuple(f"class {number}" for number in range(classes))
    value = replace(active.value, class_names=names)
    return replace(active, statement=replace(active.statement, value=value))


@pytest.mark.parametrize("served", ["root", "gate", "prototypes"])
async def test_an_answer_that_no_message_can_carry_is_refused_before_anything_is_computed(
    served: str,
) -> None:
    swarm = SmallSwarm(of_many_classes(gate(served), 6004))
    swarm.features.features = None  # type: ignore[assignment,method-assign]  # asking for them would fail
    query = Query(inputs=inputs("abcd").repeat(1000, axis=0))
    with pytest.raises(InvalidInputError) as caught:
        await swarm.router.predict(query, 20.0)
    said = str(caught.value)
    assert "4000 rows, each answered over 6004 classes" in said and "several queries" in said
    fit = rows_that_fit(swarm.active.value.class_names)
    assert f"at most {fit} rows" in said and 2700 < fit < MAX_MESSAGE_BYTES // (4 * 6004)
    assert not any(owner.asked for owner in swarm.owners.values())


async def test_a_profile_answers_over_its_own_classes_and_so_many_rows_fit() -> None:
    names = tuple(f"class {number}" for number in range(6004))
    profiles = SimpleNamespace(get=lambda *_: SimpleNamespace(facts=SimpleNamespace(class_names=names)))
    query = Query(inputs=inputs("abcd").repeat(1000, axis=0), profile="a" * 64)
    with pytest.raises(InvalidInputError, match="6004 classes"):
        await SmallSwarm(profiles=profiles).router.predict(query, 20.0)


def test_as_many_rows_fit_as_a_message_holds() -> None:
    assert rows_that_fit(CLASSES) == MAX_QUERY_ROWS
    for classes in (4_000, 6_004, MAX_CLASSES):
        names = tuple(f"{number:080}" for number in range(classes))
        rows = rows_that_fit(names)
        answer = Answer(
            class_names=names,
            probabilities=np.zeros((rows, classes), np.float32),
            gate_version=7,
            degraded=(False,) * rows,
            combination="root",
        )
        size = answer_to_pb(answer).ByteSize()
        assert size <= MAX_MESSAGE_BYTES + 1024
        assert rows == MAX_QUERY_ROWS or size > 0.99 * MAX_MESSAGE_BYTES


def split(swarm: SmallSwarm) -> None:
    """Put two exact copies, ada.l5 and ada.l6, under ada's leaf in the gate that answers."""
    active = swarm.active
    before, value = active.value.leaves[0], active.value
    children = tuple(
        replace(
            before, leaf=leaf_of(NodeId("ada"), number), expert=ExpertId(f"ada.e{number}"), parent=before.leaf
        )
        for number in (5, 6)
    )
    leaves = (*children, *value.leaves[1:])
    branches = (GateBranch(leaf=before.leaf, owner=before.owner),)
    placed = Placed.of(leaves, branches)
    assert active.prototypes is not None and active.analytic is not None
    flat, analytic = active.prototypes, active.analytic
    tops = [
        Cluster(prototypes=flat.prototypes[[row]], log_prior=flat.log_prior[[row]], radii=flat.radii[[row]])
        for row in range(4)
    ]
    nodes = [tops[0], tops[0], *tops[1:], tops[0]]
    prototypes = PrototypeGate.of_nodes(nodes, placed.tree, {}, flat.temperature)
    of_ada = analytic.weights[:, analytic.leaf_rows == 0]
    arrays = {
        "weights": np.concatenate(
            [0.25 * of_ada, 0.75 * of_ada, analytic.weights[:, analytic.leaf_rows > 0]], axis=1
        ),
        "branch_weights": of_ada,
    }
    swarm.active = replace(
        active,
        statement=replace(active.statement, value=replace(value, leaves=leaves, branches=branches)),
        prototypes=prototypes,
        analytic=AnalyticGate.from_statement_arrays(
            arrays, leaves, value.class_names, analytic.fixed_point, analytic.has_constant, placed
        ),
    )
    parent = swarm.heads.pop(before.expert)
    for leaf in children:
        copy = replace(parent.manifest, leaf=leaf.leaf, expert=leaf.expert)
        known = KnownHead(manifest=copy, digest=digest_of(leaf.leaf.encode()))
        swarm.heads[leaf.expert] = known
        for owner in swarm.owners.values():
            owner.heads[known.digest] = known


@pytest.mark.parametrize("way", ["root", "gate", "poe", "corrected", "prototypes", "uniform"])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
async def test_a_split_into_exact_copies_changes_no_answer(way: str, top_k: int) -> None:
    asked = {"uniform": True} if way == "uniform" else {"combination": way, "top_k": top_k}
    swarm = SmallSwarm()
    before = await swarm.ask("abcda", **asked)
    split(swarm)
    after = await swarm.ask("abcda", **asked)
    assert np.array_equal(after.probabilities, before.probabilities)
    assert after.degraded == before.degraded and owners_of(after) == owners_of(before)
    assert [s.owners for row in after.sources for s in row] == [
        s.owners for row in before.sources for s in row
    ]


async def test_a_copy_answers_for_its_twin_whose_holders_are_away() -> None:
    """Neither degraded nor mixed anew: it is the same expert, under its own name."""
    swarm = SmallSwarm(gate("gate"))
    split(swarm)
    twin = swarm.heads[ExpertId("ada.e6")]
    held = replace(twin, manifest=replace(twin.manifest, share="borrow"))
    swarm.heads[ExpertId("ada.e6")] = held
    before = await swarm.ask("a", top_k=1)
    assert [source.expert for source in before.sources[0]] == ["ada.e5"]
    bob = swarm.live.get(NodeId("bob"))
    assert bob is not None
    bob.served = frozenset({held.digest})
    swarm.gone("ada")
    after = await swarm.ask("a", top_k=1)
    assert np.array_equal(after.probabilities, before.probabilities) and after.degraded == (False,)
    assert [(source.expert, source.served_by) for source in after.sources[0]] == [("ada.e6", "bob")]
    alone = await swarm.ask("a", top_k=1, combination="gate", owners=(NodeId("dan"),))
    assert owners_of(alone) == ["dan"]


async def test_the_version_that_a_gate_pins_is_asked_and_not_the_head() -> None:
    swarm = SmallSwarm(gate("gate"))
    head = swarm.heads[ExpertId("ada.e0")]
    older = KnownHead(manifest=head.manifest, digest=digest_of(b"older"))
    swarm.owners["ada"].heads[older.digest] = older
    value = swarm.active.value
    pinned = replace(value.leaves[0], manifest=older.digest)
    swarm.active = replace(
        swarm.active,
        statement=replace(swarm.active.statement, value=replace(value, leaves=(pinned, *value.leaves[1:]))),
    )
    swarm.heads.pinned[older.digest] = older
    answer = await swarm.ask("a", top_k=1)
    assert [source.manifest for source in answer.sources[0]] == [older.digest]
    swarm.heads.pinned.clear()
    without = await swarm.ask("a", top_k=1)
    assert "ada" not in owners_of(without)
