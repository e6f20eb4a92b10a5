"""The gate's keeper: contributions in, signed gate versions out. One change at a time.

Before a version counts only content-addressed files are written, so a crash at any point leaves the old
gate or the new one. Which contributions count is what the newest gate's statement lists.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from coordinator.aside import AsideContributions
from coordinator.contribution_intake import ContributionIntake
from coordinator.contributions import ContributionFiles
from coordinator.gate_making import GateMaker
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_changes import GrowthChanges
from coordinator.growth_return import ReturningOwners
from coordinator.heads import Heads
from coordinator.judgements import Judgements
from coordinator.specifications import Specifications
from swarm.answering.active_gate import ActiveGate
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, HarmfulContributionError, NotReadyError, UnreachableError
from swarm.domain.gates import GateChange, GateHistory
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.membership import Caller, ContributionOutcome
from swarm.trust.statements import read_statement

QUIET_S = 2.0
"""New corrections are tried together once none came for so long."""
LATEST_S = 10.0
"""However many more come, the first one waits no longer than this."""
AGAIN_S = 60.0
"""Where nobody could try them, they are tried again after so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParts:
    """What the keeper works with; `changing` is held by whoever changes the gate."""

    heads: Heads
    specifications: Specifications
    contributions: ContributionFiles
    aside: AsideContributions
    publication: GatePublication
    records: GateRecords
    intake: ContributionIntake
    maker: GateMaker
    judgements: Judgements
    growth: GrowthChanges
    returning: ReturningOwners
    changing: asyncio.Lock


_T = TypeVar("_T")
log = structlog.get_logger()


class GateKeeper:
    """Implements `GatePort`. Changes run to their end even when their caller goes away."""

    def __init__(self, parts: GateParts) -> None:
        self._parts, self._publication, self._records = parts, parts.publication, parts.records
        self._changing = parts.changing
        self._running: set[asyncio.Task[Any]] = set()
        self._fit_soon: asyncio.TimerHandle | None = None
        self._first_untried = 0.0

    @property
    def active(self) -> ActiveGate | None:
        """The gate that queries are routed by; None before the first."""
        return self._publication.active

    async def contribute(
        self, caller: Caller, envelope: bytes, arrays: AsyncIterator[bytes], fence: int, key: str
    ) -> ContributionOutcome:
        """Take an owner's contribution into the gate, replacing its last one.

        What comes while another one is judged is judged together with its like; where they harm somebody
        together, each alone. Raises HarmfulContributionError where an incumbent would lose, and the named
        refusals of `coordinator.contribution_checks`; the old gate stays then.
        """
        name = f"contribute:{caller.id}:{key}" if key else ""
        outcome = await self._parts.intake.take(caller, envelope, arrays, fence, name)
        proposal = read_statement(envelope, Contribution).value.proposal
        if outcome.state == "refused" and proposal:
            raise HarmfulContributionError(
                f"contribution of {caller.id} for proposal {proposal}",
                found=outcome.reason,
                expected="to beat what it replaces by more than one standard error, and to harm nobody",
                remedy="the gate is as before, the experts stay on their machine; see: swarm gate proposals",
            )
        if outcome.state == "refused":
            raise HarmfulContributionError(
                f"contribution of {caller.id}",
                found=outcome.reason,
                expected="no incumbent to lose more than chance explains and a fair share costs",
                remedy="train longer or on cleaner labels, then contribute again; its sums, if any, are"
                " kept aside meanwhile for askers whose examples agree with them",
            )
        return outcome

    async def contribution(self, caller: Caller, digest: Digest) -> tuple[bytes, memoryview]:
        """Return a contribution that the caller gave, what it signed and its arrays; NotFoundError where no
        such one is kept. Nobody else gets it."""
        return await asyncio.to_thread(self._parts.contributions.given_by, caller.id, digest)

    async def gate(self, version: int) -> bytes:
        """Return a version's signed statement, the newest for 0."""
        if version == 0:
            return self._publication.required().envelope
        return self._publication.files.statement(version).envelope

    async def history(self, before: int, limit: int) -> GateHistory:
        """Return a page of the versions' signed statements: the newest below `before` (0: of all)."""
        files, current = self._publication.files, self._publication.version
        return await asyncio.to_thread(files.history, current, before, limit)

    async def rollback(self, version: int, key: str) -> bytes:
        """Make a new version with the content of an older one; owners that left meanwhile stay away."""
        name = f"rollback:{key}" if key else ""
        outcome = await self._change(name, lambda: self._rollback(version))
        return self._publication.files.statement(outcome.gate_version).envelope

    async def fit(self, key: str) -> ContributionOutcome:
        """Choose ridge and combinations anew, with all corrections that there are."""
        return await self._change(f"fit:{key}" if key else "", self._fit)

    async def end_growth(self, id: str, reason: str, evidence: Mapping[str, float] | None = None) -> Proposal:
        """End a proposal that came to nothing, and undo what it changed; ConflictError where it has ended."""
        return await self._alone(lambda: self._parts.growth.end(id, reason, evidence), "end a proposal")

    async def retire(self, id: str) -> None:
        """Carry out a proposal to remove all that an owner has in the gate."""
        await self._alone(lambda: self._parts.growth.retire(id), "retire an owner")

    async def readmit(self, owner: NodeId) -> ContributionOutcome:
        """Judge anew what is kept of an owner that was retired and is here again."""
        return await self._alone(lambda: self._parts.returning.readmit(owner), "take an owner in again")

    async def follow_gate(self, *, at_start: bool = False) -> None:
        """Bring the records of proposals up to the gate, as after a crash."""
        await self._alone(lambda: self._parts.growth.reconcile(at_start=at_start), "follow the gate")

    async def withdraw_owner(self, owner: NodeId, reason: str) -> int:
        """Return the version of a gate without owner, made where there is none; forget its contributions."""
        outcome = await self._change("", lambda: self._withdraw(owner, reason))
        return outcome.gate_version

    async def drop_withdrawn(self) -> None:
        """Make a gate without the leaves of withdrawn experts, where the active one has some."""
        if self._withdrawn_experts():
            await self._change("", self._drop_withdrawn)

    def notice_withdrawal(self) -> None:
        """Begin `drop_withdrawn` and do not wait: a trial under way may hold the gate for a while."""
        self._begin(self.drop_withdrawn(), "drop withdrawn experts")

    def notice_head(self, expert: ExpertId) -> None:
        """Fit the gate anew, soon, where a leaf's expert has a correction that no trial knew yet."""
        if expert not in self._untried_corrections():
            return
        loop = asyncio.get_running_loop()
        first = self._first_untried or loop.time()
        self._forget_timer()
        self._first_untried = first
        self._fit_soon = loop.call_at(min(loop.time() + QUIET_S, first + LATEST_S), self._fit_corrections)

    async def synchronise(self) -> None:
        """Bring store and registry up to our newest gate, or ours up to the store's."""
        async with self._changing:
            await self._publication.synchronise()

    async def stop(self) -> None:
        """End changes that are under way, as a crash would: their callers try again."""
        self._forget_timer()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, self._parts.intake.stop(), return_exceptions=True)

    # Changes; all run under the lock.

    async def _fit(self) -> ContributionOutcome:
        self._publication.required()
        await self._parts.heads.refresh()
        self._forget_timer()  # this trial knows what it waits for
        reason = "fitted anew"
        present = await self._records.present()
        specification = self._parts.specifications.serving(each.value for each in present)
        outcome = await self._parts.maker.judge_and_activate(present, specification, reason, kind="fit")
        if outcome.state == "refused":
            await self._records.record_refusal(outcome, reason)
        return outcome

    async def _rollback(self, version: int) -> ContributionOutcome:
        older = self._publication.files.statement(version).value
        await self._records.check_kept(older, f"rollback to gate {version}")
        kept = [digest for digest in older.contributions if self._parts.contributions.has(digest)]
        gone = len(older.contributions) - len(kept)
        reason = f"rollback to gate {version}" + (
            f", without {gone} owner{'s' * (gone > 1)} that left" if gone else ""
        )
        statements, change = await self._records.statements(kept), GateChange(kind="rollback")
        absent = {leaf.owner for leaf in older.leaves} - {each.value.owner for each in statements}
        on_trial = sorted(owner for owner in absent if not self._parts.heads.has_left(owner))
        if on_trial:
            raise ConflictError(
                f"rollback to gate {version}",
                found=f"exact copies of {' and '.join(on_trial)} that were on trial then, and are gone",
                expected="a version without a split on trial",
                remedy="take the one before it or after it: swarm gate history",
            )
        outcome = await self._parts.maker.activate_as_is(statements, older, reason, change)
        try:
            await self._parts.growth.reconcile()
        except OSError as error:  # the gate counts; records that cannot be written follow it later
            log.error("growth.not_in_step", reason=str(error))
        return outcome

    async def _withdraw(self, owner: NodeId, reason: str) -> ContributionOutcome:
        present = await self._records.present()
        others = [each for each in present if each.value.owner != owner]
        outcome = self._records.unchanged("not in the gate")
        if len(others) < len(present):
            like = self._publication.required().value
            outcome = await self._parts.maker.activate_as_is(
                others, like, f"{owner} left: {reason}", GateChange(kind="withdraw")
            )
        await self._parts.growth.forget_owner(owner, reason, outcome.gate_version)
        await self._parts.aside.drop(owner)
        await self._parts.judgements.forget(owner)
        await asyncio.to_thread(self._parts.contributions.remove_owner, owner)
        return outcome

    def _withdrawn_experts(self) -> list[ExpertId]:
        leaves = self.active.value.leaves if self.active is not None else ()
        return [leaf.expert for leaf in leaves if self._parts.heads.is_withdrawn(leaf.expert)]

    async def _drop_withdrawn(self) -> ContributionOutcome:
        gone = ", ".join(self._withdrawn_experts())
        if not gone:
            return self._records.unchanged("not in the gate")
        like = self._publication.required().value
        return await self._parts.maker.activate_as_is(
            await self._records.present(), like, f"{gone} withdrawn", GateChange(kind="withdraw")
        )

    def _untried_corrections(self) -> set[ExpertId]:
        """Return the experts of leaves with columns that have a correction which no trial knew."""
        active, parts = self.active, self._parts
        if active is None or active.analytic is None:
            return set()
        heads = {
            leaf.expert: parts.heads.get(leaf.expert)
            for leaf in active.value.leaves
            if leaf.has_columns and not leaf.manifest  # what a pin keeps out is tried with its proposal
        }
        return {
            expert
            for expert, head in heads.items()
            if head is not None
            and head.manifest.correction is not None
            and parts.maker.judged.get(expert) != head.digest
        }

    def _forget_timer(self) -> None:
        if self._fit_soon is not None:
            self._fit_soon.cancel()
        self._fit_soon, self._first_untried = None, 0.0

    def _fit_corrections(self) -> None:
        self._forget_timer()
        self._begin(self._change("", self._fit_to_corrections), "fit the gate to new corrections")

    async def _fit_to_corrections(self) -> ContributionOutcome:
        if not self._untried_corrections():  # a change that was under way has tried them
            return self._records.unchanged("no new corrections")
        try:
            return await self._fit()
        except (NotReadyError, UnreachableError):
            self._fit_soon = asyncio.get_running_loop().call_later(AGAIN_S, self._fit_corrections)
            raise

    async def _change(
        self, name: str, work: Callable[[], Coroutine[Any, Any, ContributionOutcome]]
    ) -> ContributionOutcome:
        """Run work under the lock, once per name (empty: always), whether or not its caller stays."""

        async def once() -> ContributionOutcome:
            outcome = await self._records.recalled(name)
            if outcome is None:
                outcome = await work()
                await self._records.remember(name, outcome)
            return outcome

        return await self._alone(once, "change the gate")

    async def _alone(self, work: Callable[[], Coroutine[Any, Any, _T]], name: str) -> _T:
        """Run work under the lock, whether or not its caller stays."""

        async def locked() -> _T:
            async with self._changing:
                return await work()

        return await asyncio.shield(self._begin(locked(), name))

    def _begin(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Its caller may be gone; looking at the error keeps it from being reported as forgotten.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("gate.unchanged", reason=str(error))
