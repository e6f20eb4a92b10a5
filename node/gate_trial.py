"""How a candidate gate does on one node's own validation data: pure arithmetic, no model, no I/O.

What is reckoned is what users would get: the combinations of `swarm.gating.combinations`, which routing uses
too. Only the sums in `GateTrial` leave the node.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.combination import USES_EXPERTS, USES_SUMS, Combination, TrialOption
from swarm.domain.errors import ShapeMismatchError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.inference import ExpertForm, GateTrial
from swarm.domain.manifests import Manifest
from swarm.domain.specification import TrunkReference
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.branches import SPLIT, splits_of
from swarm.gating.class_columns import ClassColumns
from swarm.gating.combinations import (
    FALLBACK,
    ROOT,
    Incumbent,
    Speaker,
    evaluate_options,
    expert_weights,
    may_speak,
    mix,
    right_among,
)
from swarm.gating.gate_arrays import (
    BRANCH_WEIGHTS,
    CLASS_OWNERS,
    CLASS_REGIONS,
    CLASS_TARGETS,
    CLASS_WEIGHTS,
    NODE_WEIGHTS,
    WEIGHTS,
    Placed,
    class_columns_in,
    has_scores,
    scales_of,
)
from swarm.gating.prototype_gate import PROTOTYPES, PrototypeGate, node_names
from swarm.gating.routing import RoutePlan, plan_route

ROWS_AT_ONCE = 1024
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Voice:
    """What one expert says of the N samples: float32 [N, C_own] over class_names for each form that is known.

    None: this node may not hold the expert, or nobody asked it. Classes that a gate does not know (the
    expert's head is newer) count for nothing.
    """

    class_names: tuple[str, ...]
    probabilities: Floats | None = None
    corrections: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialGate:
    """A gate under trial, or the present one. Leaves with the same identity count as one expert.

    `analytic` and `prototypes` as far as the combinations under trial need them; `roots` are the columns
    `root.<i>` while a ridge is being chosen, for features in `fixed_point`. `identities` are what the leaves'
    experts compute, as far as it is known (empty: they all differ).
    """

    class_names: tuple[str, ...]
    leaves: tuple[GateLeaf, ...]
    analytic: AnalyticGate | None = None
    prototypes: PrototypeGate | None = None
    roots: Mapping[str, ClassColumns] = field(default_factory=dict)
    fixed_point: float = 0.0
    identities: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        if not self.identities:
            object.__setattr__(self, "identities", self.experts)

    @classmethod
    def of(
        cls, statement: GateStatement, arrays: Mapping[str, NDArray[np.generic]], trunk: TrunkReference
    ) -> "TrialGate":
        """Return a statement's gate with those of its arrays that are here."""
        names, leaves = statement.class_names, statement.leaves
        placed = Placed.of(leaves, statement.branches)
        roots = {
            name: class_columns_in(arrays, name, len(names))
            for name in arrays
            if name.startswith(ROOT) and not name.endswith(scales_of(""))
        }
        for name, root in roots.items():
            if len(root.weights) != trunk.sum_size:
                raise ShapeMismatchError(
                    f"gate {statement.version}, array {name}",
                    found=str(list(root.weights.shape)),
                    expected=f"{trunk.sum_size} features",
                )
        analytic = None
        if has_scores(arrays):
            analytic = AnalyticGate.from_statement_arrays(
                arrays, leaves, names, trunk.fixed_point, trunk.has_constant, placed
            )
        prototypes = None
        if f"{PROTOTYPES}.0" in arrays:
            splits = splits_of(arrays, placed.is_learned)
            prototypes = PrototypeGate.from_arrays(
                arrays, leaves=len(leaves), temperature=1.0, tree=placed.tree, splits=splits
            )
        return cls(
            class_names=names,
            leaves=leaves,
            analytic=analytic,
            prototypes=prototypes,
            roots=roots,
            fixed_point=trunk.fixed_point,
        )

    @property
    def experts(self) -> tuple[str, ...]:
        """Who answers for each leaf."""
        return tuple(map(answering, self.leaves))

    def knowing(self, manifests: Mapping[str, Manifest]) -> "TrialGate":
        """Return the same gate with the identities of the experts whose manifests are known."""
        known = (manifests.get(expert) for expert in self.experts)
        identities = tuple(
            expert if manifest is None else manifest.computes
            for expert, manifest in zip(self.experts, known, strict=True)
        )
        return replace(self, identities=identities)

    def plan(self, combination: Combination, features: Floats, scores: Floats | None) -> RoutePlan:
        """Return which leaves' experts a combination asks for each of the samples."""
        weights = expert_weights(combination, self.analytic, self.prototypes, scores, features)
        allowed = may_speak(combination, self.analytic, len(self.leaves))
        return plan_route(weights, self.identities, combination.top_k, allowed)

    def flops(self, combinations: Iterable[Combination]) -> int:
        """Return the FLOPs per sample of finding out who is asked, and of judging these combinations."""
        asked = {(each.name, each.temperature, each.top_k) for each in combinations}
        by_prototypes = {each for each in asked if each[0] == "prototypes"}
        total = sum(root.flops_per_query for root in self.roots.values())
        if self.analytic is not None:
            total += self.analytic.flops_per_query * (1 + (asked > by_prototypes))
        if self.prototypes is not None:
            rounds = len(by_prototypes) + len({temperature for _, temperature, _ in by_prototypes})
            total += self.prototypes.flops_per_query * rounds
        return int(total)


def answering(leaf: GateLeaf) -> str:
    """Return who answers for a leaf: the digest of the pinned version, else the expert, whose head it is."""
    return leaf.manifest or leaf.expert


def arrays_for(statement: GateStatement, options: Sequence[TrialOption]) -> tuple[str, ...]:
    """Return the names of the gate's arrays that these options need, and no other."""
    branches = statement.branches
    splits = [f"{SPLIT}.{row}" for row, branch in enumerate(branches) if branch.is_learned]
    there = {entry.name for entry in statement.arrays}
    names: dict[str, None] = {}
    for option in options:
        if option.combination.name in USES_SUMS:
            by_node = option.weights == WEIGHTS and NODE_WEIGHTS in there
            names[NODE_WEIGHTS if by_node else option.weights] = None
            beside = [CLASS_WEIGHTS, CLASS_REGIONS] if option.weights == WEIGHTS else [option.weights]
            beside += [scales_of(beside[0]), CLASS_TARGETS, CLASS_OWNERS]
            names |= dict.fromkeys(name for name in beside if name in there)
            if branches and by_node:
                names |= dict.fromkeys(splits)
            elif branches and option.weights == WEIGHTS:
                names |= dict.fromkeys((BRANCH_WEIGHTS, *splits))
        if option.combination.name == "prototypes":
            nodes = node_names(len(statement.leaves), len(branches))
            names |= dict.fromkeys((*nodes, "log_prior", "radii", *splits))
    return tuple(names)


def experts_wanted(
    gate: TrialGate, combinations: Iterable[Combination], features: Floats
) -> dict[ExpertForm, frozenset[str]]:
    """Return who answers for the leaves (`answering`) that any of the combinations asks about any of the
    samples, by form.

    Of those that differ in top_k, the widest is looked at. features float32 [N, D].
    """
    widest: dict[tuple[ExpertForm, bool, float], Combination] = {}
    for each in combinations:
        if each.name not in USES_EXPERTS:
            continue
        key = (_form(each), each.name == "prototypes", each.temperature)
        if key not in widest or each.top_k > widest[key].top_k:
            widest[key] = each
    wanted: dict[ExpertForm, set[str]] = {"probabilities": set(), "corrections": set()}
    if widest:
        scores = gate.analytic.scores(features) if gate.analytic is not None else None
        for (form, _, _), combination in widest.items():
            chosen = np.unique(gate.plan(combination, features, scores).choices)
            wanted[form] |= {gate.experts[row] for row in chosen if row >= 0}
    return {form: frozenset(experts) for form, experts in wanted.items()}


def judge(
    labels: Sequence[str],
    features: Floats,
    candidate: TrialGate,
    options: Sequence[TrialOption],
    voices: Mapping[str, Voice],
    *,
    incumbent: tuple[TrialGate, Combination] | None = None,
    flops: int = 0,
) -> GateTrial:
    """Return the candidate's sums over the N samples, one entry per option.

    labels are class names, features float32 [N, D]. `incumbent` is the present gate with the combination that
    it serves; voices are by who answers. Without one its count is 0 and nothing is gained, lost or taken, nor
    against the root of one without sums. An expert without a voice, or whose voice lacks a form, is missing:
    uniform over its classes, or no correction.
    """
    before = root_before = None
    if incumbent is not None:
        present, served = incumbent
        before = _incumbent(labels, features, candidate.class_names, present, served, voices)
        if present.analytic is not None and any(option.against_root for option in options):
            root_before = before
            if served.name != "root":
                root = FALLBACK.combination
                root_before = _incumbent(labels, features, candidate.class_names, present, root, voices)
    found = evaluate_options(
        options,
        labels=_rows_of(candidate.class_names, labels),
        gate=candidate.analytic,
        prototypes=candidate.prototypes,
        features=features,
        speakers=[_speaker(candidate, leaf, voices) for leaf in candidate.leaves],
        identities=candidate.identities,
        incumbent=before,
        incumbent_root=root_before,
        roots=candidate.roots,
        fixed_point=candidate.fixed_point,
        classes=len(candidate.class_names),
    )
    return GateTrial(
        samples=len(labels),
        nll_sum=tuple(found.nll_sum.tolist()),
        correct=tuple(found.correct.tolist()),
        gained=tuple(found.gained.tolist()),
        lost=tuple(found.lost.tolist()),
        gained_among_own=tuple(found.gained_among_own.tolist()),
        lost_among_own=tuple(found.lost_among_own.tolist()),
        taken=tuple(found.taken.tolist()),
        gained_on_root=tuple(found.gained_on_root.tolist()),
        lost_on_root=tuple(found.lost_on_root.tolist()),
        incumbent_correct=0 if before is None else int(before.correct.sum()),
        experts_missing=len({candidate.experts[row] for row in found.missing}),
        flops=flops,
        nll_by_calibration=tuple(found.nll_by_calibration.ravel().tolist()),
    )


def no_samples(options: Sequence[TrialOption]) -> GateTrial:
    """Return the trial of a node without validation samples."""
    none = (0,) * len(options)
    return GateTrial(
        samples=0,
        nll_sum=(0.0,) * len(options),
        correct=none,
        gained=none,
        lost=none,
        gained_among_own=none,
        lost_among_own=none,
        taken=none,
        gained_on_root=none,
        lost_on_root=none,
    )


def _incumbent(
    labels: Sequence[str],
    features: Floats,
    class_names: tuple[str, ...],
    present: TrialGate,
    served: Combination,
    voices: Mapping[str, Voice],
) -> Incumbent:
    """Return how the present gate does, for a candidate with class_names."""
    answer, truth = answers(present, served, features, voices), _rows_of(present.class_names, labels)
    held = {name for leaf in present.leaves for name in leaf.class_names}
    own = _named(present.class_names, labels)
    return Incumbent(
        correct=answer.argmax(axis=1) == truth,
        correct_among_own=right_among(answer, own, truth, np.zeros(len(truth), dtype=bool)),
        known=_named(class_names, held),
        own=_named(class_names, labels),
    )


def _named(class_names: tuple[str, ...], names: Iterable[str]) -> NDArray[np.bool_]:
    wanted = set(names)
    return np.array([name in wanted for name in class_names], dtype=bool)


def answers(
    gate: TrialGate, combination: Combination, features: Floats, voices: Mapping[str, Voice]
) -> Floats:
    """Return a gate's answers with one combination, probabilities float32 [N, C] over its class names."""
    speakers = [_speaker(gate, leaf, voices) for leaf in gate.leaves]
    parts = [
        _answered(gate, combination, features, speakers, slice(start, start + ROWS_AT_ONCE))
        for start in range(0, len(features), ROWS_AT_ONCE)
    ]
    return np.concatenate([*parts, np.empty((0, len(gate.class_names)), dtype=np.float32)])


def _answered(
    gate: TrialGate, combination: Combination, features: Floats, speakers: Sequence[Speaker], cut: slice
) -> Floats:
    points = features[cut]
    scores = gate.analytic.scores(points) if gate.analytic is not None else None
    base = None
    if scores is not None and gate.analytic is not None and combination.name in USES_SUMS:
        base = gate.analytic.class_scores(scores)
    parts = []
    if combination.name in USES_EXPERTS:
        plan = gate.plan(combination, points, scores)
        for leaf in np.unique(plan.choices[plan.choices >= 0]):
            rows, places = np.nonzero(plan.choices == leaf)
            speaker = speakers[leaf]
            known = speaker.corrections if _form(combination) == "corrections" else speaker.probabilities
            if known is not None:
                values = known[cut][rows]
            else:
                fill = 0.0 if _form(combination) == "corrections" else 1 / len(speaker.class_rows)
                values = np.full((len(rows), len(speaker.class_rows)), fill)
            parts.append((rows, plan.weights[rows, places], speaker.class_rows, values))
    return mix(combination, class_scores=base, parts=parts, batch=len(points), classes=len(gate.class_names))


def _form(combination: Combination) -> ExpertForm:
    return "corrections" if combination.name == "corrected" else "probabilities"


def _speaker(gate: TrialGate, leaf: GateLeaf, voices: Mapping[str, Voice]) -> Speaker:
    voice = voices.get(answering(leaf)) or Voice(class_names=leaf.class_names)
    return Speaker(
        class_rows=_rows_of(gate.class_names, voice.class_names),
        probabilities=voice.probabilities,
        corrections=voice.corrections,
    )


def _rows_of(class_names: tuple[str, ...], names: Sequence[str]) -> NDArray[np.int64]:
    rows = {name: row for row, name in enumerate(class_names)}
    return np.array([rows.get(name, -1) for name in names], dtype=np.int64)
