"""A gate's trial gives the sums of the answers that users would get, by every combination."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from node.gate_trial import (
    TrialGate,
    Voice,
    answers,
    arrays_for,
    experts_wanted,
    judge,
    no_samples,
)
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.gates import GateBranch, GateLeaf
from swarm.domain.ids import ExpertId, LeafId, NodeId, expert_of
from swarm.domain.inference import GateTrial
from swarm.gating.combinations import FALLBACK, ridge_options
from swarm.modules.packing import pack_arrays
from tests.support import trust

Floats = NDArray[np.float32]
LABELS = ["cat", "dog", "cat", "owl"]
PLACES = np.float32([[0, 0], [0, 0], [0, 0], [0, 0]])
"""All samples lie together, so that the prototypes' priors alone weigh the leaves."""
SPREAD = np.float32([[1, 0], [0, 1], [1, 0], [0, 0]])
"""cat at (1, 0), dog at (0, 1), owl at the origin."""
TRUNK = replace(trust.specification().trunk, feature_size=2, fixed_point=1.0, has_constant=False)


def leaf(name: str, classes: tuple[str, ...], has_columns: bool = False) -> GateLeaf:
    leaf_id = LeafId(f"{name}.l1")
    return GateLeaf(
        leaf=leaf_id,
        owner=NodeId(name),
        expert=expert_of(leaf_id),
        class_names=classes,
        has_columns=has_columns,
    )


def by_priors(
    weights: list[float], leaves: list[GateLeaf], names: tuple[str, ...] = ("cat", "dog", "owl")
) -> TrialGate:
    """Return a gate of one prototype for each leaf, whose weights do not depend on the sample."""
    arrays: dict[str, NDArray[np.generic]] = {
        f"prototypes.{row}": np.zeros((1, 2), np.float32) for row in range(len(leaves))
    }
    arrays["log_prior"] = np.log(np.float32(weights))
    arrays["radii"] = np.ones((len(leaves), 3), np.float32)
    return TrialGate.of(replace(trust.gate(), leaves=tuple(leaves), class_names=names), arrays, TRUNK)


def voice(names: tuple[str, ...], rows: list[list[float]] | None, corrections: Floats | None = None) -> Voice:
    said = None if rows is None else np.array(rows, dtype=np.float32)
    return Voice(class_names=names, probabilities=said, corrections=corrections)


PETS, OWLS = leaf("pets", ("cat", "dog")), leaf("owls", ("cat", "owl"))
SAID = {
    PETS.expert: voice(("cat", "dog"), [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]]),
    OWLS.expert: voice(("owl", "cat"), [[0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.9, 0.1]]),
}
TO_PETS, EQUAL, TO_OWLS = [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]


def prototypes(*top_ks: int, temperature: float = 1.0) -> list[TrialOption]:
    return [
        TrialOption(combination=Combination(name="prototypes", top_k=k, temperature=temperature))
        for k in top_ks
    ]


def trial(weights: list[float], *top_ks: int, before: list[float] | None = None) -> GateTrial:
    incumbent = None
    if before is not None:
        incumbent = (by_priors(before, [PETS, OWLS]), Combination(name="prototypes"))
    gate = by_priors(weights, [PETS, OWLS])
    return judge(LABELS, PLACES, gate, prototypes(*top_ks), SAID, incumbent=incumbent, flops=9)


def test_correct_answers_are_counted_by_class_name_for_each_option() -> None:
    found = trial(TO_PETS, 1, 2, 4)
    assert (found.samples, found.correct, found.flops) == (4, (2, 2, 2), 9)
    assert trial(EQUAL, 2, 4).correct == (4, 4)


def test_gained_and_lost_compare_the_same_samples_with_what_the_present_gate_serves() -> None:
    better = trial(EQUAL, 2, 4, before=TO_PETS)
    assert (better.incumbent_correct, better.gained, better.lost) == (2, (2, 2), (0, 0))
    worse = trial(TO_PETS, 1, before=TO_OWLS)
    assert (worse.incumbent_correct, worse.gained, worse.lost) == (2, (2,), (2,))
    assert trial(EQUAL, 2).gained == trial(EQUAL, 2).lost == (0,)


def test_what_a_class_of_others_takes_is_no_loss_among_the_nodes_own() -> None:
    gate, present = by_priors([1.0], [OWLS]), Combination(name="prototypes")
    newer = replace(OWLS, expert=ExpertId("owls.e2"))
    said = {
        OWLS.expert: voice(("cat", "owl"), [[0.9, 0.1]] * 4),
        newer.expert: voice(("cat", "owl"), [[0.4, 0.6]] * 4),
    }

    def found(labels: list[str]) -> GateTrial:
        candidate = by_priors([1.0], [newer])
        return judge(labels, PLACES, candidate, prototypes(1), said, incumbent=(gate, present))

    cats, both = found(["cat"] * 4), found(["cat", "cat", "cat", "owl"])
    assert (cats.lost, cats.lost_among_own, cats.gained_among_own) == ((4,), (0,), (0,))
    assert (both.lost, both.lost_among_own, both.gained_among_own) == ((3,), (3,), (1,))


def test_likelihood_is_that_of_the_mixture_and_never_infinite() -> None:
    sure = leaf("sure", ("cat", "dog", "owl"))
    said = {sure.expert: voice(("cat", "dog", "owl"), [[1, 0, 0]] * 4)}
    found = judge(LABELS, PLACES, by_priors([1.0], [sure]), prototypes(1), said)
    assert np.isfinite(found.nll_sum[0]) and found.nll_sum[0] > 10
    narrow = by_priors([1.0], [leaf("s", ("cat",))], ("cat",))
    unknown = judge(["bat"], PLACES[:1], narrow, prototypes(1), {ExpertId("s.e1"): voice(("cat",), [[1.0]])})
    assert np.isfinite(unknown.nll_sum[0]) and unknown.correct == (0,)


def test_an_expert_that_may_not_be_held_counts_as_uniform_and_as_missing() -> None:
    hidden = leaf("hidden", ("dog", "owl"))
    gate = by_priors(TO_OWLS, [PETS, hidden])
    for said in ({}, {hidden.expert: voice(("dog", "owl"), None)}):
        found = judge(["owl"], PLACES[:1], gate, prototypes(1), said)
        assert found.experts_missing == 1
        assert found.nll_sum[0] == pytest.approx(-np.log(0.5), abs=1e-4)


def test_leaves_with_one_expert_count_as_one() -> None:
    twin = replace(PETS, leaf=LeafId("pets.l2"))
    gate = by_priors([0.3, 0.3, 0.4], [PETS, twin, OWLS])
    said = SAID | {OWLS.expert: voice(("owl", "cat"), [[0.9, 0.1]] * 4)}
    assert judge(["cat"], PLACES[:1], gate, prototypes(1), said).correct == (1,)


def test_classes_that_an_older_gate_does_not_know_count_for_nothing() -> None:
    gate = by_priors([1.0], [PETS], ("cat", "dog"))
    newer = {PETS.expert: voice(("cat", "bat"), [[0.7, 0.3]])}
    assert judge(["cat"], PLACES[:1], gate, prototypes(1), newer).correct == (1,)


def analytic(with_prototypes: bool = False) -> TrialGate:
    """Return a gate whose class scores are about right: (1, 0) is cat, (0, 1) dog, the origin owl."""
    leaves = (replace(PETS, has_columns=True), replace(OWLS, has_columns=True))
    # Targets: pets cat, pets dog, owls cat, owls owl; features x, y and the constant.
    weights = np.float32([[1, 0, 0.5, -0.5], [0, 1, 0, -0.5], [-0.2, -0.2, 0, 0.6]])
    arrays: dict[str, NDArray[np.generic]] = {"weights": weights}
    if with_prototypes:
        arrays |= {f"prototypes.{row}": np.zeros((1, 2), np.float32) for row in range(2)}
        arrays |= {"log_prior": np.zeros(2, np.float32), "radii": np.ones((2, 3), np.float32)}
    statement = replace(trust.gate(), kind="analytic", leaves=leaves, class_names=("cat", "dog", "owl"))
    return TrialGate.of(statement, arrays, TRUNK)


def option(name: str, weights: str = "weights", **numbers: float) -> TrialOption:
    return TrialOption(combination=Combination(name=name, **numbers), weights=weights)  # type: ignore[arg-type]


CORRECTIONS = {
    PETS.expert: replace(SAID[PETS.expert], corrections=np.float32([[-90, 90], [-90, 90], [0, 0], [0, 0]])),
    OWLS.expert: replace(SAID[OWLS.expert], corrections=np.zeros((4, 2), np.float32)),
}


def test_the_root_needs_no_expert_and_each_combination_is_paired_with_it() -> None:
    options = [option("root"), option("corrected", top_k=2, temperature=1.0)]
    found = judge(LABELS, SPREAD, analytic(), options, CORRECTIONS)
    assert found.correct == (4, 3)
    assert (found.gained_on_root, found.lost_on_root) == ((0, 0), (0, 1))
    assert found.experts_missing == 0
    alone = judge(LABELS, SPREAD, analytic(), options[:1], {})
    assert alone.correct == (4,) and alone.experts_missing == 0


def test_an_expert_without_a_voice_corrects_nothing_and_is_missing() -> None:
    found = judge(LABELS, SPREAD, analytic(), [option("corrected", top_k=2, temperature=1.0)], SAID)
    assert (found.correct, found.experts_missing) == ((4,), 2)


@pytest.mark.parametrize(
    "served",
    [
        Combination(name="prototypes", top_k=2),
        Combination(name="root"),
        Combination(name="gate", top_k=2, temperature=0.3),
        Combination(name="poe", top_k=2, temperature=0.3),
        Combination(name="corrected", top_k=1, temperature=0.3, class_temperature=0.2),
    ],
    ids=lambda served: str(served.name),
)
def test_the_present_gate_is_judged_as_a_candidate_of_its_kind_would_be(served: Combination) -> None:
    gate = analytic(with_prototypes=True)
    found = judge(
        LABELS, SPREAD, gate, [TrialOption(combination=served)], CORRECTIONS, incumbent=(gate, served)
    )
    assert found.incumbent_correct == found.correct[0]
    assert found.gained == found.lost == (0,)
    assert answers(gate, served, SPREAD, CORRECTIONS).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert answers(gate, served, SPREAD, {}).shape == (4, 3)


def test_the_root_is_compared_with_the_present_root_whatever_that_gate_serves() -> None:
    gate = analytic(with_prototypes=True)
    turned = replace(gate.analytic, weights=-gate.analytic.weights) if gate.analytic else None
    served, options = Combination(name="prototypes", top_k=2), [option("root"), FALLBACK]
    worse = judge(LABELS, SPREAD, replace(gate, analytic=turned), options, SAID, incumbent=(gate, served))
    assert worse.lost[1] == 4 and worse.gained[1] == 0
    same = judge(LABELS, SPREAD, gate, options, SAID, incumbent=(gate, served))
    assert same.gained[1] == same.lost[1] == same.lost_among_own[1] == same.taken[1] == 0
    plain = replace(gate, analytic=None)
    first = judge(LABELS, SPREAD, replace(gate, analytic=turned), options, SAID, incumbent=(plain, served))
    assert first.lost[1] == 0


def test_a_ridge_is_tried_with_its_class_columns_and_nothing_else() -> None:
    good = np.float16([[1.5, 0, -0.5], [0, 1, -0.5], [-0.2, -0.2, 0.6]])
    arrays = {"root.0": good, "root.1": -good}
    statement = replace(trust.gate(), kind="analytic", leaves=(PETS, OWLS), class_names=("cat", "dog", "owl"))
    assert arrays_for(statement, ridge_options(2)) == ("root.0", "root.1")
    gate = TrialGate.of(statement, arrays, TRUNK)
    assert experts_wanted(gate, [each.combination for each in ridge_options(2)], SPREAD) == {
        "probabilities": frozenset(),
        "corrections": frozenset(),
    }
    found = judge(LABELS, SPREAD, gate, ridge_options(2), {})
    assert found.correct == (4, 0)
    assert found.nll_sum[0] < found.nll_sum[1]
    assert found.gained_on_root == found.lost_on_root == (0, 0)
    with pytest.raises(InvalidInputError, match=r"root\.2"):
        judge(LABELS, SPREAD, gate, ridge_options(3), {})
    with pytest.raises(ShapeMismatchError, match=r"gate root\.0: found \[3, 2\].*\[M, 3\] without"):
        TrialGate.of(statement, {"root.0": good[:, :2]}, TRUNK)
    with pytest.raises(
        ShapeMismatchError, match=r"gate 1, array root\.0: found \[2, 3\]; expected 3 features"
    ):
        TrialGate.of(statement, {"root.0": good[:2]}, TRUNK)


def test_columns_of_a_class_in_several_regions_are_tried_by_the_best_of_them() -> None:
    good = np.float16([[1.5, 0, -0.5], [0, 1, -0.5], [-0.2, -0.2, 0.6]])
    hopeless = np.float16([[0], [0], [-9]])
    arrays = {
        "root.0": np.concatenate([hopeless, good], axis=1),
        "root.1": np.concatenate([good, hopeless], axis=1),
        "class_targets": np.array([1, 0, 1, 2]),
    }
    entries, _ = pack_arrays(arrays)
    statement = replace(
        trust.gate(),
        kind="analytic",
        leaves=(PETS, OWLS),
        class_names=("cat", "dog", "owl"),
        arrays=entries,
    )
    assert arrays_for(statement, ridge_options(1)) == ("root.0", "class_targets")
    scaled = pack_arrays(arrays | {"root.0.scales": np.ones(4, np.float32)})[0]
    assert arrays_for(replace(statement, arrays=scaled), ridge_options(1)) == (
        "root.0",
        "root.0.scales",
        "class_targets",
    )
    gate = TrialGate.of(statement, arrays, TRUNK)
    found = judge(LABELS, SPREAD, gate, ridge_options(2), {})
    one_each = TrialGate.of(statement, {"root.0": good}, TRUNK)
    alone = judge(LABELS, SPREAD, one_each, ridge_options(1), {})
    assert found.correct[0] == alone.correct[0] == 4 and found.nll_sum[0] == alone.nll_sum[0]
    assert found.correct[1] < 4
    doubled = arrays | {"root.0": arrays["root.0"] * 2, "root.0.scales": np.full(4, 0.5, np.float32)}
    again = judge(LABELS, SPREAD, TrialGate.of(statement, doubled, TRUNK), ridge_options(1), {})
    assert again.nll_sum[0] == found.nll_sum[0]
    with pytest.raises(ShapeMismatchError, match=r"root\.0\.scales"):
        TrialGate.of(statement, doubled | {"root.0.scales": np.ones(3, np.float32)}, TRUNK)
    with pytest.raises(InvalidInputError, match="class rows"):
        TrialGate.of(statement, arrays | {"class_targets": np.array([1, 0, 1, 3])}, TRUNK)


def test_columns_of_several_owners_are_tried_as_they_would_answer() -> None:
    """The first owner's cat and dog are told apart within it, which a column between them gets wrong."""
    good = np.float16([[1.5, 0, -0.5], [0, 1, -0.5], [-0.2, -0.2, 0.6]])
    between = good.copy()
    between[:, 1] = between[:, 0] - np.float16([0, 0, 0.1])
    between[1, :2] = between[0, :2]
    arrays = {
        "root.0": np.concatenate([between, good], axis=1),
        "class_targets": np.array([0, 1, 2]),
        "class_owners": np.array([0, 0, 1]),
    }
    entries, _ = pack_arrays(arrays)
    names = ("cat", "dog", "owl")
    statement = replace(trust.gate(), kind="analytic", leaves=(PETS, OWLS), class_names=names, arrays=entries)
    assert arrays_for(statement, ridge_options(1)) == ("root.0", "class_targets", "class_owners")
    found = judge(LABELS, SPREAD, TrialGate.of(statement, arrays, TRUNK), ridge_options(1), {})
    without = {"root.0": between, "class_targets": arrays["class_targets"]}
    alone = judge(LABELS, SPREAD, TrialGate.of(statement, without, TRUNK), ridge_options(1), {})
    assert found.correct[0] == 4 > alone.correct[0]
    for name, value, refusal in (
        ("class_owners", np.array([0, 0]), ShapeMismatchError),
        ("class_owners", np.array([0, 0, 3]), InvalidInputError),
        ("class_owners", np.array([0.0, 0, 1]), ShapeMismatchError),
    ):
        with pytest.raises(refusal, match=r"class.(owners|weights)"):
            TrialGate.of(statement, arrays | {name: value}, TRUNK)


@pytest.mark.parametrize("with_branch", [False, True])
def test_a_gate_whose_classes_have_columns_is_read_by_what_scores_leaves_and_classes(
    with_branch: bool,
) -> None:
    leaves = (replace(PETS, has_columns=True), replace(OWLS, has_columns=True))
    branches: tuple[GateBranch, ...] = ()
    nodes = [[1, 0.0], [0, 0], [-0.4, 0.6]]
    if with_branch:
        branches = (GateBranch(leaf=LeafId("pets.l9"), owner=PETS.owner, is_learned=True),)
        leaves = (
            replace(leaves[0], parent=LeafId("pets.l9")),
            replace(leaves[1], owner=PETS.owner, leaf=LeafId("pets.l2"), parent=LeafId("pets.l9")),
        )
        nodes = [[*row, sum(row)] for row in nodes]
    good = np.float16([[1.5, 0, -0.5], [0, 1, -0.5], [-0.2, -0.2, 0.6]])
    arrays: dict[str, NDArray[np.generic]] = {
        "node_weights": np.float32(nodes),
        "class_weights": good,
        "class_weights.scales": np.ones(3, np.float32),
        "class_targets": np.array([0, 1, 2]),
        "class_regions": np.array([0, 0, 0 if with_branch else 1]),
    }
    if with_branch:
        arrays["split.0"] = np.zeros(3, np.float32)
    statement = replace(
        trust.gate(),
        kind="analytic",
        leaves=leaves,
        branches=branches,
        class_names=("cat", "dog", "owl"),
        arrays=pack_arrays(arrays)[0],
    )
    assert set(arrays_for(statement, [option("root"), option("gate")])) == arrays.keys()
    gate = TrialGate.of(statement, arrays, TRUNK)
    found = judge(LABELS, SPREAD, gate, [option("root"), option("gate", temperature=0.1)], SAID)
    assert found.correct[0] == 4
    del arrays["class_regions"]
    with pytest.raises(ShapeMismatchError, match="class_regions: found none"):
        TrialGate.of(statement, arrays, TRUNK)


def test_only_the_arrays_that_the_options_use_are_named() -> None:
    statement = replace(trust.gate(), leaves=(PETS, OWLS))
    assert arrays_for(statement, [option("root"), option("gate")]) == ("weights",)
    assert arrays_for(statement, prototypes(1, 2)) == ("prototypes.0", "prototypes.1", "log_prior", "radii")


def test_an_expert_that_no_sample_would_ask_is_not_wanted() -> None:
    leaves = [leaf(name, ("cat",)) for name in ("a", "b", "c")]
    gate = by_priors([0.2, 0.5, 0.3], leaves)
    combinations = [each.combination for each in prototypes(1, 2)]
    wanted = experts_wanted(gate, combinations, PLACES)
    assert wanted == {"probabilities": {"b.e1", "c.e1"}, "corrections": frozenset()}
    forms = experts_wanted(
        analytic(),
        [Combination(name="corrected", temperature=0.1), Combination(name="gate", temperature=0.1, top_k=2)],
        SPREAD[:2],
    )
    assert forms["probabilities"] == {"pets.e1", "owls.e1"}
    assert forms["corrections"] == {"pets.e1"}


def test_a_node_without_samples_answers_with_zeros() -> None:
    found = no_samples(prototypes(1, 2))
    assert (found.samples, found.correct, found.nll_sum) == (0, (0, 0), (0.0, 0.0))
