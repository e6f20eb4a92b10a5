"""Who answers for an expert that is away: each rule on the rows that the gate would have sent to it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.absent_owners.world import Floats, Pool, Rows, World
from swarm.domain.combination import Combination, TrialOption
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.class_columns import ClassColumns
from swarm.gating.combinations import (
    Speaker,
    evaluate_options,
    expert_weights,
    may_speak,
    option_grid,
    ridge_options,
)
from swarm.gating.combine import Part, mix
from swarm.gating.prototype_gate import PrototypeGate, temperature_grid
from swarm.gating.routing import plan_route

COMBINATIONS = ("gate top-1", "gate top-2", "poe top-2", "corrected top-2", "prototypes top-2")

NEXT_LEAF, ROOT_ALONE, ROOT_WEIGHTED, REST = RULES = (
    "next leaf",
    "root alone",
    "root with its weight",
    "rest renormalised",
)
"""The row's next leaf takes the absent one's place, weights renormalised; the root gives the whole answer;
the root's probabilities have the absent one's weight (`corrected`: no correction has it, the others keep
theirs); nobody takes its place, weights renormalised (the root where nothing is left)."""

EVERYBODY = "everybody there"

LACKING, DOMAIN, ALL, VALIDATION = PLACES = ("lacking", "domain", "all", "validation")
"""Accuracies on test rows that chose the absent expert, test rows of the absent owner's domain, all test
rows, and all validation rows."""

EVERY = "every combination"

Mask = NDArray[np.bool_]

Accuracies = dict[str, dict[str, dict[str, float]]]
"""By combination, rule and place."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A gate, its experts' values on N samples, and the samples' labels among its classes."""

    gate: AnalyticGate
    prototypes: PrototypeGate
    speakers: Sequence[Speaker]
    features: Floats
    labels: Rows
    domains: Rows

    def answers(self, combination: Combination, parts: Sequence[Part], rows: Rows) -> Floats:
        """Return the mixture of parts for these samples, float32 [rows, C]; a part's rows count from 0."""
        scores = self.gate.class_scores(self.gate.scores(self.features[rows]))
        return mix(combination, class_scores=scores, parts=parts, batch=len(rows), classes=self.gate.classes)

    def parts(self, combination: Combination, choices: Rows, weights: Floats, rows: Rows) -> list[Part]:
        """Return what the chosen leaves [rows, k] say of these samples, with their weights [rows, k]."""
        found: list[Part] = []
        for leaf in np.unique(choices[choices >= 0]):
            row, place = np.nonzero(choices == leaf)
            speaker = self.speakers[leaf]
            values = speaker.corrections if combination.name == "corrected" else speaker.probabilities
            assert values is not None, "every expert has probabilities and a correction"
            found.append((row, weights[row, place], speaker.class_rows, values[rows[row]]))
        return found


def chosen_ridge(
    world: World, solved: NDArray[np.float64], class_rows: Rows, labels: Rows, validation: Pool
) -> int:
    """Return the place of the ridge whose root is best on validation samples."""
    pick = np.eye(int(class_rows.max()) + 1)[class_rows]
    options = ridge_options(len(solved))
    roots = {
        option.weights: ClassColumns.summing(weights, class_rows, pick.shape[1])
        for option, weights in zip(options, solved, strict=True)
    }
    return best_option(
        options,
        labels=labels,
        gate=None,
        prototypes=None,
        features=validation.features,
        speakers=(),
        identities=(),
        roots=roots,
        fixed_point=world.trunk.reference.fixed_point,
        classes=pick.shape[1],
    )


def best_option(options: Sequence[TrialOption], **trial: Any) -> int:
    """Return the place of the option with most right answers; among equals, the likeliest."""
    found = evaluate_options(options, **trial)
    return int(np.lexsort((found.nll_sum, -found.correct))[0])


def chosen_combinations(scene: Scene) -> tuple[dict[str, Combination], Combination]:
    """Return the best of each of COMBINATIONS on the scene's samples with everybody there, and the root."""
    grid = option_grid(True, temperature_grid(scene.prototypes), True)
    found = {}
    for label in (*COMBINATIONS, "root"):
        options = [option for option in grid if option.combination.label == label]
        best = best_option(
            options,
            labels=scene.labels,
            gate=scene.gate,
            prototypes=scene.prototypes,
            features=scene.features,
            speakers=scene.speakers,
            identities=range(len(scene.speakers)),
        )
        found[label] = options[best].combination
    root = found.pop("root")
    return found, root


def right_answers(scene: Scene, combination: Combination, root: Combination) -> dict[str, list[Mask]]:
    """Return which samples are answered right, bool [N], by rule and then by the owner that is away.

    Under LACKING: the samples that chose its expert; no other answer changes.
    """
    gate, identities = scene.gate, range(len(scene.speakers))
    everything = np.arange(len(scene.labels))
    scores = gate.scores(scene.features)
    weights = expert_weights(combination, gate, scene.prototypes, scores, scene.features)
    allowed = may_speak(combination, gate, len(identities))
    plan = plan_route(weights, identities, combination.top_k, allowed)
    parts = scene.parts(combination, plan.choices, plan.weights, everything)
    whole = scene.answers(combination, parts, everything).argmax(axis=1) == scene.labels
    found: dict[str, list[Mask]] = {name: [] for name in (EVERYBODY, LACKING, *RULES)}
    for away in identities:
        lacking = (plan.choices == away).any(axis=1)
        rows = np.flatnonzero(lacking)
        found[EVERYBODY].append(whole)
        found[LACKING].append(lacking)
        by_root = scene.answers(root, (), rows)
        without = np.where(plan.choices[rows] == away, -1, plan.choices[rows])
        left = np.where(without >= 0, plan.weights[rows], 0).astype(np.float32)
        others = left.sum(axis=1)
        elsewhere = plan_route(
            weights[rows], identities, combination.top_k, allowed & (np.arange(len(identities)) != away)
        )
        full: Floats = (left / np.where(others > 0, others, 1)[:, None]).astype(np.float32)
        kept = scene.parts(combination, without, left, rows)
        if combination.name != "corrected":
            kept.append((np.arange(len(rows)), 1 - others, np.arange(gate.classes), by_root))
        rest = scene.answers(combination, scene.parts(combination, without, full, rows), rows)
        ruled = {
            NEXT_LEAF: scene.answers(
                combination, scene.parts(combination, elsewhere.choices, elsewhere.weights, rows), rows
            ),
            ROOT_ALONE: by_root,
            ROOT_WEIGHTED: scene.answers(combination, kept, rows),
            REST: np.where((others > 0)[:, None], rest, by_root),
        }
        for rule, answers in ruled.items():
            right = whole.copy()
            right[rows] = answers.argmax(axis=1) == scene.labels[rows]
            found[rule].append(right)
    return found


def accuracies(world: World, validation: Scene, test: Scene) -> Accuracies:
    """Return the accuracies of one case: means over the owners that are away, by combination, rule, place."""
    chosen, root = chosen_combinations(validation)
    found: Accuracies = {}
    for label, combination in chosen.items():
        judged, tested = (right_answers(scene, combination, root) for scene in (validation, test))
        lacking = np.concatenate(tested[LACKING])
        found[label] = {
            rule: {
                LACKING: float(np.concatenate(tested[rule])[lacking].mean()),
                **in_places(world, judged[rule], tested[rule], test.domains),
            }
            for rule in (EVERYBODY, *RULES)
        }
        found[label]["share"] = {LACKING: float(lacking.mean())}
    by_root = [
        [scene.answers(root, (), np.arange(len(scene.labels))).argmax(axis=1) == scene.labels]
        * len(world.owner_domains)
        for scene in (validation, test)
    ]
    found["root"] = {EVERYBODY: in_places(world, by_root[0], by_root[1], test.domains)}
    found[EVERY] = {
        rule: {
            place: statistics.fmean(found[label][rule][place] for label in COMBINATIONS) for place in PLACES
        }
        for rule in (EVERYBODY, *RULES)
    }
    return found


def in_places(
    world: World, judged: Sequence[Mask], tested: Sequence[Mask], domains: Rows
) -> dict[str, float]:
    """Return the mean accuracies over owners away, on validation and on test samples."""
    own = [right[domains == domain].mean() for right, domain in zip(tested, world.owner_domains, strict=True)]
    return {
        DOMAIN: float(np.mean(own)),
        ALL: float(np.mean(tested)),
        VALIDATION: float(np.mean(judged)),
    }
