"""What nodes tell of their own data is bounded: no node chooses alone what is tried next."""

import math
from dataclasses import replace

import pytest

from swarm.domain.growth import GrowthPolicy, LeafSurvey, Survey
from swarm.domain.ids import LeafId, NodeId, expert_of, leaf_of
from swarm.domain.inference import MAX_TRIAL_SAMPLES
from swarm.gating.growth import LeafFacts, Limits, plan_growth
from swarm.gating.loudness import ALWAYS_HEARD, LOUDEST, most_heard
from swarm.gating.surveys import Surveyed, is_sound_survey, sum_surveys

ADA, BOB, EVE = NodeId("ada"), NodeId("bob"), NodeId("eve")
LEAVES = [leaf_of(node, 1) for node in (ADA, BOB, EVE)]
WORST = -math.log(1e-6)


def told(name: str, samples: int, nll_sum: float, *, novel: int = 0, correct: int = 0) -> LeafSurvey:
    """`ada.1` is ada's leaf 1."""
    owner, number = name.split(".")
    leaf = leaf_of(NodeId(owner), int(number))
    return LeafSurvey(leaf=leaf, samples=samples, nll_sum=nll_sum, correct=correct, novel=novel)


def survey(*leaves: LeafSurvey, fresh: int = 0, novel: int = 0) -> Survey:
    return Survey(gate_version=3, leaves=leaves, fresh=fresh, fresh_novel=novel)


def facts(node: NodeId) -> LeafFacts:
    leaf = leaf_of(node, 1)
    return LeafFacts(
        leaf=leaf, expert=expert_of(leaf), owner=node, samples=400, classes=2, depth=0, changed_at=0.0
    )


def test_surveys_are_summed_by_leaf_and_novelty_is_not() -> None:
    found = sum_surveys(
        {
            ADA: survey(told("ada.1", 10, 5.0, novel=1), fresh=20, novel=2),
            BOB: survey(told("ada.1", 30, 1.5), told("bob.1", 5, 2.0)),
        }
    )
    assert found.leaves[LeafId("ada.l1")] == told("ada.1", 40, 6.5, novel=1)
    assert found.samples == 45 and found.novel == {"ada": 2, "bob": 0}


@pytest.mark.parametrize(
    "found",
    [
        Survey(gate_version=2, leaves=()),
        survey(told("dan.1", 10, 5.0)),
        survey(told("ada.1", 10, 5.0), told("ada.1", 10, 5.0)),
        survey(told("ada.1", 10, float("inf"))),
        survey(told("ada.1", 10, float("nan"))),
        survey(told("ada.1", 10, -1.0)),
        survey(told("ada.1", 100, 1e308)),
        survey(told("ada.1", 100, 100 * WORST + 0.01)),
        survey(told("ada.1", 0, 1.0)),
        survey(told("ada.1", 10, 5.0, novel=11)),
        survey(told("ada.1", 10, 5.0, correct=11)),
        survey(told("ada.1", MAX_TRIAL_SAMPLES + 1, 5.0)),
        survey(told("ada.1", 4000, 5.0), told("bob.1", 97, 5.0)),
        survey(fresh=3, novel=4),
    ],
)
def test_figures_that_cannot_be_true_count_for_nothing(found: Survey) -> None:
    assert not is_sound_survey(found, 3, LEAVES)


@pytest.mark.parametrize(
    "found",
    [
        survey(),
        survey(told("ada.1", 0, 0.0)),
        survey(told("ada.1", 100, sum([WORST] * 100)), fresh=10**6, novel=10**6),
        survey(told("ada.1", 4000, 5.0), told("bob.1", 96, 5.0)),
    ],
)
def test_the_worst_that_can_be_true_counts(found: Survey) -> None:
    assert is_sound_survey(found, 3, LEAVES)


@pytest.mark.parametrize("policy", ["conservative", "eager"])
def test_no_number_of_samples_lets_one_node_choose_which_leaf_is_split(policy: GrowthPolicy) -> None:
    """eve names all that a node can, of her own leaf; five others agree that ada's loses most."""
    honest = survey(told("ada.1", 60, 120.0), told("bob.1", 60, 6.0), told("eve.1", 60, 6.0))
    surveys = {NodeId(f"node-{number}"): honest for number in range(5)}
    loud = survey(told("eve.1", 4096, 4096.0 * 0.5))
    assert is_sound_survey(loud, 3, LEAVES)
    found = sum_surveys(surveys | {EVE: loud})
    planned = plan_growth(
        found, [facts(node) for node in (ADA, BOB, EVE)], policy, (),
        limits=Limits(min_shard=20, max_leaves=8), now=10.0,
    )  # fmt: skip
    assert planned is not None and planned.experts == ("ada.e1",)
    assert found.leaves[LEAVES[2]].samples == 5 * 60 + LOUDEST * 180


def test_by_usage_no_number_of_samples_makes_a_leaf_the_most_used_one() -> None:
    honest = survey(told("ada.1", 150, 1.0), told("eve.1", 10, 1.0))
    surveys = {NodeId(f"node-{number}"): honest for number in range(5)}
    found = sum_surveys(surveys | {EVE: survey(told("eve.1", 4096, 1.0))})
    planned = plan_growth(
        found, [facts(node) for node in (ADA, EVE)], "eager", (),
        limits=Limits(min_shard=20, max_leaves=8), criterion="usage", now=10.0,
    )  # fmt: skip
    assert planned is not None and planned.experts == ("ada.e1",)


def test_who_counts_for_fewer_samples_keeps_their_proportions_and_no_used_leaf_is_lost() -> None:
    loud = survey(told("ada.1", 3000, 900.0, novel=30, correct=1500), told("bob.1", 1, 2.0, correct=1))
    found = sum_surveys({ADA: survey(told("ada.1", 50, 1.0)), BOB: survey(), EVE: loud})
    counted = found.leaves[LEAVES[0]]
    assert (counted.samples, counted.correct, counted.novel) == (250, 100, 2)
    assert counted.nll_sum == pytest.approx(1 + 900 * 200 / 3001)
    assert found.leaves[LEAVES[1]].samples == 1


def test_a_handful_of_samples_silences_nobody() -> None:
    assert most_heard([5, 180]) == ALWAYS_HEARD
    assert most_heard([100, 100, 4096]) == 400
    assert most_heard([]) == ALWAYS_HEARD


def test_new_samples_are_believed_up_to_what_their_owner_contributed() -> None:
    found = Surveyed(fresh={ADA: 10**15, BOB: 300, EVE: 50}, novel={ADA: 10**15 // 4, BOB: 90, EVE: 50})
    believed = found.believed({ADA: 400, BOB: 300})
    assert believed.fresh == {ADA: 400, BOB: 300, EVE: 0}
    assert believed.novel == {ADA: 100, BOB: 90, EVE: 0}
    assert replace(believed, fresh=found.fresh, novel=found.novel) == found
