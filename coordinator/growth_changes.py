"""What proposals change in the gate: taken in, decided, undone. The gate's versions name their proposals.

A record follows the gate and never the other way round: what a crash left between them is made up for by
`reconcile`. All of this runs while nothing else changes the gate, `check` excepted.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from coordinator.contributions import ContributionFiles
from coordinator.gate_making import GateMaker
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_benefit import Wanted
from coordinator.growth_book import GrowthBook, has_ended
from coordinator.growth_following import GateFollowing, Given, given_by
from coordinator.growth_split import ExactSplits
from coordinator.growth_trial import GrowthTrial, Judged
from coordinator.specifications import Specifications
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, InvalidInputError, SwarmError
from swarm.domain.gates import ChangeKind, GateChange
from swarm.domain.growth import Proposal, ProposalKind, ProposalState
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import ContributionOutcome
from swarm.fault_points import reached

DECIDES: Mapping[ProposalKind, ChangeKind] = {
    "split": "settle",
    "add": "add",
    "merge": "merge",
    "remove": "remove",
}
"""The kind of change by which a proposal of each kind is decided."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeParts:
    """What changes are made with."""

    book: GrowthBook
    records: GateRecords
    publication: GatePublication
    specifications: Specifications
    contributions: ContributionFiles
    maker: GateMaker
    trial: GrowthTrial
    splits: ExactSplits
    clock: Callable[[], float]


class GrowthChanges:
    """Contributions that carry a proposal out, and the way back."""

    def __init__(self, parts: ChangeParts) -> None:
        self._parts, self.book, self._clock = parts, parts.book, parts.clock
        self._following = GateFollowing(parts.book, parts.records, parts.publication, parts.clock)
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """Whether a record could not be written when its gate came; `reconcile` makes up for it."""
        return self._is_behind

    def check(self, contribution: Contribution, present: Sequence[Given]) -> Proposal | None:
        """Return the proposal that a contribution carries out, None where it is an ordinary one.

        Raises ConflictError for one that is unknown, has ended or was given to somebody else, and for an
        ordinary contribution that would undo a split on its way without a word.
        """
        mine, subject = given_by(contribution.owner, present), f"contribution of {contribution.owner}"
        if contribution.proposal:
            found = self.book.find(contribution.proposal)
            if found is None or found.owner != contribution.owner:
                raise ConflictError(
                    f"{subject} for proposal {contribution.proposal[:20]!r}",
                    found="no such proposal" if found is None else f"one that was given to {found.owner}",
                    expected="a proposal of its own",
                    remedy="list them: swarm gate proposals",
                )
            if found.has_ended:
                raise ConflictError(
                    f"{subject} for the {found.subject}",
                    found=has_ended(found),
                    expected="a proposal that has not ended",
                    remedy="nothing is lost: propose anew, or contribute without a proposal",
                )
            if found.kind not in DECIDES:
                raise ConflictError(
                    f"{subject} for the {found.subject}",
                    found="a proposal that changes no gate",
                    expected="a contribution without a proposal",
                )
            return found
        under_way = self.book.find(mine.value.proposal) if mine is not None else None
        if under_way is not None and not under_way.has_ended:
            raise ConflictError(
                f"{subject}, epoch {contribution.epoch}",
                found=f"{' and '.join(under_way.experts)} was split by {under_way.id}, not decided yet",
                expected=f"the contribution that carries {under_way.id} out",
                remedy=f"contribute again once it has ended, or end it: swarm gate cancel {under_way.id}",
            )
        return None

    async def judge(self, statement: Given) -> ContributionOutcome:
        """Return what became of a stored contribution that names a proposal.

        A split's first one is taken in as it is; what comes to change answers is tried. Where that does not
        pay or harms, what came in before is undone. Raises InvalidInputError for a split that is not exact,
        which ends the proposal, and NotReadyError where nobody could try, which does not.
        """
        present = await self._parts.records.present()
        proposal = self.check(statement.value, present)
        assert proposal is not None, "the caller looked"
        mine = given_by(proposal.owner, present)
        others = [each for each in present if each is not mine]
        if proposal.kind == "split" and (mine is None or mine.value.proposal != proposal.id):
            return await self._take_split(proposal, statement, mine, others)
        return await self._decide(
            proposal,
            [*others, statement],
            f"{proposal.subject}, epoch {statement.value.epoch}",
            kind=DECIDES[proposal.kind],
            untouched=others if mine is not None else None,
            saves=mine is not None and len(statement.value.leaves) < len(mine.value.leaves),
        )

    async def retire(self, id: str) -> None:
        """Make a gate without an owner that stays a member: its contribution is kept, and may return."""
        proposal = self.book.unended(id)
        present = await self._parts.records.present()
        others = [each for each in present if each.value.owner != proposal.owner]
        await self._decide(proposal, others, proposal.subject, kind="retire", untouched=None, saves=True)

    async def end(self, id: str, reason: str, evidence: Mapping[str, float] | None = None) -> Proposal:
        """End a proposal that came to nothing, and undo what it changed; ConflictError where it has ended,
        be it that its record does not say so yet. `evidence` says how, besides."""
        await self._following.follow(self.book.unended(id))
        proposal = self.book.unended(id)
        if evidence:
            proposal = await self.book.change(id, proposal.state, self._clock(), evidence=evidence)
        return await self._undo(proposal, "failed", reason)

    async def forget_owner(self, owner: NodeId, reason: str, gate_version: int) -> None:
        """End the proposal of an owner that has just been taken out of the gate."""
        proposal = self.book.open_of(owner)
        if proposal is not None:
            came_in = bool(proposal.gate_versions)
            await self._note(
                proposal,
                "rolled-back" if came_in else "failed",
                f"{owner} left: {reason}",
                gate_version=gate_version if came_in else 0,
            )

    async def reconcile(self, *, at_start: bool = False) -> None:
        """Bring the records up to the gate: after a rollback to an older version, and after a crash.

        `at_start`: an order that nobody may have got is void, and what was on trial is to be tried again.
        """
        was_behind, self._is_behind = self._is_behind, True
        for proposal in reversed(self.book.open()):
            await self._following.follow(proposal)
            now = self.book.get(proposal.id)
            if now.has_ended:
                continue
            if at_start and (now.state == "open" or self.is_retirement(now)):
                await self._change(now, "failed", "the coordinator stopped before it was carried out")
            elif now.state == "trying":  # nothing is tried now, for nothing changes the gate beside this
                await self._change(now, "working", "its trial was cut short")
        await self._following.mark_undone()
        self._is_behind = False
        if at_start or was_behind:
            await self._forget_copies()

    def is_retirement(self, proposal: Proposal) -> bool:
        """Return whether a proposal removes all that an owner has in the gate: that takes no work of it."""
        active = self._parts.publication.active
        if proposal.kind != "remove" or active is None:
            return False
        own = {leaf.expert for leaf in active.value.leaves if leaf.owner == proposal.owner}
        return own <= set(proposal.experts)

    # How

    async def _take_split(
        self, proposal: Proposal, statement: Given, mine: Given | None, others: Sequence[Given]
    ) -> ContributionOutcome:
        specification = self._parts.specifications.current.value
        try:
            if mine is None:
                raise ConflictError(
                    proposal.subject, found=f"no contribution of {proposal.owner} in the gate"
                )
            await self._parts.splits.check(proposal, mine, statement, specification.min_leaf_count)
        except (InvalidInputError, ConflictError) as error:
            await self._change(proposal, "refused", str(error))
            raise
        await self.book.touch(proposal.id, self._clock(), before=mine.digest)
        judged = await self._parts.trial.activate_as_is(
            [*others, statement], f"{proposal.subject}: exact copies", kind="split", proposal=proposal.id
        )
        await self._note(proposal, "working", "its exact copies answer until it is decided", judged)
        return judged.outcome

    async def _decide(
        self,
        proposal: Proposal,
        contributions: Sequence[Given],
        reason: str,
        *,
        kind: ChangeKind,
        untouched: Sequence[Given] | None,
        saves: bool,
    ) -> ContributionOutcome:
        trial, is_wish = self._parts.trial, proposal.is_wish
        if kind == "retire" and is_wish:  # nothing comes in, so nothing can harm
            judged = await trial.activate_as_is(contributions, reason, kind=kind, proposal=proposal.id)
            await self._note(proposal, "accepted", f"as {proposal.owner} wishes", judged)
            return judged.outcome
        await self._change(proposal, "trying", "the nodes judge it")
        try:
            judged = await trial.judge_and_activate(
                contributions,
                reason,
                kind=kind,
                proposal=proposal.id,
                wanted=_wanted(kind, is_wish=is_wish, saves=saves),
                untouched=untouched,
            )
        except Exception as error:
            self._is_behind = True  # where its gate came all the same, that counts
            await self._note(proposal, "working", f"not tried yet: {error}")
            raise
        if judged.outcome.state == "activated":
            await self._note(proposal, "accepted", judged.benefit.reason, judged)
            await self._forget_copies()
            return judged.outcome
        ended = await self._undo(proposal, "refused", judged.outcome.reason, judged)
        version = ended.gate_versions[-1] if ended.state == "rolled-back" else judged.outcome.gate_version
        return ContributionOutcome(state="refused", gate_version=version, reason=judged.outcome.reason)

    async def _undo(
        self, proposal: Proposal, otherwise: ProposalState, reason: str, judged: Judged | None = None
    ) -> Proposal:
        """Go back to the owner's contribution of before, as a new version, where the proposal came in; else
        end it in the state `otherwise`. The others are as they are now."""
        present = await self._parts.records.present()
        mine = given_by(proposal.owner, present)
        if mine is None or mine.value.proposal != proposal.id:
            return await self._change(proposal, otherwise, reason, judged)
        before = Digest(proposal.before)
        has_before = self._parts.contributions.has(before)
        back = await self._parts.records.statements([before] if has_before else [])
        if not has_before:
            reason += f"; what {proposal.owner} had contributed before is gone, so it is left out of the gate"
        outcome = await self._parts.maker.activate_as_is(
            [*(each for each in present if each is not mine), *back],
            self._parts.publication.required().value,
            f"{proposal.subject} rolled back: {reason}",
            GateChange(kind="rollback", proposal=proposal.id),
        )
        ended = await self._note(proposal, "rolled-back", reason, judged, gate_version=outcome.gate_version)
        await self._forget_copies()
        return ended

    async def _forget_copies(self) -> None:
        """Forget the contributions of exact copies whose trial is over: nobody returns to them."""
        present = set(self._parts.records.digests)

        def forget() -> None:
            for digest in self._parts.contributions.pinned() - present:
                found = self.book.find(self._parts.contributions.statement(digest).value.proposal)
                if found is None or found.has_ended:
                    self._parts.contributions.remove(digest)

        try:
            await asyncio.to_thread(forget)
        except OSError as error:  # what it was called after counts all the same
            log.warning("growth.copies_kept", reason=str(error))
            self._is_behind = True

    async def _note(
        self,
        proposal: Proposal,
        state: ProposalState,
        reason: str,
        judged: Judged | None = None,
        *,
        gate_version: int = 0,
    ) -> Proposal:
        """Write down what became of a proposal. The gate says so already: where it cannot be written, by a
        full disk for instance, it counts all the same and is written later (`is_behind`)."""
        reached("coordinator.growth.gate_made")
        try:
            return await self._change(proposal, state, reason, judged, gate_version=gate_version)
        except (SwarmError, OSError) as error:
            log.error("growth.not_written", proposal=proposal.id, state=state, reason=str(error))
            self._is_behind = True
            versions = (gate_version,) if gate_version else ()
            ended = replace(proposal, gate_versions=(*proposal.gate_versions, *versions))
            return ended.now(state, self._clock(), reason)

    async def _change(
        self,
        proposal: Proposal,
        state: ProposalState,
        reason: str,
        judged: Judged | None = None,
        *,
        gate_version: int = 0,
    ) -> Proposal:
        benefit = judged.benefit if judged is not None else None
        activated = judged is not None and judged.outcome.state == "activated"
        version = judged.outcome.gate_version if judged is not None and activated else gate_version
        was_tried = benefit is not None and benefit.tried.samples > 0
        return await self.book.change(
            proposal.id,
            state,
            self._clock(),
            reason,
            evidence=benefit.evidence if benefit is not None and was_tried else None,
            cost=benefit.cost if benefit is not None else None,
            gate_version=version,
        )


def _wanted(kind: ChangeKind, *, is_wish: bool, saves: bool) -> Wanted:
    """Return what a change has to be good for. An owner may take away what is its own, but what it gives in
    the same contribution must harm nobody, as ever. A merge that leaves fewer experts to hold (`saves`) need
    only not be worse: that is what it is good for (docs/growth.md, Merging)."""
    if kind == "merge" and saves:
        return "no-loss"
    if kind not in ("remove", "retire"):
        return "gain"
    return "nothing" if is_wish else "no-loss"
