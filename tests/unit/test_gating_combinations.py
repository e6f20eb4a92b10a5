"""Every combination answers with a distribution, and a trial reckons exactly what routing would answer."""

from dataclasses import replace

import numpy as np
import pytest

from swarm.domain.combination import USES_EXPERTS, Combination, TrialOption
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import (
    Evaluation,
    Incumbent,
    Speaker,
    evaluate_options,
    expert_weights,
    may_speak,
    mix,
    option_grid,
    ridge_options,
)
from swarm.gating.prototype_gate import PrototypeGate, build_prototype_gate
from swarm.gating.regions import region_columns, summarise_leaf
from swarm.gating.routing import plan_route

CLASSES, LEAVES, SIZE, COUNT = 4, 5, 6, 40
COMBINATIONS = [each.combination for each in option_grid(True, (0.5, 2.0), True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


class World:
    """Two gates, five experts of which two are one, and labelled samples."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.features = rng.normal(size=(COUNT, SIZE)).astype(np.float32)
        self.labels = rng.integers(-1, CLASSES, COUNT)
        class_rows = [np.sort(rng.choice(CLASSES, 2, replace=False)) for _ in range(LEAVES)]
        self.gate = AnalyticGate(
            weights=(0.02 * rng.normal(size=(SIZE + 1, 2 * (LEAVES - 1)))).astype(np.float32),
            leaf_rows=np.repeat(np.arange(LEAVES - 1), 2),
            class_rows=np.concatenate(class_rows[:-1]),
            leaves=LEAVES,
            classes=CLASSES,
            fixed_point=32.0,
            has_constant=False,
        )
        self.prototypes: PrototypeGate = build_prototype_gate(
            [
                summarise_leaf(rng.normal(size=(30, SIZE)).astype(np.float32), prototypes=3, seed=0)
                for _ in class_rows
            ]
        )
        self.identities = ["a", "b", "a", "c", "d"]
        self.speakers = [
            Speaker(
                class_rows=np.append(rows, -1),
                probabilities=rng.dirichlet(np.ones(3), COUNT).astype(np.float32),
                corrections=rng.normal(size=(COUNT, 3)).astype(np.float32),
            )
            for rows in class_rows
        ]

    def evaluate(self, options: tuple[TrialOption, ...], **changes: object) -> Evaluation:
        given_: dict = {
            "labels": self.labels,
            "gate": self.gate,
            "prototypes": self.prototypes,
            "features": self.features,
            "speakers": self.speakers,
            "identities": self.identities,
        }
        return evaluate_options(options, **{**given_, **changes})

    def routed(self, combination: Combination) -> np.ndarray:
        """What a coordinator answers: route, ask the chosen experts for their rows, mix."""
        scores = self.gate.scores(self.features)
        parts = []
        if combination.name in USES_EXPERTS:
            weights = expert_weights(combination, self.gate, self.prototypes, scores, self.features)
            allowed = may_speak(combination, self.gate, LEAVES)
            plan = plan_route(weights, self.identities, combination.top_k, allowed)
            for leaf, speaker in enumerate(self.speakers):
                rows, places = np.nonzero(plan.choices == leaf)
                said = speaker.corrections if combination.name == "corrected" else speaker.probabilities
                assert said is not None
                parts.append((rows, plan.weights[rows, places], speaker.class_rows, said[rows]))
        return mix(
            combination,
            class_scores=self.gate.class_scores(scores),
            parts=parts,
            batch=COUNT,
            classes=CLASSES,
        )


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_a_trial_reckons_what_routing_answers(combination: Combination) -> None:
    world = World()
    answer = world.routed(combination)
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-5) and answer.min() >= 0.9e-6
    before = np.arange(COUNT) % 2 == 0
    everything = np.ones(CLASSES, bool)
    own = np.arange(CLASSES) < 2
    incumbent = Incumbent(correct=before, correct_among_own=~before, known=everything, own=own)
    found = world.evaluate((TrialOption(combination=combination),), incumbent=incumbent)
    right = answer.argmax(axis=1) == world.labels
    root = world.routed(Combination(name="root")).argmax(axis=1) == world.labels
    known = np.where(world.labels >= 0, answer[np.arange(COUNT), world.labels], 1e-6)
    assert found.correct[0] == right.sum()
    assert found.nll_sum[0] == pytest.approx(-np.log(known).sum(), rel=1e-5)
    assert (found.gained[0], found.lost[0]) == ((right & ~before).sum(), (before & ~right).sum())
    silent = answer[:, :2].max(axis=1) == answer.min(axis=1)  # then it counts as the incumbent had it
    among_own = np.where(silent, ~before & (world.labels >= 0), answer[:, :2].argmax(axis=1) == world.labels)
    assert found.gained_among_own[0] == (among_own & before).sum() and found.taken[0] == 0
    assert found.lost_among_own[0] == (~before & ~among_own).sum()
    assert (found.gained_on_root[0], found.lost_on_root[0]) == ((right & ~root).sum(), (root & ~right).sum())
    assert found.missing == ()


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("top_k", [1, 2])
def test_what_a_new_class_takes_whole_is_taken_whatever_the_classes_are_called(
    label: int, top_k: int
) -> None:
    """Of the known classes nothing is said there: their order must not decide what an incumbent loses."""
    count, taken = 100, 10
    features = np.zeros((count, 4), dtype=np.float32)
    features[:taken, 0] = 10.0
    prototypes = PrototypeGate(
        prototypes=np.array([[0, 0, 0, 0], [10, 0, 0, 0]], dtype=np.float32),
        leaf_rows=np.array([0, 1], dtype=np.int32),
        log_prior=np.zeros(2, dtype=np.float32),
        radii=np.ones((2, 3), dtype=np.float32),
        leaves=2,
        temperature=1.0,
    )
    own = np.full((count, 2), 0.1, dtype=np.float32)
    own[:, label] = 0.9
    speakers = [
        Speaker(class_rows=np.array([0, 1]), probabilities=own),
        Speaker(class_rows=np.array([2]), probabilities=np.ones((count, 1), dtype=np.float32)),
    ]
    always, known = np.ones(count, dtype=bool), np.array([True, True, False])
    found = evaluate_options(
        (TrialOption(combination=Combination(name="prototypes", temperature=1.0, top_k=top_k)),),
        labels=np.full(count, label),
        gate=None,
        prototypes=prototypes,
        features=features,
        speakers=speakers,
        identities=["old", "new"],
        incumbent=Incumbent(correct=always, correct_among_own=always, known=known, own=known),
        classes=3,
    )
    assert (found.correct[0], found.taken[0]) == (count - taken, taken)
    assert (found.lost[0], found.lost_among_own[0]) == (0, 0)


def test_all_options_at_once_give_what_each_gives_alone() -> None:
    world = World(1)
    options = option_grid(True, (0.5, 2.0), True)
    together = world.evaluate(options)
    for place, option in list(enumerate(options))[::7]:
        alone = world.evaluate((option,))
        assert together.nll_sum[place] == alone.nll_sum[0] and together.correct[place] == alone.correct[0]


def test_missing_experts_count_as_uniform_or_as_no_correction_and_are_named() -> None:
    world = World()
    silent = [Speaker(class_rows=each.class_rows) for each in world.speakers]
    combination = Combination(name="corrected", temperature=0.2, top_k=2, class_temperature=0.2)
    root = Combination(name="root", class_temperature=0.2)
    found = world.evaluate(
        (TrialOption(combination=combination), TrialOption(combination=root)), speakers=silent
    )
    assert found.nll_sum[0] == pytest.approx(found.nll_sum[1]) and found.correct[0] == found.correct[1]
    assert found.missing and set(found.missing) <= {0, 1, 3}
    even = [
        Speaker(class_rows=each.class_rows, probabilities=np.full((COUNT, 3), 1 / 3, np.float32))
        for each in world.speakers
    ]
    for name in ("gate", "prototypes"):
        option = (TrialOption(combination=Combination(name=name, top_k=2)),)  # type: ignore[arg-type]
        assert world.evaluate(option, speakers=silent).nll_sum == pytest.approx(
            world.evaluate(option, speakers=even).nll_sum, rel=1e-6
        )


def test_a_ridge_is_tried_by_class_columns_alone() -> None:
    world = World()
    columns = world.gate.class_columns
    roots = {"root.0": columns, "root.1": replace(columns, weights=np.zeros_like(columns.weights))}
    found = world.evaluate(
        ridge_options(2),
        gate=None,
        prototypes=None,
        speakers=[],
        identities=[],
        roots=roots,
        fixed_point=32.0,
    )
    own = world.evaluate((TrialOption(combination=Combination(name="root")),))
    assert found.correct[0] == own.correct[0] and found.nll_sum[0] == pytest.approx(own.nll_sum[0], rel=1e-2)
    assert found.correct[1] == (world.labels == 0).sum()
    assert found.gained_on_root.tolist() == [0, 0]


def test_only_prototypes_are_tried_where_the_gate_has_no_sums() -> None:
    assert {each.combination.name for each in option_grid(False, (1.0,), True)} == {"prototypes"}
    assert "corrected" not in {each.combination.name for each in option_grid(True, (1.0,), False)}
    names = [each.combination.name for each in option_grid(True, (1.0, 2.0), True)]
    assert {name: names.count(name) for name in names} == {
        "prototypes": 6,
        "root": 5,  # one of them as the fallback
        "gate": 18,
        "poe": 20,
        "corrected": 48,
    }
    options = option_grid(True, (1.0, 2.0), True)
    assert len(set(options)) == len(options)
    world = World()
    found = world.evaluate(option_grid(False, (1.0,), False), gate=None)
    assert found.correct.shape == (3,) and not found.gained_on_root.any()


def test_a_combination_without_what_it_needs_is_refused() -> None:
    world = World()
    for name in ("root", "gate", "corrected"):
        with pytest.raises(InvalidInputError, match=f"combination {name}"):
            world.evaluate((TrialOption(combination=Combination(name=name)),), gate=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"root\.3"):
        world.evaluate((TrialOption(combination=Combination(name="root"), weights="root.3"),))
    with pytest.raises(ShapeMismatchError, match="gate trial"):
        world.evaluate((), identities=["a"])


@pytest.mark.parametrize("size", [1, 4, 1024, 1025])
def test_regions_look_at_all_of_a_few_features(size: int) -> None:
    assert region_columns(size).tolist() == list(range(size))


@pytest.mark.parametrize("size", [1026, 1601, 6401])
def test_regions_look_at_some_of_many_features(size: int) -> None:
    columns = region_columns(size)
    assert len(columns) == len(set(columns.tolist())) == 1024
    assert columns[0] == 0 and size - 8 <= columns[-1] < size and (np.diff(columns) > 0).all()


def test_prototypes_route_by_the_region_columns() -> None:
    features = np.random.default_rng(0).normal(size=(20, 2000)).astype(np.float32)
    part = features[:, region_columns(2000)]
    gate = build_prototype_gate(
        [summarise_leaf(rows, prototypes=2, seed=0) for rows in (part[:10], part[10:])]
    )
    combination = Combination(name="prototypes", temperature=gate.temperature)
    found = expert_weights(combination, None, gate, None, features)
    assert found.tobytes() == gate.leaf_weights(part, gate.temperature).tobytes()
