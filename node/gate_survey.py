"""How each leaf of a gate does on one node's own validation data that are routed to it: pure arithmetic.

Only the sums in `LeafSurvey` leave the node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from node.gate_trial import TrialGate, Voice, answering
from swarm.domain.combination import USES_EXPERTS, Combination, TrialOption
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import LeafSurvey, Survey
from swarm.domain.inference import Listing
from swarm.gating.combine import PROBABILITY_FLOOR
from swarm.gating.distances import Floats
from swarm.gating.regions import region_columns
from swarm.rpc.convert.growth import survey_to_pb

NOVEL = 1.0
"""Farther than so many .99 radii of the nearest prototype is novel."""


def survey_combination(statement: GateStatement) -> Combination:
    """Return by what samples are routed to leaves, at top-1: the served combination where it asks experts,
    else the gate's first `gate`, or its first `prototypes` where it has no sums."""
    served = statement.combination()
    if served.name in USES_EXPERTS:
        return replace(served, top_k=1)
    wanted = "gate" if statement.kind == "analytic" else "prototypes"
    found = next((each for each in statement.combinations if each.name == wanted), None)
    return replace(found, top_k=1) if found is not None else Combination(name="prototypes")


def survey_options(combination: Combination) -> tuple[TrialOption, ...]:
    """Return the options whose arrays a survey needs: what routes, and the prototypes that tell what is
    novel."""
    return TrialOption(combination=combination), TrialOption(combination=Combination(name="prototypes"))


def survey(
    labels: Sequence[str],
    features: Floats,
    gate: TrialGate,
    combination: Combination,
    voices: Mapping[str, Voice],
) -> tuple[LeafSurvey, ...]:
    """Return one entry for each leaf that some of the N samples are routed to, in the gate's order.

    labels are class names, features float32 [N, D]. Of leaves with exact copies of one expert the first
    stands for all. `nll_sum` and `correct` are of what the leaf's expert says of its own classes, a
    probability being at least 1e-6: so much is that of a class which it does not know. Novel is what lies
    beyond the .99 radius of the nearest prototype of the leaf's region. An expert without a voice, because
    this node may not hold it or cannot afford it, counts samples and novelty, and neither loss nor right
    answers.
    """
    if gate.prototypes is None:
        raise InvalidInputError("survey", found="a gate without its prototypes", expected="all of them")
    scores = gate.analytic.scores(features) if gate.analytic is not None else None
    leaf_of = gate.plan(combination, features, scores).choices[:, 0]
    routed = leaf_of >= 0
    points = features[:, region_columns(features.shape[1])]
    novel = gate.prototypes.novelty(points, np.maximum(leaf_of, 0)) > NOVEL
    found = []
    for row in np.unique(leaf_of[routed]).tolist():
        leaf, own = gate.leaves[row], np.flatnonzero(leaf_of == row).tolist()
        voice = voices.get(answering(leaf))
        nll, correct = 0.0, 0
        if voice is not None and voice.probabilities is not None:
            nll, correct = _loss(voice, voice.probabilities[own], [labels[sample] for sample in own])
        found.append(
            LeafSurvey(
                leaf=leaf.leaf,
                samples=len(own),
                nll_sum=nll,
                correct=correct,
                novel=int(novel[own].sum()),
            )
        )
    return tuple(found)


def sent_survey_listing(found: Survey) -> Listing:
    """Return what a node sends of its survey."""
    samples = sum(leaf.samples for leaf in found.leaves)
    return Listing(
        what="survey sums",
        detail=f"gate {found.gate_version}: samples, summed loss, right and novel ones of each of"
        f" {len(found.leaves)} leaves, over {samples} own validation samples; how much is novel",
        size_bytes=survey_to_pb(found).ByteSize(),
        recipient="coordinator",
    )


def _loss(voice: Voice, probabilities: Floats, labels: Sequence[str]) -> tuple[float, int]:
    column = {name: row for row, name in enumerate(voice.class_names)}
    truth = np.array([column.get(label, -1) for label in labels])
    likely = np.where(
        truth >= 0, probabilities[np.arange(len(truth)), np.maximum(truth, 0)].astype(np.float64), 0.0
    )
    nll = -np.log(np.maximum(likely, PROBABILITY_FLOOR)).sum()
    return float(nll), int((probabilities.argmax(axis=1) == truth).sum())
