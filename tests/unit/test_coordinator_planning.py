"""The pure parts of the coordinator: answer board, trials, candidates, throttle, addresses."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import bdtrc

from coordinator.addresses import Endpoints, told_address, told_elsewhere
from coordinator.harm import at_least, harm, is_beyond_chance
from coordinator.throttle import MOST_ADDRESSES, Throttle
from coordinator.trials import Verdict, defaults_for, is_sound, judge_ridge, judge_trials, still_sensible
from swarm.answering.answer_board import AnswerBoard
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.gating.combinations import FALLBACK
from swarm.gating.routing import plan_route

ADA, BOB = NodeId("ada"), NodeId("bob")


def board(weights: list[list[float]], top_k: int, **options: bool) -> AnswerBoard:
    array = np.array(weights)
    plan = plan_route(array, [f"expert {leaf}" for leaf in range(array.shape[1])], top_k)
    return AnswerBoard(plan, array.shape[1], **options)


def test_a_leaf_that_fails_is_replaced_by_the_rows_next_one_and_the_row_is_degraded() -> None:
    answers = board([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], 1)
    assert {leaf: rows.tolist() for leaf, rows in answers.wanted().items()} == {0: [0], 2: [1]}
    instead = answers.failed({0: np.array([0])})
    assert {leaf: rows.tolist() for leaf, rows in instead.items()} == {1: [0]}
    assert answers.degraded.tolist() == [True, False]
    np.testing.assert_allclose(answers.shares(), [[0, 1, 0], [0, 0, 1]])


def test_what_is_left_of_a_row_is_renormalised_by_the_gates_weights() -> None:
    answers = board([[0.5, 0.3, 0.2]], 2)
    answers.failed({0: np.array([0])})
    np.testing.assert_allclose(answers.shares(), [[0, 0.6, 0.4]], rtol=1e-6)


def test_the_root_that_stands_in_has_the_share_of_who_is_away_and_all_where_nobody_is_left() -> None:
    answers = board([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], 2, root_stands_in=True)
    assert answers.failed({0: np.array([0])}) == {}
    np.testing.assert_allclose(answers.shares(), [[0, 0.375, 0], [0, 2 / 9, 7 / 9]], rtol=1e-6)
    np.testing.assert_allclose(answers.root_shares(), [0.625, 0], rtol=1e-6)
    assert answers.degraded.tolist() == [True, False] and not len(answers.unanswered())
    answers.failed({1: np.array([0, 1])})
    np.testing.assert_allclose(answers.root_shares(), [1, 2 / 9], rtol=1e-6)
    assert answers.unanswered().tolist() == [0]


def test_a_row_with_no_leaf_left_is_said_to_be_unanswered() -> None:
    answers = board([[0.6, 0.4]], 1)
    assert answers.failed({0: np.array([0])}) != {}
    assert answers.failed({1: np.array([0])}) == {}
    assert answers.unanswered().tolist() == [0]


def test_uniform_shares_are_equal_whatever_the_weights() -> None:
    answers = board([[0.9, 0.05, 0.05]], 3, uniform=True)
    np.testing.assert_allclose(answers.shares(), [[1 / 3] * 3])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    leaves=st.integers(1, 6),
    top_k=st.integers(1, 7),
    seed=st.integers(0, 10**6),
    dead=st.sets(st.integers(0, 5)),
)
def test_every_row_ends_with_living_leaves_and_shares_that_sum_to_one(
    rows: int, leaves: int, top_k: int, seed: int, dead: set[int]
) -> None:
    weights = np.random.default_rng(seed).random((rows, leaves))
    plan = plan_route(weights, [str(leaf) for leaf in range(leaves)], min(top_k, leaves))
    answers = AnswerBoard(plan, leaves)
    pending = answers.wanted()
    for _ in range(2 * leaves + 2):
        losses = {leaf: where for leaf, where in pending.items() if leaf in dead}
        pending = answers.failed(losses)
        if not pending:
            break
    assert not pending
    shares = answers.shares()
    alive = [leaf for leaf in range(leaves) if leaf not in dead]
    assert len(answers.unanswered()) == (0 if alive else rows)
    if alive:
        np.testing.assert_allclose(shares.sum(axis=1), 1.0)
        assert (shares[:, sorted(dead & set(range(leaves)))] == 0).all()
        assert ((shares > 0).sum(axis=1) == min(top_k, len(alive))).all() or (weights == 0).any()


def options(*labels: str) -> tuple[TrialOption, ...]:
    """Options of these kinds, each at a temperature of its own: `root`, `gate 2`."""
    found = []
    for number, label in enumerate(labels, start=1):
        name, _, top_k = label.partition(" ")
        made = Combination(name=name, temperature=float(number), top_k=int(top_k or 1))  # type: ignore[arg-type]
        found.append(TrialOption(combination=made))
    return tuple(found)


def trial(
    correct: tuple[int, ...],
    gained: tuple[int, ...] = (),
    lost: tuple[int, ...] = (),
    *,
    nll: tuple[float, ...] = (),
    on_root: tuple[tuple[int, int], ...] = (),
) -> GateTrial:
    none = (0,) * len(correct)
    return GateTrial(
        samples=100,
        nll_sum=nll or tuple(map(float, none)),
        correct=correct,
        gained=gained or none,
        lost=lost or none,
        gained_among_own=gained or none,
        lost_among_own=lost or none,
        taken=none,
        gained_on_root=tuple(pair[0] for pair in on_root) or none,
        lost_on_root=tuple(pair[1] for pair in on_root) or none,
        incumbent_correct=50,
    )


PLAIN = defaults_for(9.0, has_sums=False, has_corrections=False, top_k=2)
WITH_SUMS = defaults_for(9.0, has_sums=True, has_corrections=True, top_k=2)


def served(verdict: Verdict) -> tuple[str, float]:
    found = verdict.combinations[verdict.served]
    return found.label, found.temperature


def test_the_ridge_is_the_one_whose_root_gets_most_right_and_of_equal_ones_the_likelier() -> None:
    trials = {ADA: trial((10, 60, 40)), BOB: trial((50, 30, 40))}
    assert judge_ridge(trials, (1.0, 2.0, 3.0), 9.0) == 2.0
    assert judge_ridge({ADA: trial((60, 60), nll=(3.0, 2.0))}, (1.0, 2.0), 9.0) == 2.0
    assert judge_ridge({}, (1.0, 2.0), 9.0) == 9.0


def test_the_present_ridge_stays_unless_another_is_better_by_more_than_a_standard_error() -> None:
    tried = {ADA: trial((60, 63, 61), gained=(2, 5, 1), lost=(0, 0, 0), nll=(3.0, 2.0, 1.0))}
    ridges = (1.0, 2.0, 3.0)
    assert judge_ridge(tried, ridges, 9.0) == 2.0
    assert judge_ridge(tried, ridges, 9.0, 1.0) == 2.0  # 3 ahead, at most 7 samples differ: more than 2.65
    assert judge_ridge(tried, ridges, 9.0, 3.0) == 3.0  # 2 ahead of 6: less than 2.45
    assert judge_ridge(tried, ridges, 9.0, 7.0) == 2.0  # a ridge that was not tried
    both = tried | {BOB: trial((50, 49, 50), gained=(1, 0, 1), lost=(0, 1, 0))}
    assert judge_ridge(both, ridges, 9.0, 1.0) == 1.0  # what one gains another loses
    equal = {ADA: trial((60, 60), nll=(3.0, 2.0))}
    assert judge_ridge(equal, (1.0, 2.0), 9.0, 1.0) == 1.0


def test_of_each_kind_the_most_correct_option_over_all_nodes_is_kept() -> None:
    tried = options("prototypes 2", "prototypes 2", "prototypes 1")
    trials = {ADA: trial((30, 10, 90)), BOB: trial((10, 40, 90))}
    verdict = judge_trials(trials, frozenset({ADA}), tried, PLAIN, 0.0)
    kept = {each.label: each.temperature for each in verdict.combinations}
    assert kept == {"prototypes top-2": 2.0, "prototypes top-1": 3.0}
    # Without sums the number of experts is the one that the swarm was set to.
    assert served(verdict) == ("prototypes top-2", 2.0) and verdict.harmed == ()
    assert verdict.evidence["validation_samples"] == 200 and verdict.evidence["judges"] == 2
    assert verdict.evidence["accuracy_prototypes_top2"] == 0.25


def test_the_root_is_served_unless_another_beats_it_by_more_than_one_standard_error() -> None:
    tried = options("root", "gate 2", "corrected 2", "poe 2")
    alone = {ADA: trial((50, 52, 56, 54), on_root=((0, 0), (5, 3), (9, 3), (6, 2)))}
    verdict = judge_trials(alone, frozenset(), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "corrected top-2" and verdict.ridge == 300.0
    assert verdict.reason == "serves corrected top-2: 56 of 100 right, root 50 (+9 -3)"
    assert verdict.evidence["z_corrected_top2"] == pytest.approx(5 / 12**0.5)
    # One more node, for which it is the other way round: the pooled difference decides.
    both = alone | {BOB: trial((60, 62, 54, 63), on_root=((0, 0), (5, 3), (2, 8), (6, 3)))}
    verdict = judge_trials(both, frozenset(), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "poe top-2"
    within_luck = {ADA: trial((50, 52, 52, 52), on_root=((0, 0), (5, 3), (5, 3), (5, 3)))}
    verdict = judge_trials(within_luck, frozenset(), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "root" and verdict.reason == "serves root: 50 of 100 right"
    few_differ = {ADA: trial((50, 50, 53, 50), on_root=((0, 0), (0, 0), (4, 1), (0, 0)))}
    assert served(judge_trials(few_differ, frozenset(), tried, WITH_SUMS, 300.0))[0] == "root"


def test_an_option_that_harms_an_incumbent_is_passed_over_and_only_then_comes_refusal() -> None:
    tried = options("prototypes 2", "prototypes 2")
    harmful_first = {ADA: trial((90, 80), (0, 3), (9, 2))}
    verdict = judge_trials(harmful_first, frozenset({ADA}), tried, PLAIN, 0.0)
    assert served(verdict)[1] == 2.0 and verdict.harmed == ()
    harmful_always = {ADA: trial((90, 80), (0, 0), (9, 9))}
    verdict = judge_trials(harmful_always, frozenset({ADA}), tried, PLAIN, 0.0)
    assert [str(harm) for harm in verdict.harmed] == [
        "ada would lose 9 and gain 0 of 100 validation samples among its own classes"
    ]


def test_a_kind_that_harms_somebody_is_not_served_but_may_be_asked_for() -> None:
    tried = options("root", "corrected 2")
    trials = {ADA: trial((50, 70), (0, 0), (0, 9), on_root=((0, 0), (25, 5)))}
    verdict = judge_trials(trials, frozenset({ADA}), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "root" and verdict.harmed == ()
    assert [each.label for each in verdict.combinations] == ["root", "corrected top-2"]
    # Where it is the root that would cost somebody, what does not is served instead.
    trials = {ADA: trial((50, 49), (0, 0), (9, 0), on_root=((0, 0), (0, 1)))}
    verdict = judge_trials(trials, frozenset({ADA}), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "corrected top-2" and verdict.harmed == ()


def test_a_newcomers_own_loss_is_no_reason_to_refuse() -> None:
    trials = {BOB: trial((10,), (0,), (9,))}
    assert judge_trials(trials, frozenset({ADA}), options("prototypes 2"), PLAIN, 0.0).harmed == ()


def test_without_trials_the_defaults_stand_and_the_evidence_says_so() -> None:
    verdict = judge_trials({}, frozenset({ADA}), options("prototypes 2"), PLAIN, 0.0)
    assert served(verdict) == ("prototypes top-2", 9.0)
    assert (verdict.evidence["judges"], verdict.evidence["incumbents_heard"]) == (0, 0)
    assert "nobody" in verdict.reason


def test_a_swarm_that_is_set_to_another_number_of_experts_serves_that_one() -> None:
    three = defaults_for(9.0, has_sums=False, has_corrections=False, top_k=3)
    assert three.combinations[three.served].top_k == 3


def test_of_a_gates_combinations_those_stay_that_make_sense_for_what_is_left_of_it() -> None:
    served_corrected = next(
        row for row, each in enumerate(WITH_SUMS.combinations) if each.label == "corrected top-2"
    )
    everything = still_sensible(
        WITH_SUMS.combinations, served_corrected, WITH_SUMS, has_sums=True, has_corrections=True
    )
    assert everything.combinations == WITH_SUMS.combinations and everything.served == served_corrected
    no_corrections = still_sensible(
        WITH_SUMS.combinations, served_corrected, WITH_SUMS, has_sums=True, has_corrections=False
    )
    assert no_corrections.combinations[no_corrections.served].name == "root"
    assert {each.name for each in no_corrections.combinations} == {"root", "gate", "poe", "prototypes"}
    no_sums = still_sensible(
        WITH_SUMS.combinations, served_corrected, PLAIN, has_sums=False, has_corrections=False
    )
    assert no_sums.combinations[no_sums.served].label == "prototypes top-2"
    sums_are_new = still_sensible(PLAIN.combinations, 1, WITH_SUMS, has_sums=True, has_corrections=False)
    assert sums_are_new.combinations[sums_are_new.served].label == "prototypes top-2"
    assert "root" in {each.name for each in sums_are_new.combinations}


@pytest.mark.parametrize(
    ("samples", "own", "known", "taken", "harmed"),
    [
        (100, (0, 5), (0, 0), 0, ""),  # what a fair prior may cost
        (100, (0, 6), (0, 0), 0, "6 and gain 0 of 100 validation samples among its own classes"),
        (1000, (3, 40), (0, 0), 0, ""),
        (1000, (3, 60), (0, 0), 0, "60 and gain 3 of 1000 validation samples among its own classes"),
        (20, (0, 4), (0, 0), 0, ""),  # a fifth of its samples, and still chance
        (20, (0, 5), (0, 0), 0, "5 and gain 0 of 20 validation samples among its own classes"),
        (100, (30, 40), (0, 0), 0, ""),
        (4096, (10, 1500), (0, 0), 0, "1500 and gain 10 of 4096 validation samples among its own classes"),
        (4096, (1500, 1510), (0, 0), 0, ""),
        (142, (0, 0), (1, 23), 0, ""),  # characters of two alphabets under the names of digits
        (200, (0, 0), (0, 40), 0, ""),
        (200, (0, 0), (0, 50), 0, "50 and gain 0 of 200 validation samples among the swarm's classes"),
        (10, (0, 0), (0, 4), 0, ""),
        (300, (0, 0), (0, 0), 100, ""),  # classes next to each other
        (300, (0, 0), (0, 0), 101, "101 of 300 validation samples to classes new to the swarm"),
        (4, (0, 0), (0, 0), 2, ""),  # of so few, chance
        (8, (0, 0), (0, 0), 3, ""),
        (8, (0, 0), (0, 0), 4, "4 of 8 validation samples to classes new to the swarm"),
        (4096, (0, 0), (0, 0), 1400, "1400 of 4096 validation samples to classes new to the swarm"),
    ],
)
def test_harm_is_a_loss_beyond_chance_and_beyond_what_others_may_cost(
    samples: int, own: tuple[int, int], known: tuple[int, int], taken: int, harmed: str
) -> None:
    found = replace(
        trial((0,), (known[0],), (known[1],)),
        samples=samples,
        gained_among_own=own[:1],
        lost_among_own=own[1:],
        taken=(taken,),
    )
    assert harm(found, 0) == harmed


def test_one_judge_does_not_choose_for_all_whatever_it_says_of_its_samples() -> None:
    tried = options("root", "gate 2")
    honest = {NodeId(f"n{row}"): trial((90, 80), on_root=((0, 0), (2, 12))) for row in range(9)}
    loud = replace(trial((0, 4096), on_root=((0, 0), (4096, 0))), samples=4096)
    verdict = judge_trials({**honest, ADA: loud}, frozenset(), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "gate top-2"  # four honest judges' worth of samples is still a lot
    assert verdict.reason.startswith("serves gate top-2: 1120 of 1300 right")
    assert judge_ridge({**honest, ADA: replace(loud, correct=(0, 90))}, (1.0, 2.0), 9.0) == 1.0


def test_a_judge_with_a_handful_of_samples_does_not_silence_the_others() -> None:
    tried = options("root", "corrected 2")
    large = replace(trial((800, 900), on_root=((0, 0), (100, 0))), samples=1000)
    for samples in (1, 5):
        small = replace(trial((samples, samples)), samples=samples)
        verdict = judge_trials({ADA: large, BOB: small}, frozenset(), tried, WITH_SUMS, 300.0)
        assert served(verdict)[0] == "corrected top-2"


def among_known(gained: int, lost: int) -> GateTrial:
    """What 100 samples lose to classes of others."""
    return replace(trial((50,)), gained=(gained,), lost=(lost,))


@pytest.mark.parametrize(
    ("incumbents", "lost", "harmed"),
    [
        (10, 5, ""),
        (10, 6, "10 incumbents together would lose 60 and gain 0 of 1000 validation samples"),
        (3, 6, ""),  # as if one of them lost 18
        (3, 7, "3 incumbents together would lose 21 and gain 0 of 300 validation samples"),
        (4, 9, "4 incumbents together would lose 36 and gain 0 of 400 validation samples"),
        (1, 19, ""),
    ],
)
def test_what_all_lose_a_little_is_harm_too(incumbents: int, lost: int, harmed: str) -> None:
    trials = {NodeId(f"n{row}"): among_known(0, lost) for row in range(incumbents)}
    verdict = judge_trials(trials, frozenset(trials), options("prototypes 2"), PLAIN, 0.0)
    expected = [f"{harmed} among the swarm's classes"] if harmed else []
    assert [str(each) for each in verdict.harmed] == expected


def test_one_that_looks_like_a_newcomer_may_lose_more_than_all_together() -> None:
    trials = {NodeId(f"n{row}"): among_known(0, 19 if row == 0 else 0) for row in range(10)}
    assert judge_trials(trials, frozenset(trials), options("prototypes 2"), PLAIN, 0.0).harmed == ()


def test_what_an_incumbent_has_lost_already_is_no_reason_to_refuse_the_same_again() -> None:
    tried, bad = options("prototypes 2"), {ADA: trial((50,), (0,), (40,)), BOB: among_known(0, 30)}
    both = frozenset(bad)
    judged = partial(judge_trials, bad, both, tried, PLAIN, 0.0)
    assert {each.who for each in judged().harmed} == {"ada", "bob", "2 incumbents together"}
    same = dict.fromkeys(bad, trial((50,), (3,), (3,)))
    assert judged(by_now=same).harmed == ()
    assert {each.who for each in judged(by_now={ADA: same[ADA]}).harmed} == {"bob", "2 incumbents together"}
    one_more = same | {ADA: trial((50,), (0,), (1,))}
    assert {each.who for each in judged(by_now=one_more).harmed} == {"ada", "2 incumbents together"}


def test_trials_that_cannot_be_true_are_recognised() -> None:
    one = options("root")
    assert is_sound(trial((1,), nll=(1.0,)), one)
    for broken in (
        trial((1, 1)),
        trial((1,), nll=(float("nan"),)),
        trial((1,), nll=(-1.0,)),
        trial((1,), nll=(1.7e308,)),  # a sum of these is infinite
        trial((101,)),
        trial((1,), (0,), (101,)),
        trial((1,), (-1,)),
        trial((1,), on_root=((0, 101),)),
        replace(trial((1,)), incumbent_correct=101),
        replace(trial((1,)), flops=-1),
        replace(trial((1,)), samples=0),
        replace(trial((1,)), samples=4097),
        trial((1,), (0,), (51,)),  # more lost than the present gate had right
        trial((1,), (51,)),
        replace(trial((1,)), gained_among_own=(51,)),
        replace(trial((1,)), lost_among_own=(101,)),
    ):
        assert not is_sound(broken, one)


def test_a_throttle_admits_a_burst_then_a_steady_rate_for_each_address() -> None:
    now = [0.0]
    throttle = Throttle(burst=3, per_second=1, clock=lambda: now[0])
    assert [throttle.admits("1.2.3.4") for _ in range(4)] == [True, True, True, False]
    assert throttle.admits("1.2.3.5")
    now[0] = 1.0
    assert [throttle.admits("1.2.3.4") for _ in range(2)] == [True, False]
    assert [throttle.admits(f"2001:db8::{n:x}") for n in range(1, 5)] == [True, True, True, False]
    for number in range(2 * MOST_ADDRESSES):
        throttle.admits(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._buckets) == MOST_ADDRESSES


@pytest.mark.parametrize(
    ("advertised", "listen", "told"),
    [
        ("", "127.0.0.1", ":7071"),
        ("", "0.0.0.0", ":7071"),
        ("", "::", ":7071"),
        ("", "10.0.0.7", "10.0.0.7:7071"),
        ("swarm.example", "0.0.0.0", "swarm.example:7071"),
        ("2001:db8::1", "::", "[2001:db8::1]:7071"),
    ],
)
def test_joiners_are_told_an_address_only_where_it_means_something_to_them(
    advertised: str, listen: str, told: str
) -> None:
    assert told_address(advertised, listen, 7071) == told


def test_a_local_registry_is_told_without_its_host_and_the_join_line_always_has_one() -> None:
    assert told_elsewhere("127.0.0.1:7072") == ":7072"
    assert told_elsewhere("registry:7072") == "registry:7072"
    endpoints = Endpoints(advertise="", listen="127.0.0.1", join_port=7070, port=7071, registry="[::1]:7072")
    assert (endpoints.join, endpoints.registry_told) == ("127.0.0.1:7070", ":7072")


@pytest.mark.parametrize(
    ("gained", "lost", "beyond"), [(0, 4, False), (0, 5, True), (5, 12, False), (5, 13, True)]
)
def test_a_loss_that_chance_explains_refuses_nobody(gained: int, lost: int, beyond: bool) -> None:
    assert is_beyond_chance(gained, lost) is beyond


@given(
    st.integers(0, 3000), st.integers(0, 3000), st.one_of(st.just(0.5), st.floats(1e-3, 0.999)), st.booleans()
)
def test_how_likely_so_many_are_is_what_scipy_says(count: int, of: int, share: float, near: bool) -> None:
    if near:
        count = round(of * share) + count % 7 - 3
    expected = bdtrc(count - 1, of, share) if count > 0 else 1.0
    assert at_least(count, of, share) == pytest.approx(0.0 if count > of else expected, rel=1e-9, abs=1e-12)


def test_what_the_worst_off_incumbent_loses_is_in_the_evidence() -> None:
    found = replace(trial((20,), (1,), (7,)), lost_among_own=(4,), taken=(7,))
    verdict = judge_trials({ADA: found}, frozenset({ADA}), options("prototypes 2"), PLAIN, 0.0)
    assert verdict.harmed == ()
    assert {key: verdict.evidence[f"largest_{key}"] for key in ("loss", "ceded", "taken")} == {
        "loss": 0.03, "ceded": 0.06, "taken": 0.07,
    }  # fmt: skip


def test_a_root_that_harms_refuses_a_candidate_that_serves_something_else() -> None:
    tried = (*options("root", "gate 2"), FALLBACK)
    found = trial((80, 90, 80), (0, 0, 0), (0, 0, 9), on_root=((0, 0), (20, 10), (0, 0)))
    verdict = judge_trials({ADA: found}, frozenset({ADA}), tried, WITH_SUMS, 300.0)
    assert served(verdict)[0] == "gate top-2" and len(verdict.combinations) == 2
    expected = (
        "ada would lose 9 and gain 0 of 100 validation samples among its own classes where the root answers"
    )
    assert [str(harm) for harm in verdict.harmed] == [expected]
    assert is_sound(replace(found, lost=(0, 0, 60)), tried)  # right by the root, not by what is served


def test_a_new_class_that_takes_an_incumbents_own_is_refused_by_name() -> None:
    found = replace(trial((50,)), taken=(40,))
    verdict = judge_trials({ADA: found}, frozenset({ADA}), options("prototypes 2"), PLAIN, 0.0)
    expected = "ada would lose 40 of 100 validation samples to classes new to the swarm"
    assert [str(harm) for harm in verdict.harmed] == [expected]
