"""From contributions to a gate that counts: planned, solved in a child, tried by the nodes, activated.

Everything here runs while nothing else changes the gate. Before a version counts only content-addressed
files are written, so a crash at any point leaves the old gate or the new one.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from coordinator.candidate import Candidate, Signable
from coordinator.gate_candidates import DEFAULT_RIDGE, Candidates, says
from coordinator.gate_publication import GatePublication
from coordinator.gate_trials import Heard, TrialRound
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.judgements import Finding, Judgements, Question
from coordinator.live_nodes import LiveNodes
from coordinator.specifications import Specifications
from coordinator.trials import Verdict, judge_ridge, judge_trials
from swarm.domain.combination import TrialOption
from swarm.domain.contributions import Contribution
from swarm.domain.gates import ChangeKind, GateChange, GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import GateTrial
from swarm.domain.membership import ContributionOutcome
from swarm.domain.specification import Specification
from swarm.gating.combinations import option_grid, ridge_options
from swarm.gating.ridge import RIDGES
from swarm.trust.statements import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the nodes are asked about, and the signed gate that it is compared with (empty: there is none).

    `incumbents` may refuse it: not those whose contributions are new. `findings`: what judges said so far.
    """

    candidate: Candidate
    specification: Statement[Specification]
    incumbents: frozenset[NodeId]
    compared: bytes
    reason: str
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerParts:
    """What a gate is made with. `activated` is called after each new version; it must not block."""

    heads: Heads
    live: LiveNodes
    journal: Journal
    specifications: Specifications
    publication: GatePublication
    candidates: Candidates
    trials: TrialRound
    judgements: Judgements
    activated: Callable[[], None]


class GateMaker:
    """Makes gate versions; the caller sees to it that it makes one at a time."""

    def __init__(self, parts: MakerParts) -> None:
        self._parts, self._publication, self._candidates = parts, parts.publication, parts.candidates
        self.judged: dict[ExpertId, Digest] = {}
        """The heads with corrections that the last trial knew."""

    async def judge_and_activate(
        self,
        contributions: Sequence[Statement[Contribution]],
        specification: Statement[Specification],
        reason: str,
        *,
        kind: ChangeKind = "contribute",
        untouched: Sequence[Statement[Contribution]] | None = None,
    ) -> ContributionOutcome:
        """Solve the gate of these contributions, let the nodes try it, and activate it unless it harms.

        `untouched`: where owners in the present gate have newer contributions, those of all others. What the
        newer ones cost is measured from the gate of these alone, or one owner's small steps would add up;
        what they cost already, and no more of, is no reason to refuse. Those owners are no judges of harm.
        The outcome `refused` says who would lose; it is not yet recorded. Raises NotReadyError where nobody
        could try it.
        """
        change = GateChange(kind=kind)
        trial = await self.planned(contributions, specification, RIDGES, reason, untouched=untouched)
        if trial.candidate.solution is None:
            empty = await self._candidates.defaults(trial.candidate)
            words = says(specification, empty, DEFAULT_RIDGE, reason)
            return await self.activate(trial.candidate, words, specification, change)
        ridge, silent = await self.choose_ridge(trial)
        verdict = await self.judge(trial, ridge, silent)
        if verdict.harmed:
            return self.refusal(verdict)
        return await self.activate_judged(trial, chosen(trial, verdict), change)

    async def activate_as_is(
        self,
        contributions: Sequence[Statement[Contribution]],
        like: GateStatement,
        reason: str,
        change: GateChange,
    ) -> ContributionOutcome:
        """Activate without a trial: what is taken back must not depend on who is connected.

        Ridge and combinations are those of the gate `like`, as far as they still make sense.
        """
        specification = self._parts.specifications.serving(each.value for each in contributions)
        candidate, words = await self._candidates.like(like, contributions, specification, reason)
        return await self.activate(candidate, words, specification, change)

    async def planned(
        self,
        contributions: Sequence[Statement[Contribution]],
        specification: Statement[Specification],
        ridges: Sequence[float],
        reason: str,
        *,
        untouched: Sequence[Statement[Contribution]] | None = None,
    ) -> Trial:
        """Return what is to be tried: the gate of these contributions, and what it is compared with."""
        compared = await self._candidates.compared_with(untouched)
        others = contributions if untouched is None else untouched
        by = {each.value.owner for each in contributions} - {each.value.owner for each in others}
        return Trial(
            candidate=await self._candidates.solved(contributions, ridges, specification),
            specification=specification,
            incumbents=self._candidates.incumbents - by,
            compared=compared,
            reason=reason,
        )

    async def choose_ridge(self, trial: Trial) -> tuple[float, frozenset[NodeId]]:
        """Return the ridge whose root does best where the nodes look, and who did not answer."""
        candidate = trial.candidate
        if not candidate.has_sums:
            return DEFAULT_RIDGE, frozenset()
        defaults = await self._candidates.defaults(candidate)
        words = says(trial.specification, defaults, candidate.ridges[0], trial.reason, is_trial=True)
        options = ridge_options(len(candidate.ridges))
        heard = await self.ask(trial, trial.compared, words, options)
        absent = self._absent("ridge", trial, options, heard)
        active = self._candidates.present
        present = active.value.ridge if active is not None else None
        trials = {**absent, **heard.trials}
        return judge_ridge(trials, candidate.ridges, DEFAULT_RIDGE, present), heard.silent

    async def judge(self, trial: Trial, ridge: float, silent: frozenset[NodeId]) -> Verdict:
        """Let the nodes choose how to answer, and say whom that would harm.

        Who was silent is not waited for again; who is away counts as it found last, but refuses nothing.
        Where incumbents would lose against another gate than the present one, they are asked once more, about
        that one.
        """
        candidate, heads = trial.candidate, self._parts.heads
        known = {leaf.expert: heads.answering(leaf) for leaf in candidate.leaves}
        defaults = await self._candidates.defaults(candidate)
        temperatures, _ = await asyncio.to_thread(candidate.prototype_temperatures)
        options = option_grid(candidate.has_sums, temperatures, candidate.has_corrections)
        words = says(trial.specification, defaults, ridge, trial.reason)
        heard = await self.ask(trial, trial.compared, words, options, silent)
        absent = self._absent("combination", trial, options, heard)
        judged = partial(
            judge_trials, heard.trials, trial.incumbents, options, defaults, ridge, absent=absent
        )
        verdict = await asyncio.to_thread(judged)
        active = self._candidates.present
        if verdict.harmed and active is not None and active.envelope != trial.compared:
            now = await self.ask(trial, active.envelope, words, options, heard.silent)
            verdict = await asyncio.to_thread(partial(judged, by_now=now.trials))
        self.judged = {
            expert: head.digest
            for expert, head in known.items()
            if head is not None and head.manifest.correction is not None
        }
        return heard.covering(verdict, len(absent))

    def _absent(
        self, question: Question, trial: Trial, options: tuple[TrialOption, ...], heard: Heard
    ) -> dict[NodeId, GateTrial]:
        """Return what those who were not heard found last; take note of what the others found now."""
        trial.findings.append(Finding(question=question, options=options, trials=heard.trials))
        away = (trial.incumbents & trial.candidate.owners) - heard.heard
        return self._parts.judgements.of_absent(question, options, away)

    async def ask(
        self,
        trial: Trial,
        compared: bytes,
        words: Signable,
        options: Sequence[TrialOption],
        silent: frozenset[NodeId] = frozenset(),
    ) -> Heard:
        """Return what the nodes say of a candidate in these options, against the gate `compared`."""
        return await self._parts.trials.run(
            asked=trial.candidate.owners | self._candidates.incumbents,
            incumbents=trial.incumbents,
            silent=silent,
            candidate=await self._publication.sign(trial.candidate, words),
            incumbent=compared,
            options=options,
            specification=trial.specification.envelope,
        )

    def refusal(self, verdict: Verdict) -> ContributionOutcome:
        """Return the outcome of a candidate that harms."""
        harm = "; ".join(map(str, verdict.harmed))
        return ContributionOutcome(state="refused", gate_version=self._publication.version, reason=harm)

    async def activate_judged(self, trial: Trial, words: Signable, change: GateChange) -> ContributionOutcome:
        """Make a candidate that came through its trial the gate that counts."""
        outcome = await self.activate(trial.candidate, words, trial.specification, change)
        await self._parts.judgements.remember(trial.findings, trial.candidate.owners)
        return outcome

    async def activate(
        self,
        candidate: Candidate,
        words: Signable,
        specification: Statement[Specification],
        change: GateChange,
    ) -> ContributionOutcome:
        """Make a candidate the gate that counts."""
        parts = self._parts
        envelope = await self._publication.sign(
            candidate, words, change=change, may_publish_later=not words.evidence
        )
        is_new_specification = await parts.specifications.accept(specification)
        if is_new_specification:
            parts.live.announce(specification=specification.envelope)
        active = await self._publication.activate(envelope)
        if is_new_specification:
            names = ", ".join(specification.value.class_names)
            await parts.journal.record(
                "specification.changed", version=specification.value.version, class_names=names[:1000]
            )
        await parts.journal.record(
            "gate.activated",
            gate_version=active.version,
            leaves=len(active.value.leaves),
            reason=words.reason,
            change=change.kind,
            **({"proposal": change.proposal} if change.proposal else {}),
        )
        parts.activated()
        return ContributionOutcome(state="activated", gate_version=active.version, reason=words.reason)


def chosen(trial: Trial, verdict: Verdict) -> Signable:
    """Return what a candidate says after a trial."""
    return Signable(
        specification=trial.specification.value,
        specification_digest=trial.specification.digest,
        combinations=verdict.combinations,
        served=verdict.served,
        ridge=verdict.ridge,
        reason=f"{trial.reason}; {verdict.reason}",
        evidence=verdict.evidence,
    )
