"""How leaves' weights, class scores and experts' values become one answer; the same in routing and in trials.

The formulas are those of `swarm.domain.combination.Combination`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from swarm.domain.combination import CALIBRATIONS, USES_SUMS, Combination, CombinationName, TrialOption
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.calibration import losses_by_temperature
from swarm.gating.class_columns import ClassColumns
from swarm.gating.combine import PROBABILITY_FLOOR, answer_of, mix
from swarm.gating.distances import Floats
from swarm.gating.gate_arrays import WEIGHTS
from swarm.gating.prototype_gate import PrototypeGate
from swarm.gating.regions import region_columns
from swarm.gating.routing import RoutePlan, plan_route
from swarm.gating.sums import quantised

__all__ = [
    "FALLBACK",
    "Evaluation",
    "Incumbent",
    "Speaker",
    "evaluate_options",
    "expert_weights",
    "may_speak",
    "mix",
    "option_grid",
    "ridge_options",
    "right_among",
]

TOP_KS = (1, 2, 4)
FALLBACK = TrialOption(combination=Combination(name="root"), against_root=True)
"""The root as what answers where no expert can, and what corrections start from: it may not harm either."""
ROOT = "root."
"""Arrays `root.<i>` float [M, K] are the class columns of the i-th ridge, while a ridge is being chosen."""
CORRECTED_CLASS_TEMPERATURE = 0.2
"""The one at which corrections are trained."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speaker:
    """What one leaf's expert says of N samples: probabilities and corrections float32 [N, C_own], or None.

    class_rows int64 [C_own] are its classes among the gate's, -1 for one that the gate lacks.
    """

    class_rows: NDArray[np.int64]
    probabilities: NDArray[np.floating] | None = None
    corrections: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Incumbent:
    """What an option is compared with on N samples: the answers of the present gate, right or wrong bool [N].

    `correct` as it answers, `correct_among_own` when it chooses among the judge's own classes. `known` and
    `own` bool [C] are, among the candidate's classes, those of the present gate and those of the judge.
    """

    correct: NDArray[np.bool_]
    correct_among_own: NDArray[np.bool_]
    known: NDArray[np.bool_]
    own: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One entry per option, as `swarm.domain.inference.GateTrial` has them; float64 and int64 [options],
    `nll_by_calibration` float64 [options, temperatures].

    `missing` are the rows of chosen leaves whose experts' values were needed and not there, rising.
    """

    nll_sum: NDArray[np.float64]
    correct: NDArray[np.int64]
    gained: NDArray[np.int64]
    lost: NDArray[np.int64]
    gained_among_own: NDArray[np.int64]
    lost_among_own: NDArray[np.int64]
    taken: NDArray[np.int64]
    gained_on_root: NDArray[np.int64]
    lost_on_root: NDArray[np.int64]
    missing: tuple[int, ...]
    nll_by_calibration: NDArray[np.float64]


def ridge_options(ridges: int) -> tuple[TrialOption, ...]:
    """Return the options by which a ridge is chosen: the root at each, from the arrays `root.<i>`."""
    return tuple(
        TrialOption(combination=Combination(name="root"), weights=f"{ROOT}{row}") for row in range(ridges)
    )


def option_grid(
    gate_has_sums: bool, prototype_temperatures: Sequence[float], has_corrections: bool
) -> tuple[TrialOption, ...]:
    """Return the combinations to try on validation data; those with sums only where the gate has them."""
    grid = [
        Combination(name="prototypes", temperature=temperature, top_k=k)
        for temperature, k in product(prototype_temperatures, TOP_KS)
    ]
    if gate_has_sums:
        grid += [Combination(name="root", class_temperature=each) for each in (0.05, 0.1, 0.2, 0.5)]
        grid += [
            Combination(name="gate", temperature=temperature, top_k=k)
            for temperature, k in product((0.05, 0.1, 0.2, 0.3, 0.5, 1.0), TOP_KS)
        ]
        grid += [
            Combination(name="poe", temperature=temperature, top_k=2, strength=strength)
            for temperature, strength in product((0.05, 0.1, 0.2, 0.5), (0.25, 0.5, 1.0, 2.0, 4.0))
        ]
    if gate_has_sums and has_corrections:
        grid += [
            Combination(
                name="corrected",
                temperature=temperature,
                top_k=k,
                strength=strength,
                class_temperature=CORRECTED_CLASS_TEMPERATURE,
            )
            for temperature, strength, k in product((0.05, 0.1, 0.2, 0.5), (0.25, 0.5, 1.0, 2.0), TOP_KS)
        ]
    options = tuple(TrialOption(combination=each) for each in grid)
    return (*options, FALLBACK) if gate_has_sums else options


def expert_weights(
    combination: Combination,
    gate: AnalyticGate | None,
    prototypes: PrototypeGate | None,
    scores: Floats | None,
    features: NDArray[np.generic] | None,
) -> NDArray[np.floating]:
    """Return each leaf's weight for the experts of a combination, [B, L], rows sum to 1.

    `prototypes` needs the prototype gate and features [B, D]; the others the analytic gate and its scores
    [B, T], and give 0 to leaves without columns. `root` asks no expert. Raises InvalidInputError where what
    a combination needs is not there.
    """
    if combination.name == "prototypes" and prototypes is not None and features is not None:
        points = np.asarray(features)
        return prototypes.leaf_weights(points[:, region_columns(points.shape[1])], combination.temperature)
    if combination.name in {"gate", "poe", "corrected"} and gate is not None and scores is not None:
        return gate.leaf_weights(scores, combination.temperature)
    raise InvalidInputError(
        f"combination {combination.label}", found="a gate without what it needs, or one that asks no expert"
    )


def may_speak(combination: Combination, gate: AnalyticGate | None, leaves: int) -> NDArray[np.bool_]:
    """Return which leaves a combination can choose, bool [L]: with sums, those that have columns."""
    if combination.name in USES_SUMS and gate is not None:
        return gate.has_columns
    return np.ones(leaves, dtype=bool)


def evaluate_options(
    options: Sequence[TrialOption],
    *,
    labels: NDArray[np.integer],
    gate: AnalyticGate | None,
    prototypes: PrototypeGate | None,
    features: NDArray[np.generic],
    speakers: Sequence[Speaker],
    identities: Sequence[Hashable],
    incumbent: Incumbent | None = None,
    incumbent_root: Incumbent | None = None,
    roots: Mapping[str, ClassColumns] | None = None,
    fixed_point: float = 0.0,
    classes: int = 0,
) -> Evaluation:
    """Return how each option does on N labelled samples; what it reckons is what routing would answer.

    labels int64 [N] are rows of the gate's classes, -1 for a class that it lacks (never correct); `classes`
    is their number (0: the analytic gate's, else as many as are named). Without an `incumbent`, and for
    options against the root without an `incumbent_root`, nothing is gained, lost or taken. features float32
    [N, D]; speakers and identities (leaves with one identity are one expert) one for each leaf. A speaker
    without the values that are needed counts as uniform over its classes, or as no correction. `roots` are
    the columns `root.<i>` of options that name them; they need no gate, but its `fixed_point`. Raises
    InvalidInputError for an option without what it needs.
    """
    if len(features) != len(labels) or len(speakers) != len(identities):
        raise ShapeMismatchError(
            "gate trial",
            found=f"{len(features)} features, {len(speakers)} experts",
            expected=f"{len(labels)} samples, {len(identities)} leaves",
        )
    truth, points = np.asarray(labels, dtype=np.int64), np.asarray(features)
    width = classes or _classes_named(gate, roots or {}, [truth, *(each.class_rows for each in speakers)])
    tried = _class_scores(options, roots or {}, points, gate.fixed_point if gate is not None else fixed_point)
    scores = gate.scores(points) if gate is not None else None
    base = gate.class_scores(scores).astype(np.float64) if gate is not None and scores is not None else None
    on_root = None if base is None else base.argmax(axis=1) == truth
    figures = np.zeros((9, len(options)))
    losses = np.zeros((len(options), len(CALIBRATIONS)))
    missing: set[int] = set()
    for asked, places in _grouped(options).items():
        spoken = np.zeros((len(truth), width)), np.zeros(len(truth))
        if asked is not None:
            weights = expert_weights(asked, gate, prototypes, scores, points)
            plan = plan_route(weights, identities, asked.top_k, may_speak(asked, gate, len(identities)))
            spoken = _spoken(plan, speakers, asked.name == "corrected", width, missing)
        for place in places:
            option, own, reference = options[place], base, on_root
            if option.weights != WEIGHTS:
                own, reference = tried[option.weights], None
            answer = answer_of(option.combination, own, *spoken)
            before = incumbent_root if option.against_root else incumbent
            figures[:, place] = _figures(answer, truth, before, reference)
            losses[place] = losses_by_temperature(answer, truth)
    whole = figures[1:].astype(np.int64)
    return Evaluation(
        nll_sum=figures[0],
        correct=whole[0],
        gained=whole[1],
        lost=whole[2],
        gained_among_own=whole[3],
        lost_among_own=whole[4],
        taken=whole[5],
        gained_on_root=whole[6],
        lost_on_root=whole[7],
        missing=tuple(sorted(missing)),
        nll_by_calibration=losses,
    )


def _classes_named(
    gate: AnalyticGate | None, roots: Mapping[str, ClassColumns], rows: Sequence[NDArray[np.int64]]
) -> int:
    if gate is not None:
        return gate.classes
    widths = [root.classes for root in roots.values()]
    return max([1, *widths, *(int(each.max()) + 1 for each in rows if len(each))])


def _grouped(options: Sequence[TrialOption]) -> dict[Combination | None, list[int]]:
    """Return the options' places by what they ask of experts, None for nothing: one route serves them all."""
    groups: dict[Combination | None, list[int]] = {}
    for place, option in enumerate(options):
        each = option.combination
        name: CombinationName = "gate" if each.name == "poe" else each.name
        asked = Combination(name=name, temperature=each.temperature, top_k=each.top_k)
        groups.setdefault(None if each.name == "root" else asked, []).append(place)
    return groups


def _spoken(
    plan: RoutePlan, speakers: Sequence[Speaker], corrected: bool, classes: int, missing: set[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted sum of the chosen experts' values [B, C] and their weights' sum [B]."""
    total = np.zeros((len(plan.choices), classes))
    share = np.zeros(len(plan.choices))
    for place in range(plan.choices.shape[1]):
        chosen, weights = plan.choices[:, place], plan.weights[:, place].astype(np.float64)
        for leaf in np.unique(chosen[chosen >= 0]):
            rows = np.flatnonzero(chosen == leaf)
            speaker = speakers[leaf]
            values = speaker.corrections if corrected else speaker.probabilities
            known = speaker.class_rows >= 0
            share[rows] += weights[rows]
            if values is not None:
                own = values[rows][:, known] * weights[rows, None]
            else:
                missing.add(int(leaf))
                fill = 0.0 if corrected else 1.0 / len(known)
                own = np.repeat(fill * weights[rows, None], int(known.sum()), axis=1)
            total[rows[:, None], speaker.class_rows[known]] += own
    return total, share


def _class_scores(
    options: Sequence[TrialOption],
    roots: Mapping[str, ClassColumns],
    features: NDArray[np.generic],
    fixed_point: float,
) -> dict[str, NDArray[np.float64]]:
    """Return the class scores [N, C] of each root array under trial; features come to fixed point once."""
    found: dict[str, NDArray[np.float64]] = {}
    points: dict[bool, Floats] = {}
    for option in options:
        if option.weights == WEIGHTS or option.weights in found:
            continue
        root = roots.get(option.weights)
        if option.combination.name != "root" or root is None:
            raise InvalidInputError(
                f"trial of {option.combination.label}",
                found=f"weights {option.weights[:40]!r}",
                expected="root with one of the candidate's root arrays",
            )
        has_constant = len(root.weights) == features.shape[1]
        if has_constant not in points:
            points[has_constant] = quantised(features, fixed_point, has_constant).astype(np.float32)
        found[option.weights] = root.scores(points[has_constant]).astype(np.float64)
    return found


def _figures(
    answer: Floats,
    labels: NDArray[np.int64],
    incumbent: Incumbent | None,
    on_root: NDArray[np.bool_] | None,
) -> tuple[float, ...]:
    """Return one option's entries, in the order of `Evaluation`'s."""
    right = answer.argmax(axis=1) == labels
    likelihood = np.where(
        labels >= 0, answer[np.arange(len(labels)), np.maximum(labels, 0)], PROBABILITY_FLOOR
    )
    nll = float(-np.log(likelihood.astype(np.float64)).sum())
    compared = [np.zeros(len(labels), dtype=bool)] * 5
    if incumbent is not None:
        known = right_among(answer, incumbent.known, labels, incumbent.correct)
        own = right_among(answer, incumbent.own, labels, incumbent.correct_among_own)
        compared = [*_differing(known, incumbent.correct), *_differing(own, incumbent.correct_among_own)]
        compared.append(known & ~right)
    compared += _differing(right, right if on_root is None else on_root)
    return nll, int(right.sum()), *(int(each.sum()) for each in compared)


def right_among(
    answer: Floats, classes: NDArray[np.bool_], labels: NDArray[np.int64], otherwise: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return whether the likeliest of these classes [C] is right, bool [N]; labels are rows of all C.

    `otherwise` [N] counts where an answer says nothing of them: all at the floor, below a class that is not
    among them. Which of equals comes first would decide else.
    """
    among = np.where(classes, answer, -1)
    likeliest = among.max(axis=1, initial=-1)
    silent = (likeliest <= answer.min(axis=1)) & (likeliest < answer.max(axis=1))
    found: NDArray[np.bool_] = np.where(silent, otherwise, among.argmax(axis=1) == labels) & (labels >= 0)
    return found


def _differing(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    return [new & ~old, old & ~new]
