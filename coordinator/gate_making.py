"""From contributions to a gate that counts: planned, solved in a child, tried by the nodes, activated.

Everything here runs while nothing else changes the gate. Before a version counts only content-addressed
files are written, so a crash at any point leaves the old gate or the new one.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from coordinator.active_gate import ActiveGate
from coordinator.candidate import Candidate, Signable, can_correct, plan_group
from coordinator.gate_publication import GatePublication
from coordinator.gate_trials import Heard, TrialRound
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.solver_jobs import Group, Solution
from coordinator.solver_process import Solver
from coordinator.specifications import Specifications
from coordinator.trials import Defaults, Verdict, defaults_for, judge_ridge, judge_trials, still_sensible
from swarm.domain.combination import TrialOption
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Contribution, GateStatement
from swarm.domain.membership import ContributionOutcome
from swarm.domain.specification import Specification, TrunkReference
from swarm.gating.combinations import option_grid, ridge_options
from swarm.gating.ridge import RIDGES
from swarm.trust.statements import Statement

DEFAULT_RIDGE = 300.0
"""The middle of the grid, where nobody has validation data."""
NO_EVIDENCE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Equations:
    """What a solution follows from, all of it: contributions are named by their digests."""

    group: Group
    class_names: tuple[str, ...]
    ridges: tuple[float, ...]
    trunk: TrunkReference


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the nodes are asked about. `incumbents` may refuse it: not those whose contributions are new."""

    candidate: Candidate
    specification: Statement[Specification]
    incumbents: frozenset[NodeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerParts:
    """What a gate is made with. `activated` is called after each new version; it must not block."""

    heads: Heads
    live: LiveNodes
    journal: Journal
    specifications: Specifications
    publication: GatePublication
    trials: TrialRound
    solver: Solver
    top_k: int
    activated: Callable[[], None]


class GateMaker:
    """Makes gate versions; the caller sees to it that it makes one at a time."""

    def __init__(self, parts: MakerParts) -> None:
        self._parts, self._publication = parts, parts.publication
        self.judged: dict[ExpertId, Digest] = {}
        """The heads with corrections that the last trial knew."""
        self._last_solved: tuple[_Equations, Solution] | None = None

    async def judge_and_activate(
        self,
        contributions: Sequence[Statement[Contribution]],
        specification: Statement[Specification],
        reason: str,
        *,
        untouched: Sequence[Statement[Contribution]] | None = None,
    ) -> ContributionOutcome:
        """Solve the gate of these contributions, let the nodes try it, and activate it unless it harms.

        `untouched`: where owners in the present gate have newer contributions, those of all others. What the
        newer ones cost is measured from the gate of these alone, or one owner's small steps would add up;
        what they cost already, and no more of, is no reason to refuse. Those owners are no judges of harm.
        The outcome `refused` says who would lose; it is not yet recorded. Raises NotReadyError where nobody
        could try it.
        """
        compared = await self._compared_with(untouched)
        others = contributions if untouched is None else untouched
        by = {each.value.owner for each in contributions} - {each.value.owner for each in others}
        candidate = await self._solved(contributions, RIDGES, specification)
        if candidate.solution is None:
            empty = await self._defaults(candidate)
            return await self._activate(
                candidate, self._says(specification, empty, DEFAULT_RIDGE, reason), specification
            )
        heads = self._parts.heads
        known = {leaf.expert: heads.get(leaf.expert) for leaf in candidate.leaves}
        verdict = await self._try(candidate, compared, self._incumbents() - by, specification, reason)
        self.judged = {
            expert: head.digest
            for expert, head in known.items()
            if head is not None and head.manifest.correction is not None
        }
        if verdict.harmed:
            harm = "; ".join(map(str, verdict.harmed))
            return ContributionOutcome(state="refused", gate_version=self._publication.version, reason=harm)
        says = Signable(
            specification=specification.value,
            specification_digest=specification.digest,
            combinations=verdict.combinations,
            served=verdict.served,
            ridge=verdict.ridge,
            reason=f"{reason}; {verdict.reason}",
            evidence=verdict.evidence,
        )
        return await self._activate(candidate, says, specification)

    async def activate_as_is(
        self, contributions: Sequence[Statement[Contribution]], like: GateStatement, reason: str
    ) -> ContributionOutcome:
        """Activate without a trial: what is taken back must not depend on who is connected.

        Ridge and combinations are those of the gate `like`, as far as they still make sense.
        """
        specification = self._parts.specifications.serving(each.value for each in contributions)
        candidate, says = await self._like(like, contributions, specification, reason)
        return await self._activate(candidate, says, specification)

    async def _solved(
        self,
        contributions: Sequence[Statement[Contribution]],
        ridges: Sequence[float],
        specification: Statement[Specification],
    ) -> Candidate:
        manifests, value = self._parts.heads.manifests(), specification.value
        group = plan_group(contributions, manifests)
        equations = _Equations(
            group=group, class_names=value.class_names, ridges=tuple(ridges), trunk=value.trunk
        )
        return Candidate(
            group=group,
            ridges=equations.ridges,
            solution=await self._solution(equations) if group.leaves else None,
            has_corrections=can_correct(group.leaves, manifests),
        )

    async def _solution(self, asked: "_Equations") -> Solution:
        """Return the solution; the last one again where nothing but the experts has changed since."""
        if self._last_solved is None or self._last_solved[0] != asked:
            found = await self._parts.solver.solve(
                [asked.group], asked.class_names, asked.ridges, asked.trunk
            )
            self._last_solved = asked, found[0]
        return self._last_solved[1]

    async def _defaults(self, candidate: Candidate) -> Defaults:
        _, temperature = await asyncio.to_thread(candidate.prototype_temperatures)
        return defaults_for(
            temperature,
            has_sums=candidate.has_sums,
            has_corrections=candidate.has_corrections,
            top_k=self._parts.top_k,
        )

    async def _like(
        self,
        like: GateStatement,
        contributions: Sequence[Statement[Contribution]],
        specification: Statement[Specification],
        reason: str,
    ) -> tuple[Candidate, Signable]:
        """Return a gate of these contributions that answers as another one does, as far as it can."""
        ridge = like.ridge or DEFAULT_RIDGE
        candidate = await self._solved(contributions, (ridge,), specification)
        kept = still_sensible(
            like.combinations,
            like.served,
            await self._defaults(candidate),
            has_sums=candidate.has_sums,
            has_corrections=candidate.has_corrections,
        )
        return candidate, self._says(specification, kept, ridge, reason)

    async def _compared_with(self, untouched: Sequence[Statement[Contribution]] | None) -> bytes:
        """Return the signed gate that a candidate is compared with; empty: none has leaves."""
        active = self._present()
        if active is None or untouched is None:
            return b"" if active is None else active.envelope
        specification = self._parts.specifications.current
        candidate, says = await self._like(active.value, untouched, specification, "for comparison")
        return await self._publication.sign(candidate, says) if candidate.leaves else b""

    async def _try(
        self,
        candidate: Candidate,
        compared: bytes,
        incumbents: frozenset[NodeId],
        specification: Statement[Specification],
        reason: str,
    ) -> Verdict:
        """Let the nodes choose the ridge first, by the root alone, and then how to answer.

        Who does not answer the first time is not waited for a second time. Where incumbents would lose
        against another gate than the present one, they are asked once more, about that one.
        """
        defaults = await self._defaults(candidate)
        ridge, silent = DEFAULT_RIDGE, frozenset[NodeId]()
        asked = _Asked(candidate=candidate, specification=specification, incumbents=incumbents)
        if candidate.has_sums:
            says = self._says(specification, defaults, ridge, reason, is_trial=True)
            ridges = ridge_options(len(candidate.ridges))
            heard = await self._ask(asked, compared, says, ridges)
            silent = heard.silent
            ridge = judge_ridge(heard.trials, candidate.ridges, ridge)
        temperatures, _ = await asyncio.to_thread(candidate.prototype_temperatures)
        options = option_grid(candidate.has_sums, temperatures, candidate.has_corrections)
        says = self._says(specification, defaults, ridge, reason)
        heard = await self._ask(asked, compared, says, options, silent)
        judged = partial(judge_trials, heard.trials, incumbents, options, defaults, ridge)
        verdict = await asyncio.to_thread(judged)
        active = self._present()
        if verdict.harmed and active is not None and active.envelope != compared:
            now = await self._ask(asked, active.envelope, says, options, heard.silent)
            verdict = await asyncio.to_thread(partial(judged, by_now=now.trials))
        return heard.covering(verdict)

    async def _ask(
        self,
        asked: "_Asked",
        compared: bytes,
        says: Signable,
        options: Sequence[TrialOption],
        silent: frozenset[NodeId] = frozenset(),
    ) -> Heard:
        candidate = asked.candidate
        return await self._parts.trials.run(
            asked=candidate.owners | self._incumbents(),
            incumbents=asked.incumbents,
            silent=silent,
            candidate=await self._publication.sign(candidate, says),
            incumbent=compared,
            options=options,
            specification=asked.specification.envelope,
        )

    def _present(self) -> ActiveGate | None:
        """Return the active gate where it has leaves."""
        active = self._publication.active
        return active if active is not None and active.value.leaves else None

    def _incumbents(self) -> frozenset[NodeId]:
        active = self._present()
        return frozenset(leaf.owner for leaf in active.value.leaves) if active else frozenset()

    def _says(
        self,
        specification: Statement[Specification],
        defaults: Defaults,
        ridge: float,
        reason: str,
        *,
        is_trial: bool = False,
    ) -> Signable:
        return Signable(
            specification=specification.value,
            specification_digest=specification.digest,
            combinations=defaults.combinations,
            served=defaults.served,
            ridge=ridge,
            reason=reason,
            evidence=NO_EVIDENCE,
            is_trial=is_trial,
        )

    async def _activate(
        self, candidate: Candidate, says: Signable, specification: Statement[Specification]
    ) -> ContributionOutcome:
        parts = self._parts
        envelope = await self._publication.sign(candidate, says, may_publish_later=not says.evidence)
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
            reason=says.reason,
        )
        parts.activated()
        return ContributionOutcome(state="activated", gate_version=active.version, reason=says.reason)
