"""A proposal on trial: does it beat what it replaces, and does it harm anybody? Then it is the gate."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator.candidate import Candidate
from coordinator.gate_candidates import DEFAULT_RIDGE, says
from coordinator.gate_making import GateMaker, MakerParts, Trial, chosen
from coordinator.growth_benefit import Benefit, Wanted, Weighing, cost_of, pays, speaking, tried
from swarm.answering.active_gate import ActiveGate, gates_of
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.contributions import Contribution
from swarm.domain.gates import ChangeKind, GateChange, GateLeaf, GateStatement
from swarm.domain.growth import Tried
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import ContributionOutcome
from swarm.domain.specification import Specification
from swarm.gating.ridge import RIDGES
from swarm.trust.statements import Statement

EVIDENCE_BACK = 50
"""Versions that came without a trial say nothing of accuracy; so many are passed to find one that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a change that was tried; without a trial there is no benefit."""

    outcome: ContributionOutcome
    benefit: Benefit = field(
        default=Benefit(tried=Tried(samples=0, gained=0, lost=0, compared=""), pays=True)
    )


class GrowthTrial:
    """Judges changes that belong to proposals; the caller sees to it that nothing else changes the gate."""

    def __init__(self, maker: GateMaker, parts: MakerParts) -> None:
        self._maker, self._parts, self._publication = maker, parts, parts.publication

    async def judge_and_activate(
        self,
        contributions: Sequence[Statement[Contribution]],
        reason: str,
        *,
        kind: ChangeKind,
        proposal: str,
        wanted: Wanted,
        untouched: Sequence[Statement[Contribution]] | None = None,
    ) -> Judged:
        """Solve the gate of these contributions, and activate it if it pays and harms nobody.

        It is compared with the present gate in the combination in which experts speak, on the validation
        samples of all judges, the owner's too: it is benefit that they say something of, as far as that is
        `wanted`. Of harm they say
        what `GateMaker.judge_and_activate` says, with the same `untouched`. The present gate's ridge stays,
        unless an `add` brings sums that it was not chosen for. Raises NotReadyError where nobody could try.
        """
        active, maker = self._publication.required(), self._maker
        specification = self._parts.specifications.serving(each.value for each in contributions)
        ridges: Sequence[float] = RIDGES if kind == "add" else (active.value.ridge or DEFAULT_RIDGE,)
        trial = await maker.planned(contributions, specification, ridges, reason, untouched=untouched)
        if trial.candidate.solution is None:
            return self._refused("no leaf would be left")
        ridge, silent = ridges[0], frozenset[NodeId]()
        if len(ridges) > 1:
            ridge, silent = await maker.choose_ridge(trial)
        benefit, silent = await self._benefit(trial, ridge, silent, wanted)
        if not benefit.pays:
            least = "more than 1" if wanted == "gain" else "-1 or more"
            return self._refused(f"{benefit.reason}, {least} wanted", benefit)
        verdict = await maker.judge(trial, ridge, silent)
        if verdict.harmed:
            return Judged(outcome=maker.refusal(verdict), benefit=benefit)
        words = chosen(trial, verdict)
        words = replace(
            words,
            reason=f"{reason}; {benefit.reason}; {verdict.reason}",
            evidence={**words.evidence, **benefit.evidence},
        )
        change = GateChange(kind=kind, proposal=proposal, cost=benefit.cost)
        outcome = await maker.activate_judged(trial, words, change)
        return Judged(outcome=outcome, benefit=benefit)

    async def activate_as_is(
        self,
        contributions: Sequence[Statement[Contribution]],
        reason: str,
        *,
        kind: ChangeKind,
        proposal: str,
    ) -> Judged:
        """Activate a change that needs no trial, with the present gate's ridge and combinations."""
        active = self._publication.required()
        specification = self._parts.specifications.serving(each.value for each in contributions)
        candidate, words = await self._parts.candidates.like(
            active.value, contributions, specification, reason
        )
        combination = self._speaking(active.value, candidate)
        cost = await self._cost(active, candidate, combination, specification.value)
        if kind == "split":
            cost["train_flops"] = 0.0  # copies: what their manifests say was spent on the parent
        change = GateChange(kind=kind, proposal=proposal, cost=cost)
        outcome = await self._maker.activate(candidate, words, specification, change)
        nothing = Tried(samples=0, gained=0, lost=0, compared=combination.label)
        return Judged(outcome=outcome, benefit=Benefit(tried=nothing, pays=True, cost=cost))

    async def _benefit(
        self, trial: Trial, ridge: float, silent: frozenset[NodeId], wanted: Wanted
    ) -> tuple[Benefit, frozenset[NodeId]]:
        """Return what the judges found, and who of them was silent by now."""
        active = self._publication.required()
        combination = self._speaking(active.value, trial.candidate)
        compared = self._publication.sign_as_served(combination)
        defaults = await self._parts.candidates.defaults(trial.candidate)
        words = says(trial.specification, defaults, ridge, trial.reason)
        heard = await self._maker.ask(trial, compared, words, [TrialOption(combination=combination)], silent)
        found = tried(heard.trials, combination.label)
        cost = await self._cost(active, trial.candidate, combination, trial.specification.value)
        benefit = Benefit(tried=found, pays=pays(found, wanted), cost=cost)
        return benefit, silent | heard.silent

    def _speaking(self, active: GateStatement, candidate: Candidate) -> Combination:
        return speaking(
            active.combinations,
            active.served,
            self._accuracies(active),
            has_sums=candidate.has_sums,
            has_corrections=candidate.has_corrections,
        )

    def _accuracies(self, active: GateStatement) -> dict[str, float]:
        """Return the evidence of the newest version that has some of its combinations' accuracies."""
        files = self._publication.files
        for version in range(active.version, max(0, active.version - EVIDENCE_BACK), -1):
            envelope = files.envelope(version)
            evidence = files.open(envelope).value.evidence if envelope is not None else {}
            if any(name.startswith("accuracy_") for name in evidence):
                return dict(evidence)
        return {}

    async def _cost(
        self,
        active: ActiveGate,
        candidate: Candidate,
        combination: Combination,
        specification: Specification,
    ) -> dict[str, float]:
        before = Weighing(leaves=active.value.leaves, prototypes=active.prototypes, analytic=active.analytic)
        after = await asyncio.to_thread(weighing_of, candidate, specification)
        return cost_of(combination, before, after, self._answering)

    def _answering(self, leaf: GateLeaf) -> tuple[Digest, Manifest] | None:
        found = self._parts.heads.answering(leaf)
        return None if found is None else (found.digest, found.manifest)

    def _refused(self, reason: str, benefit: Benefit | None = None) -> Judged:
        outcome = ContributionOutcome(state="refused", gate_version=self._publication.version, reason=reason)
        return Judged(outcome=outcome) if benefit is None else Judged(outcome=outcome, benefit=benefit)


def weighing_of(candidate: Candidate, specification: Specification) -> Weighing:
    """Return a candidate's leaves and the gates that it would answer by, at any of its ridges."""
    if candidate.solution is None:
        return Weighing(leaves=(), prototypes=None, analytic=None)
    prototypes, analytic = gates_of(
        candidate.arrays(candidate.ridges[0]),
        candidate.leaves,
        candidate.group.branches,
        class_names=specification.class_names,
        trunk=specification.trunk if candidate.has_sums else None,
        temperature=1.0,
    )
    return Weighing(leaves=candidate.leaves, prototypes=prototypes, analytic=analytic)
