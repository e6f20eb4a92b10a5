"""What the nodes' own validation data say about a candidate gate: how it answers, and whether it may come.

A candidate is refused where every option would harm an incumbent (`coordinator.harm`). Of what harms nobody
the root is served, unless another combination beats it by more than one standard error (docs/adr/0008).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.harm import Harm, Harms
from coordinator.weighing import Trials, summed, weighed
from swarm.domain.combination import CALIBRATIONS, USES_SUMS, Combination, TrialOption
from swarm.domain.ids import NodeId
from swarm.domain.inference import MAX_TRIAL_SAMPLES, GateTrial
from swarm.gating.calibration import fitted_temperature

WORST_NLL = 20.0
"""No sample's negative log likelihood can be larger: every answer has a floor of about exp(-14)."""
BEYOND_ROOT = 1.0
"""By how many standard errors of the paired difference a combination must beat the root to be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`harmed` empty: the candidate may come and answers by `combinations[served]`.

    `combinations` are the best of each kind and top_k, also those that may not be served unless asked for.
    `evidence` says what the figures cover, `reason` in words why this one is served.
    """

    combinations: tuple[Combination, ...]
    served: int
    ridge: float
    harmed: tuple[Harm, ...]
    evidence: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a candidate answers by where nobody has validation data: chosen ahead of any evidence.

    Without sums `combinations[served]` also names the number of experts that is served with evidence.
    """

    combinations: tuple[Combination, ...]
    served: int


def is_sound(trial: GateTrial, options: Sequence[TrialOption]) -> bool:
    """Return whether a trial's figures can be true: one per option, finite, within its samples and within
    what the present gate has right and wrong there."""
    counts = (
        *(trial.correct, trial.gained, trial.lost, trial.taken),
        *(trial.gained_among_own, trial.lost_among_own),
        *(trial.gained_on_root, trial.lost_on_root),
    )
    if not 1 <= trial.samples <= MAX_TRIAL_SAMPLES or any(
        len(column) != len(options) for column in (trial.nll_sum, *counts)
    ):
        return False
    losses = trial.nll_by_calibration
    if len(losses) not in (0, len(options) * len(CALIBRATIONS)):
        return False
    bounded = [trial.incumbent_correct, *(count for column in counts for count in column)]
    return (
        all(0 <= nll <= WORST_NLL * trial.samples for nll in (*trial.nll_sum, *losses))
        and all(0 <= count <= trial.samples for count in bounded)
        and min(trial.experts_missing, trial.flops) >= 0
        and all(
            trial.lost[row] <= trial.incumbent_correct
            and max(trial.gained[row], trial.gained_among_own[row]) <= trial.samples - trial.incumbent_correct
            for row, option in enumerate(options)
            if not option.against_root
        )
    )


def defaults_for(
    prototype_temperature: float, *, has_sums: bool, has_corrections: bool, top_k: int
) -> Defaults:
    """Return the combinations without evidence; served is the root, or `prototypes` at top_k without sums."""
    counts = sorted({1, 2, 4, top_k})
    found = [Combination(name="prototypes", temperature=prototype_temperature, top_k=k) for k in counts]
    if not has_sums:
        return Defaults(combinations=tuple(found), served=counts.index(top_k))
    found.insert(0, Combination(name="root"))
    found += [Combination(name="gate", temperature=0.2, top_k=k) for k in counts]
    found.append(Combination(name="poe", temperature=0.2, top_k=2))
    if has_corrections:
        found += [
            Combination(name="corrected", temperature=0.1, top_k=k, class_temperature=0.2) for k in counts
        ]
    return Defaults(combinations=tuple(found), served=0)


def still_sensible(
    combinations: Sequence[Combination],
    served: int,
    defaults: Defaults,
    *,
    has_sums: bool,
    has_corrections: bool,
) -> Defaults:
    """Return what is left of a gate's combinations for another set of leaves, without a new trial.

    Those that need sums or corrections go where there are none. The served one stays if it can, else the
    default that takes its place is served. Kinds that are missing come in by their defaults.
    """

    def makes_sense(each: Combination) -> bool:
        return (has_sums or each.name not in USES_SUMS) and (has_corrections or each.name != "corrected")

    kept = [each for each in combinations if makes_sense(each)]
    names = {each.name for each in kept}
    kept += [each for each in defaults.combinations if each.name not in names and makes_sense(each)]
    wanted = combinations[served] if combinations else None
    if wanted not in kept:
        fallback = defaults.combinations[defaults.served]
        same = [each for each in kept if (each.name, each.top_k) == (fallback.name, fallback.top_k)]
        wanted = same[0] if same else next(each for each in kept if each.name == fallback.name)
    return Defaults(combinations=tuple(kept), served=kept.index(wanted))


def judge_ridge(
    trials: Trials, ridges: Sequence[float], default: float, present: float | None = None
) -> float:
    """Return the ridge whose root gets most right over all trials; equal ones: the likelier.

    The `present` gate's stays unless another is better by more than one standard error: else a swarm whose
    ridges are as good as each other changes the answers to what nobody feeds any more, for nothing. The
    samples on which two roots differ are at most those on which either differs from the present answers.
    """
    if not trials:
        return default
    trials = weighed(trials)
    best = min(range(len(ridges)), key=lambda row: _rank(trials, row))
    if present is not None and present in ridges:
        now = ridges.index(present)
        ahead = summed(trials, "correct", best) - summed(trials, "correct", now)
        differing = sum(summed(trials, column, row) for column in ("gained", "lost") for row in (best, now))
        if ahead <= math.sqrt(differing):
            return present
    return float(ridges[best])


def judge_trials(
    trials: Trials,
    incumbents: frozenset[NodeId],
    options: Sequence[TrialOption],
    defaults: Defaults,
    ridge: float,
    by_now: Trials | None = None,
    *,
    absent: Trials | None = None,
) -> Verdict:
    """Return the verdict of sound trials on these options; without trials the defaults come in.

    Of each kind and top_k the most correct option that harms nobody is kept; where all do, the most correct
    one, which is never served. The evidence says what share of its samples the worst off incumbent loses.
    `by_now`: where the trials compare with another gate than the present one, those that compare with that;
    what an incumbent has lost already and loses no more of is no harm. `absent`: what judges that are away
    found last; they choose like all others, and are no judges of harm.
    """
    coverage = {
        "judges": float(len(trials)),
        "incumbents": float(len(incumbents)),
        "incumbents_heard": float(len(incumbents & trials.keys())),
    }
    everybody = {**(absent or {}), **trials}
    coverage["validation_samples"] = float(sum(trial.samples for trial in everybody.values()))
    if absent:
        coverage["validation_samples_remembered"] = float(sum(trial.samples for trial in absent.values()))
    if not everybody:
        return Verdict(
            combinations=defaults.combinations,
            served=defaults.served,
            ridge=ridge,
            harmed=(),
            evidence=coverage,
            reason=f"serves {defaults.combinations[defaults.served].label}: nobody had validation data",
        )
    here, trials = trials, weighed(everybody)  # who is harmed is seen in its own figures
    own = {node: here[node] for node in sorted(here) if node in incumbents}
    harms = Harms(trials=own, by_now=by_now or {})
    kinds: dict[tuple[str, int], list[int]] = {}
    for row, option in enumerate(options):
        if option.against_root:
            continue
        kinds.setdefault((option.combination.name, option.combination.top_k), []).append(row)
    judged = [_best(trials, harms, rows) for rows in kinds.values()]
    chosen = [_label(trials, options, each) for each in judged]
    wanted = defaults.combinations[defaults.served]
    served = _served(trials, options, judged, wanted)
    place = next(number for number, each in enumerate(judged) if each.row == served.row)
    figures = {key: value for each in judged for key, value in _figures(trials, options, each.row).items()}
    samples = sum(trial.samples for trial in trials.values())
    before = [trials[node] for node in here]
    evidence = (
        coverage
        | figures
        | {
            "nll": sum(t.nll_sum[served.row] for t in trials.values()) / samples,
            "experts_missing": float(max(t.experts_missing for t in trials.values())),
            **_worst(harms.trials, served.row),
            "flops": float(sum(t.flops for t in trials.values())),
        }
    )
    if before:
        right = sum(trial.incumbent_correct for trial in before)
        evidence["incumbent_accuracy"] = right / sum(trial.samples for trial in before)
    return Verdict(
        combinations=tuple(chosen),
        served=place,
        ridge=ridge,
        harmed=served.harmed or _harmed_by_root(harms, options),
        evidence=evidence,
        reason=_in_words(trials, options, served.row),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """The option of one kind, and whom it would harm."""

    row: int
    harmed: tuple[Harm, ...]


def _best(trials: Trials, harms: Harms, rows: Sequence[int]) -> _Judged:
    best: _Judged | None = None
    for row in sorted(rows, key=lambda row: _rank(trials, row)):
        judged = _Judged(row=row, harmed=harms.of(row))
        if not judged.harmed:
            return judged
        best = best or judged
    assert best is not None, "every kind has an option"
    return best


def _served(
    trials: Trials, options: Sequence[TrialOption], judged: Sequence[_Judged], default: Combination
) -> _Judged:
    """Return what is served; where all harm somebody, what would have been served without that."""
    allowed = [each for each in judged if not each.harmed] or list(judged)

    def is_default(each: _Judged) -> bool:
        found = options[each.row].combination
        return found.name == default.name and (default.name == "root" or found.top_k == default.top_k)

    first = [each for each in allowed if is_default(each)]
    if first:
        better = [each for each in allowed if _beyond_root(trials, each.row) > BEYOND_ROOT]
        allowed = [*first, *better]
    return min(allowed, key=lambda each: _rank(trials, each.row))


def _rank(trials: Trials, row: int) -> tuple[int, float]:
    return -summed(trials, "correct", row), sum(trial.nll_sum[row] for trial in trials.values())


def _beyond_root(trials: Trials, row: int) -> float:
    """Return z of the paired difference to the candidate's own root, pooled over nodes.

    Corrected for continuity (Edwards 1948): where five samples differ, four to one is what chance does.
    """
    difference = summed(trials, "gained_on_root", row) - summed(trials, "lost_on_root", row)
    differing = summed(trials, "gained_on_root", row) + summed(trials, "lost_on_root", row)
    return math.copysign(max(0, abs(difference) - 1) / math.sqrt(max(1, differing)), difference)


def _label(trials: Trials, options: Sequence[TrialOption], judged: _Judged) -> Combination:
    found = replace(options[judged.row].combination, calibration=calibration_of(trials, judged.row))
    return replace(found, top_k=1) if found.name == "root" else found


def calibration_of(trials: Trials, row: int) -> float:
    """Return the temperature that makes an option's answers as sure as they are right on all validation
    data; 0 where no judge said what it takes. The order in which judges answer changes no bit of it."""
    width = len(CALIBRATIONS)
    told = [trial.nll_by_calibration for trial in trials.values() if trial.nll_by_calibration]
    if not told:
        return 0.0
    losses = [math.fsum(each[row * width + place] for each in told) for place in range(width)]
    return fitted_temperature(losses)


def accuracy_of(combination: Combination) -> str:
    """Return the name by which a gate's evidence has a combination's accuracy on validation data."""
    return f"accuracy_{_name(combination)}"


def _name(combination: Combination) -> str:
    return combination.label.replace(" ", "_").replace("-", "")


def _figures(trials: Trials, options: Sequence[TrialOption], row: int) -> dict[str, float]:
    combination = options[row].combination
    samples = sum(trial.samples for trial in trials.values())
    figures = {accuracy_of(combination): summed(trials, "correct", row) / samples}
    if combination.name in USES_SUMS and combination.name != "root":
        figures[f"z_{_name(combination)}"] = _beyond_root(trials, row)
    return figures


def _in_words(trials: Trials, options: Sequence[TrialOption], row: int) -> str:
    combination = options[row].combination
    samples = sum(trial.samples for trial in trials.values())
    correct = summed(trials, "correct", row)
    words = f"serves {combination.label}: {correct} of {samples} right"
    if combination.name in USES_SUMS and combination.name != "root":
        gained, lost = summed(trials, "gained_on_root", row), summed(trials, "lost_on_root", row)
        words += f", root {correct - gained + lost} (+{gained} -{lost})"
    return words


def _harmed_by_root(harms: Harms, options: Sequence[TrialOption]) -> tuple[Harm, ...]:
    """Return whom the candidate's root harms, which answers where no expert can, whatever is served."""
    rows = [row for row, option in enumerate(options) if option.against_root]
    found = [each for row in rows for each in harms.of(row)]
    return tuple(Harm(who=each.who, words=f"{each.words} where the root answers") for each in found)


def _worst(trials: Trials, row: int) -> dict[str, float]:
    shares = [
        (
            (trial.lost_among_own[row] - trial.gained_among_own[row]) / trial.samples,
            (trial.lost[row] - trial.gained[row]) / trial.samples,
            trial.taken[row] / trial.samples,
        )
        for trial in trials.values()
    ]
    loss, ceded, taken = map(max, zip((0.0, 0.0, 0.0), *shares, strict=True))
    return {"largest_loss": loss, "largest_ceded": ceded, "largest_taken": taken}
