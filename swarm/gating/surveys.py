"""What surveys come to together: only figures that can be true, and nobody's drown everybody else's."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from swarm.domain.growth import LeafSurvey, Survey
from swarm.domain.ids import LeafId, NodeId
from swarm.domain.inference import MAX_TRIAL_SAMPLES
from swarm.gating.combine import PROBABILITY_FLOOR
from swarm.gating.loudness import most_heard

WORST_NLL = -math.log(PROBABILITY_FLOOR) * (1 + 1e-9)
"""No sample's negative log likelihood can be larger, but for what adding up rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """Surveys of one gate, summed over nodes; `fresh` and `novel` by node, for what is new is its own."""

    leaves: Mapping[LeafId, LeafSurvey] = field(default_factory=dict)
    fresh: Mapping[NodeId, int] = field(default_factory=dict)
    novel: Mapping[NodeId, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(each.samples for each in self.leaves.values())

    def believed(self, contributed: Mapping[NodeId, int]) -> "Surveyed":
        """Return it with nobody's newest samples counting for more than it has contributed; the novel ones
        are fewer by the same factor. What a node could not give to the gate is no reason to ask it first."""
        fresh = {node: min(count, contributed.get(node, 0)) for node, count in self.fresh.items()}
        novel = {
            node: count if fresh[node] == self.fresh[node] else count * fresh[node] // self.fresh[node]
            for node, count in self.novel.items()
        }
        return replace(self, fresh=fresh, novel=novel)


def is_sound_survey(survey: Survey, gate_version: int, leaves: Iterable[LeafId]) -> bool:
    """Return whether a survey's figures can be true, of this gate's leaves, each at most once: within its
    samples, which are no more than a node looks at."""
    known, names = set(leaves), [each.leaf for each in survey.leaves]
    return (
        survey.gate_version == gate_version
        and len(set(names)) == len(names)
        and known.issuperset(names)
        and 0 <= survey.fresh_novel <= survey.fresh
        and sum(each.samples for each in survey.leaves) <= MAX_TRIAL_SAMPLES
        and all(
            0 <= each.nll_sum <= WORST_NLL * each.samples
            and 0 <= each.correct <= each.samples
            and 0 <= each.novel <= each.samples
            for each in survey.leaves
        )
    )


def sum_surveys(surveys: Mapping[NodeId, Survey]) -> Surveyed:
    """Return the sums over nodes, nobody's samples counting for more than `most_heard` of those that have
    some."""
    named = {node: sum(each.samples for each in survey.leaves) for node, survey in surveys.items()}
    most = most_heard(count for count in named.values() if count)
    found: dict[LeafId, LeafSurvey] = {}
    for node, survey in surveys.items():
        factor = min(1.0, most / max(1, named[node]))
        for each in survey.leaves:
            counted = _scaled(each, factor)
            known = found.get(each.leaf)
            found[each.leaf] = counted if known is None else _added(known, counted)
    return Surveyed(
        leaves=found,
        fresh={node: survey.fresh for node, survey in surveys.items()},
        novel={node: survey.fresh_novel for node, survey in surveys.items()},
    )


def _scaled(each: LeafSurvey, factor: float) -> LeafSurvey:
    """Return fewer samples in the same proportions; a leaf that was used stays used."""
    if factor >= 1 or not each.samples:
        return each
    samples = max(1, round(factor * each.samples))
    return replace(
        each,
        samples=samples,
        nll_sum=factor * each.nll_sum,
        correct=min(samples, round(factor * each.correct)),
        novel=min(samples, round(factor * each.novel)),
    )


def _added(one: LeafSurvey, other: LeafSurvey) -> LeafSurvey:
    return LeafSurvey(
        leaf=one.leaf,
        samples=one.samples + other.samples,
        nll_sum=one.nll_sum + other.nll_sum,
        correct=one.correct + other.correct,
        novel=one.novel + other.novel,
    )
