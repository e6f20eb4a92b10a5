"""What judges that are away found last: whose word counts, for what, and for how long."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.envelope_files import EnvelopeFiles
from coordinator.judgements import Finding, Judgement, Judgements, read_for
from coordinator.trials import defaults_for, judge_trials
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.gating.combinations import FALLBACK, option_grid, ridge_options

ADA, BOB = NodeId("ada"), NodeId("bob")
GRID = option_grid(True, (1.0, 2.0), True)
PLAIN_GRID = option_grid(True, (3.0, 4.0), False)


def found(options: tuple[TrialOption, ...], best: str, samples: int = 100) -> GateTrial:
    """A judge that gets everything right by one combination and half of it by others."""
    right = [each.combination.label == best for each in options]
    none = (0,) * len(options)
    return GateTrial(
        samples=samples,
        nll_sum=tuple(float(row) for row in range(len(options))),
        correct=tuple(samples if flag else samples // 2 for flag in right),
        gained=none,
        lost=none,
        gained_among_own=none,
        lost_among_own=(1,) * len(options),
        taken=none,
        gained_on_root=tuple(samples // 2 if flag else 0 for flag in right),
        lost_on_root=none,
        incumbent_correct=samples // 2,
        flops=7,
    )


def finding(trials: dict[NodeId, GateTrial], options: tuple[TrialOption, ...] = GRID) -> Finding:
    return Finding(question="combination", options=options, trials=trials)


@pytest.fixture
def files(tmp_path: Path) -> EnvelopeFiles:
    return EnvelopeFiles(tmp_path / "judgements")


async def test_who_is_away_counts_as_it_found_last(
    files: EnvelopeFiles,
) -> None:
    kept = Judgements(files)
    both = {ADA: found(GRID, "root"), BOB: found(GRID, "gate top-2")}
    await kept.remember([finding(both)], {ADA, BOB})
    for again in (kept, Judgements(files)):
        absent = again.of_absent("combination", GRID, {BOB})
        assert list(absent) == [BOB] and absent[BOB].correct[:-1] == both[BOB].correct[:-1]
        assert again.of_absent("combination", GRID, ()) == {}
        assert again.of_absent("ridge", ridge_options(2), {BOB}) == {}
    await kept.forget(BOB)
    assert Judgements(files).of_absent("combination", GRID, {BOB}) == {}


async def test_a_judge_that_is_not_in_the_gate_is_not_remembered(files: EnvelopeFiles) -> None:
    kept = Judgements(files)
    await kept.remember([finding({BOB: found(GRID, "root")})], {ADA})
    assert files.names() == [] and kept.of_absent("combination", GRID, {BOB}) == {}


async def test_each_question_has_its_own_last_word(files: EnvelopeFiles) -> None:
    kept, ridges = Judgements(files), ridge_options(3)
    ridge = Finding(question="ridge", options=ridges, trials={BOB: found(ridges, "root")})
    await kept.remember([ridge, finding({BOB: found(GRID, "root")})], {BOB})
    later = found(GRID, "gate top-1")
    await kept.remember([finding({BOB: later})], {BOB})
    again = Judgements(files)
    assert again.of_absent("combination", GRID, {BOB})[BOB].correct[:-1] == later.correct[:-1]
    assert list(again.of_absent("ridge", ridges, {BOB})) == [BOB]
    assert again.of_absent("ridge", ridge_options(4), {BOB}) == {}


async def test_a_damaged_file_costs_one_judge_its_vote(files: EnvelopeFiles) -> None:
    await Judgements(files).remember(
        [finding({ADA: found(GRID, "root"), BOB: found(GRID, "root")})], {ADA, BOB}
    )
    files.put(ADA, b'{"judgements": {"combination": {')
    assert list(Judgements(files).of_absent("combination", GRID, {ADA, BOB})) == [BOB]


@pytest.mark.parametrize(
    "changed",
    [
        {"samples": 0},
        {"samples": -5},
        {"samples": 10**400},
        {"samples": 10**15},
        {"correct": [1]},
        {"correct": [10**9] * len(GRID)},
        {"nll_sum": [float("inf")] * len(GRID)},
        {"nll_sum": [float("nan")] * len(GRID)},
    ],
)
async def test_figures_that_cannot_be_true_cost_one_judge_its_vote(
    files: EnvelopeFiles, changed: dict[str, Any]
) -> None:
    await Judgements(files).remember(
        [finding({ADA: found(GRID, "root"), BOB: found(GRID, "root")})], {ADA, BOB}
    )
    kept = json.loads(files.get(ADA) or b"")
    kept["judgements"]["combination"]["trial"] |= changed
    files.put(ADA, json.dumps(kept).encode())
    assert list(Judgements(files).of_absent("combination", GRID, {ADA, BOB})) == [BOB]


async def test_options_named_twice_and_a_folder_cost_one_judge_its_vote(files: EnvelopeFiles) -> None:
    await Judgements(files).remember([finding({BOB: found(GRID, "root")})], {BOB})
    twice = (*GRID, GRID[0])
    await Judgements(files).remember([finding({ADA: found(twice, "root")}, twice)], {ADA})
    (files._folder / "cyd.json").mkdir()
    assert list(Judgements(files).of_absent("combination", GRID, {ADA, BOB})) == [BOB]


async def test_a_full_disk_stops_no_gate(files: EnvelopeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    kept = Judgements(files)
    monkeypatch.setattr(files, "put", full)
    await kept.remember([finding({BOB: found(GRID, "root")})], {BOB})
    assert list(kept.of_absent("combination", GRID, {BOB})) == [BOB]


def judged(options: tuple[TrialOption, ...], best: str) -> Judgement:
    return Judgement(options=options, trial=found(options, best))


def test_what_compares_with_the_present_gate_is_not_in_a_judgement() -> None:
    read = read_for(GRID, judged(GRID, "root"))
    assert read is not None
    assert not any((*read.lost_among_own, *read.taken, read.incumbent_correct, read.flops))


def test_prototypes_are_read_by_their_order_and_corrections_that_were_not_there_as_the_root() -> None:
    last = judged(PLAIN_GRID, "prototypes top-2")
    read = read_for(GRID, last)
    assert read is not None
    by_option = dict(zip(GRID, read.correct, strict=True))
    for option, correct in by_option.items():
        expected = 100 if option.combination.label == "prototypes top-2" else 50
        assert correct == (0 if option == FALLBACK else expected)
    root = Combination(name="root", class_temperature=0.2)
    likelihood = dict(zip(PLAIN_GRID, last.trial.nll_sum, strict=True))[TrialOption(combination=root)]
    assert {
        nll for option, nll in zip(GRID, read.nll_sum, strict=True) if option.combination.name == "corrected"
    } == {likelihood}


def test_a_judgement_without_sums_says_nothing_of_a_gate_with_sums() -> None:
    assert read_for(GRID, judged(option_grid(False, (1.0, 2.0), False), "prototypes top-1")) is None
    assert read_for(option_grid(False, (5.0, 6.0), False), judged(GRID, "prototypes top-1")) is not None
    fewer = option_grid(False, (1.0,), False)
    assert read_for(option_grid(False, (5.0, 6.0), False), judged(fewer, "prototypes top-1")) is None


def test_those_away_choose_with_the_others_and_refuse_nothing() -> None:
    options, defaults = GRID, defaults_for(1.0, has_sums=True, has_corrections=True, top_k=2)
    here = {ADA: found(options, "root", samples=20)}
    alone = judge_trials(here, frozenset({ADA, BOB}), options, defaults, 300.0)
    assert alone.combinations[alone.served].label == "root"
    absent = {BOB: replace(found(options, "gate top-2"), lost=(90,) * len(options))}
    verdict = judge_trials(here, frozenset({ADA, BOB}), options, defaults, 300.0, absent=absent)
    assert verdict.combinations[verdict.served].label == "gate top-2" and verdict.harmed == ()
    assert (verdict.evidence["judges"], verdict.evidence["incumbents_heard"]) == (1, 1)
    assert verdict.evidence["incumbent_accuracy"] == 0.5
    covered = [verdict.evidence[f"validation_samples{name}"] for name in ("", "_remembered")]
    assert covered == [120, 100]
    only = judge_trials({}, frozenset({ADA, BOB}), options, defaults, 300.0, absent=absent)
    assert only.combinations[only.served].label == "gate top-2"
    assert "incumbent_accuracy" not in only.evidence
