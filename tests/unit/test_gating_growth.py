"""What the policy would do next: a table of swarms and of what it proposes for each."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from swarm.domain.growth import GrowthPolicy, LeafSurvey, Proposal
from swarm.domain.ids import ExpertId, NodeId, leaf_of
from swarm.gating.growth import (
    CANCELLED,
    NOT_NOW,
    UNDONE_IN,
    UNUSED_SURVEYS,
    LeafFacts,
    Limits,
    next_look_s,
    plan_growth,
)
from swarm.gating.surveys import Surveyed

NOW = 1_000_000.0
LIMITS = Limits(min_shard=20, max_leaves=8)


def leaf(name: str, samples: int = 400, **facts: Any) -> LeafFacts:
    """`ada.1` is ada's leaf 1."""
    owner, number = name.split(".")
    place = leaf_of(NodeId(owner), int(number))
    values: dict[str, Any] = {"classes": 2, "depth": 0, "changed_at": NOW - 1e6} | facts
    expert = ExpertId(f"{owner}.e{number}")
    return LeafFacts(leaf=place, expert=expert, owner=NodeId(owner), samples=samples, **values)


def survey_of(name: str, samples: int, nll_sum: float, novel: int = 0) -> LeafSurvey:
    owner, number = name.split(".")
    place = leaf_of(NodeId(owner), int(number))
    return LeafSurvey(leaf=place, samples=samples, nll_sum=nll_sum, correct=0, novel=novel)


def surveyed(*leaves: LeafSurvey, **novel: tuple[int, int]) -> Surveyed:
    """`ada=(30, 400)`: 30 of ada's 400 new samples are novel."""
    return Surveyed(
        leaves={each.leaf: each for each in leaves},
        novel={NodeId(node): found for node, (found, _) in novel.items()},
        fresh={NodeId(node): of for node, (_, of) in novel.items()},
    )


def past(
    kind: Any,
    *experts: str,
    owner: str = "ada",
    state: Any = "refused",
    ago_s: float = 60.0,
    samples: int = 0,
    said: str = "",
) -> Proposal:
    return Proposal(
        id="p1",
        kind=kind,
        experts=tuple(ExpertId(expert) for expert in experts),
        owner=NodeId(owner),
        gate_version=1,
        by="policy",
        created_at=NOW - ago_s,
        changed_at=NOW - ago_s,
        state=state,
        evidence=({"leaf_samples": float(samples)} if samples else {}) | ({said: 1.0} if said else {}),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    found: Surveyed = field(default_factory=Surveyed)
    leaves: tuple[LeafFacts, ...]
    policy: GrowthPolicy = "conservative"
    history: tuple[Proposal, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    wanted: str = ""
    """`split ada.e1`; empty: nothing."""


TWO = (leaf("ada.1"), leaf("bob.1"))
LOSING = surveyed(survey_of("ada.1", 100, 90.0), survey_of("bob.1", 100, 10.0))
THREE = (leaf("ada.1"), leaf("ada.2"), leaf("bob.1"))
QUIET = surveyed(survey_of("ada.1", 100, 10.0), survey_of("ada.2", 100, 10.0), survey_of("bob.1", 100, 10.0))
AWAY_S = LIMITS.stale_after_s + 1

CASES = [
    Case(
        name="the leaf of the largest summed loss is split", found=LOSING, leaves=TWO, wanted="split ada.e1"
    ),
    Case(name="manual proposes nothing", found=LOSING, leaves=TWO, policy="manual"),
    Case(
        name="nothing is proposed while something is open",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "bob.e1", owner="bob", state="working"),),
    ),
    Case(
        name="conservative leaves alone what loses little more than others",
        found=surveyed(survey_of("ada.1", 100, 40.0), survey_of("bob.1", 100, 30.0)),
        leaves=TWO,
    ),
    Case(
        name="eager does not",
        found=surveyed(survey_of("ada.1", 100, 40.0), survey_of("bob.1", 100, 30.0)),
        leaves=TWO,
        policy="eager",
        wanted="split ada.e1",
    ),
    Case(
        name="the sum of losses counts, not their mean",
        found=surveyed(survey_of("ada.1", 300, 60.0), survey_of("bob.1", 20, 20.0)),
        leaves=TWO,
        policy="eager",
        wanted="split ada.e1",
    ),
    Case(
        name="by usage the most used one is split",
        found=surveyed(survey_of("ada.1", 50, 60.0), survey_of("bob.1", 90, 20.0)),
        leaves=TWO,
        policy="eager",
        options={"criterion": "usage"},
        wanted="split bob.e1",
    ),
    Case(
        name="conservative wants four times the least shard",
        found=LOSING,
        leaves=(leaf("ada.1", samples=79), leaf("bob.1")),
    ),
    Case(
        name="eager wants twice the least shard",
        found=LOSING,
        leaves=(leaf("ada.1", samples=40), leaf("bob.1", samples=39)),
        policy="eager",
        wanted="split ada.e1",
    ),
    Case(
        name="a leaf below it is passed over for the next",
        found=LOSING,
        leaves=(leaf("ada.1", samples=39), leaf("bob.1", samples=40)),
        policy="eager",
        wanted="split bob.e1",
    ),
    Case(
        name="no owner gets more leaves than it may have",
        found=LOSING,
        leaves=TWO,
        options={"limits": Limits(min_shard=20, max_leaves=1)},
    ),
    Case(
        name="no tree grows beyond its depth",
        found=LOSING,
        leaves=(leaf("ada.1", depth=8), leaf("bob.1")),
    ),
    Case(
        name="nothing is asked of who is away",
        found=LOSING,
        leaves=(leaf("ada.1", away_s=60.0), leaf("bob.1")),
    ),
    Case(
        name="a leaf whose split failed rests", found=LOSING, leaves=TWO, history=(past("split", "ada.e1"),)
    ),
    Case(
        name="for a day",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", ago_s=25 * 3600.0),),
        wanted="split ada.e1",
    ),
    Case(
        name="eager lets it rest for an hour",
        found=LOSING,
        leaves=(leaf("ada.1"), leaf("bob.1", samples=1)),
        policy="eager",
        history=(past("split", "ada.e1", ago_s=3700.0),),
        wanted="split ada.e1",
    ),
    Case(
        name="or until its contribution changes",
        found=LOSING,
        leaves=(leaf("ada.1", changed_at=NOW - 10), leaf("bob.1")),
        history=(past("split", "ada.e1", ago_s=60.0),),
        wanted="split ada.e1",
    ),
    Case(
        name="in a stream until it stands for half as many samples again",
        found=LOSING,
        leaves=(leaf("ada.1", changed_at=NOW - 10, samples=149), leaf("bob.1")),
        history=(past("split", "ada.e1", ago_s=60.0, samples=100),),
    ),
    Case(
        name="and no longer",
        found=LOSING,
        leaves=(leaf("ada.1", changed_at=NOW - 10, samples=150), leaf("bob.1")),
        history=(past("split", "ada.e1", ago_s=60.0, samples=100),),
        wanted="split ada.e1",
    ),
    Case(
        name="what its owner could not carry out rests for minutes",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="failed", ago_s=200.0),),
    ),
    Case(
        name="and no longer than that",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="failed", ago_s=400.0),),
        wanted="split ada.e1",
    ),
    Case(
        name="what was accepted does not rest",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="accepted"),),
        wanted="split ada.e1",
    ),
    Case(
        name="what was accepted and then undone by a rollback rests as what did not pay",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="accepted", ago_s=23 * 3600.0, said=UNDONE_IN),),
    ),
    Case(
        name="and no longer than that does",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="accepted", ago_s=25 * 3600.0, said=UNDONE_IN),),
        wanted="split ada.e1",
    ),
    Case(
        name="what was taken away and came back by a rollback is not taken away again at once",
        found=QUIET,
        leaves=(leaf("ada.1"), leaf("ada.2", unused=UNUSED_SURVEYS), leaf("bob.1")),
        history=(past("remove", "ada.e2", state="accepted", said=UNDONE_IN),),
    ),
    Case(
        name="what was cancelled rests as what did not pay",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="failed", ago_s=400.0, said=CANCELLED),),
    ),
    Case(
        name="who could not take it just now is left alone for half a minute, whatever it is",
        found=LOSING,
        leaves=TWO,
        history=(past("remove", "ada.e7", state="failed", ago_s=29.0, said=NOT_NOW),),
    ),
    Case(
        name="then it is asked again",
        found=LOSING,
        leaves=TWO,
        history=(past("split", "ada.e1", state="failed", ago_s=31.0, said=NOT_NOW),),
        wanted="split ada.e1",
    ),
    Case(
        name="twice as long after the second time in a row",
        found=LOSING,
        leaves=TWO,
        history=tuple(past("split", "ada.e1", state="failed", ago_s=at, said=NOT_NOW) for at in (59.0, 99.0)),
    ),
    Case(
        name="and at once where it has contributed since",
        found=LOSING,
        leaves=(leaf("ada.1", changed_at=NOW - 10), leaf("bob.1")),
        history=(past("split", "ada.e1", state="failed", ago_s=29.0, said=NOT_NOW),),
        wanted="split ada.e1",
    ),
    Case(
        name="others are asked meanwhile",
        found=LOSING,
        leaves=TWO,
        policy="eager",
        history=(past("split", "ada.e1", state="failed", ago_s=29.0, said=NOT_NOW),),
        wanted="split bob.e1",
    ),
    Case(
        name="novelty beyond chance brings an add",
        found=replace(QUIET, fresh={NodeId("ada"): 400}, novel={NodeId("ada"): 30}),
        leaves=THREE,
        wanted="add ada",
    ),
    Case(
        name="one percent of many is no novelty",
        found=replace(QUIET, fresh={NodeId("ada"): 3000}, novel={NodeId("ada"): 35}),
        leaves=THREE,
    ),
    Case(
        name="fewer novel samples than a leaf needs are left",
        found=replace(QUIET, fresh={NodeId("ada"): 40}, novel={NodeId("ada"): 19}),
        leaves=THREE,
    ),
    Case(
        name="where several have something novel, the prototypes are to be found together",
        found=replace(
            QUIET,
            fresh=dict.fromkeys((NodeId("ada"), NodeId("bob")), 400),
            novel={NodeId("ada"): 30, NodeId("bob"): 40},
        ),
        leaves=THREE,
        wanted="add bob with bob ada",
    ),
    Case(
        name="an add that did not pay rests until half as many more are novel",
        found=replace(QUIET, fresh={NodeId("ada"): 400}, novel={NodeId("ada"): 44}),
        leaves=tuple(replace(each, changed_at=NOW) for each in THREE),
        history=(past("add", samples=30),),
    ),
    Case(
        name="and no longer than until then",
        found=replace(QUIET, fresh={NodeId("ada"): 400}, novel={NodeId("ada"): 45}),
        leaves=THREE,
        history=(past("add", samples=30),),
        wanted="add ada",
    ),
    Case(
        name="whoever tells of more new samples than it contributed is believed that many",
        found=replace(
            QUIET,
            fresh={NodeId("ada"): 10**9, NodeId("bob"): 500},
            novel={NodeId("ada"): 10**8, NodeId("bob"): 200},
        ),
        leaves=(leaf("ada.1"), leaf("ada.2"), leaf("bob.1", samples=500)),
        wanted="add bob with bob ada",
    ),
    Case(
        name="an add that failed rests",
        found=replace(QUIET, fresh={NodeId("ada"): 400}, novel={NodeId("ada"): 30}),
        leaves=THREE,
        history=(past("add"),),
    ),
    Case(
        name="what nobody uses is removed",
        found=QUIET,
        leaves=(leaf("ada.1"), leaf("ada.2", unused=UNUSED_SURVEYS), leaf("bob.1")),
        wanted="remove ada.e2",
    ),
    Case(
        name="after three surveys, not two",
        found=QUIET,
        leaves=(leaf("ada.1"), leaf("ada.2", unused=UNUSED_SURVEYS - 1), leaf("bob.1")),
    ),
    Case(
        name="the last leaf of an owner stays",
        found=QUIET,
        leaves=(leaf("ada.1"), leaf("ada.2"), leaf("bob.1", unused=UNUSED_SURVEYS)),
    ),
    Case(
        name="of two that compute the same the smaller one goes",
        found=QUIET,
        leaves=(leaf("ada.1", computes="x"), leaf("ada.2", samples=80, computes="x"), leaf("bob.1")),
        wanted="remove ada.e2",
    ),
    Case(
        name="another owner's copy is its own",
        found=QUIET,
        leaves=(leaf("ada.1", computes="x"), leaf("ada.2"), leaf("bob.1", computes="x")),
    ),
    Case(
        name="an owner without a lease for a week is retired with all its leaves",
        found=QUIET,
        leaves=(leaf("ada.1", away_s=AWAY_S), leaf("ada.2", away_s=AWAY_S), leaf("bob.1")),
        wanted="remove ada.e1 ada.e2",
    ),
    Case(
        name="not where nobody else would be left",
        found=QUIET,
        leaves=(leaf("ada.1", away_s=AWAY_S), leaf("ada.2", away_s=AWAY_S)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_policy_proposes_one_thing(case: Case) -> None:
    options: dict[str, Any] = {"limits": LIMITS, "now": NOW} | case.options
    found = plan_growth(case.found, case.leaves, case.policy, case.history, **options)
    said = "" if found is None else " ".join([found.kind, *(found.experts or (found.owner,))])
    if found is not None and found.together:
        said += f" with {' '.join(found.together)}"
    assert said == case.wanted


def test_the_next_look_comes_when_an_owner_may_be_asked_again() -> None:
    def refused(*ago_s: float) -> list[Proposal]:
        return [past("split", "ada.e1", state="failed", ago_s=each, said=NOT_NOW) for each in ago_s]

    assert next_look_s([past("split", "ada.e1", state="failed")], 300.0, NOW) == 300.0
    assert next_look_s(refused(10.0), 300.0, NOW) == 20.0
    assert next_look_s(refused(10.0, 50.0), 300.0, NOW) == 50.0
    assert next_look_s(refused(*range(1, 40)), 1000.0, NOW) == 299.0
    assert next_look_s(refused(10.0), 5.0, NOW) == 5.0
    assert next_look_s(refused(31.0), 300.0, NOW) == 300.0  # it was looked at then
    assert next_look_s([*refused(10.0), past("split", ago_s=5.0)], 300.0, NOW) == 300.0
