"""Growth by proposals (docs/adr/0012): who may propose what, who carries it out, and when that ends."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from coordinator.growth_checks import check_caller
from coordinator.growth_lineage import descends_from_withdrawn
from coordinator.growth_making import BY_POLICY, GrowthParts, ProposalMaker
from coordinator.growth_orders import give_order
from coordinator.growth_watch import PATIENCE_S, SILENCE_S, AbandonedProposals
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, SwarmError, UnreachableError
from swarm.domain.growth import POLICIES, POLICY, GrowthPolicy, GrowthReport, Proposal, ProposalKind
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.membership import Caller
from swarm.fault_points import reached
from swarm.gating.growth import CANCELLED, LEAF_SAMPLES, NOT_NOW, Intention

_T = TypeVar("_T")
log = structlog.get_logger()


class Growth:
    """Implements `GrowthPort`. What changes the gate is the keeper's and `GrowthChanges`'."""

    def __init__(
        self, parts: GrowthParts, *, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S
    ) -> None:
        self._parts, self._book, self._maker = parts, parts.book, ProposalMaker(parts)
        self._proposing = asyncio.Lock()
        self._retiring: set[str] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self.on_policy: Callable[[], None] = lambda: None
        """Called when another policy was set."""
        self._abandoned = AbandonedProposals(
            parts.book,
            parts.live,
            parts.clock,
            end=self._end,
            left_alone=self._retiring,
            catch_up=self._catch_up,
            patience_s=patience_s,
            silence_s=silence_s,
        )

    # GrowthPort

    async def propose(
        self,
        caller: Caller,
        kind: ProposalKind,
        experts: Sequence[ExpertId],
        options: Mapping[str, str],
        gate_version: int,
        key: str,
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        """Record a proposal and give it to its owner, even when the caller goes away; what it refuses changes
        nothing.

        An operator may propose everything, a node what concerns its own experts, and the owner of a withdrawn
        expert that what came from it is trained anew. `owner` and `regions` are an add's: whose it is, and
        the prototypes that it is to have in common with others. Raises ConflictError for another gate than
        the present one and for an expert or owner with an open proposal, NotFoundError for an expert without
        a leaf, InvalidInputError for too few samples, NotReadyError while the owner is away. An owner that
        refuses its order ends the proposal, which is returned as failed with its words.
        """
        name = f"propose:{caller.id}:{key}" if key else ""

        async def made() -> Proposal:
            async with self._proposing:
                known = await self._parts.store.recall(name) if name else None
                if known is not None:
                    return self._book.get(known)
                proposal = await self._maker.made(
                    caller, kind, tuple(experts), options, gate_version, owner=owner, regions=regions
                )
                await self._book.add(proposal)
                await self._remember(name, proposal.id)
            reached("coordinator.growth.remembered")
            if not self._parts.changes.is_retirement(proposal):
                return await self._order(proposal, regions)
            self._retiring.add(proposal.id)
            self._begin(self._retire(proposal.id), "retire an owner")
            return proposal

        return await self._alone(made(), "propose")

    async def proposals(self, proposal: str) -> list[Proposal]:
        """Return all proposals, newest first, or the one of that id; NotFoundError where there is none."""
        return [self._book.get(proposal)] if proposal else self._book.all()

    async def report(self, caller: Caller, report: GrowthReport, key: str) -> Proposal:
        """Take note of what an owner says; return what became of the proposal, which may have ended."""
        known = self._book.get(report.proposal)
        if caller.id != known.owner:
            check_caller(caller, known.owner, known.subject)
        if known.has_ended:
            return known
        if report.stage == "failed":
            return await self._end(known.id, f"{known.owner} could not carry it out: {report.reason[:300]}")
        if report.stage == "trained" and known.kind == "retrain":
            return await self._trained_anew(known)
        if report.stage == "started" and report.reason:
            await self._parts.journal.record(
                "growth.withdrew_unused", proposal=known.id, owner=known.owner, reason=report.reason[:300]
            )
        if known.state == "open":
            return await self._book.change(known.id, "working", self._parts.clock())
        return await self._book.touch(known.id, self._parts.clock())

    async def cancel(self, caller: Caller, proposal: str, key: str) -> Proposal:
        """End a proposal; what it changed is rolled back. ConflictError where it has ended already."""
        name = f"cancel:{caller.id}:{key}" if key else ""
        known = self._book.get(proposal)
        if name and await self._parts.store.recall(name) == proposal:
            return known
        if known.by == POLICY or caller.id != known.by:  # a node may be called so from of old
            check_caller(caller, known.owner, known.subject)
        by_hand = {CANCELLED: 1.0}
        ended = await self._parts.keeper.end_growth(proposal, f"cancelled by {caller.id}", by_hand)
        await self._remember(name, proposal)
        return ended

    async def policy(self, policy: str, key: str) -> GrowthPolicy:
        """Return the policy of growth, after changing it (empty: as it is)."""
        settings = self._parts.settings
        if policy and policy != settings.policy:
            wanted = next((each for each in POLICIES if each == policy), None)
            if wanted is None:
                raise InvalidInputError("growth", found=policy[:40], expected=" or ".join(POLICIES))
            await asyncio.to_thread(settings.set, wanted)
            await self._parts.journal.record("growth.policy", policy=wanted)
            self.on_policy()
        return settings.policy

    # Of its own accord

    async def propose_by_policy(
        self,
        intention: Intention,
        gate_version: int,
        regions: bytes = b"",
    ) -> Proposal:
        """Propose what the policy found, as `propose` does; a retirement is carried out before it returns."""
        owner = intention.owner if intention.kind == "add" else None

        async def made() -> Proposal:
            async with self._proposing:
                proposal = await self._maker.made(
                    BY_POLICY,
                    intention.kind,
                    intention.experts,
                    {},
                    gate_version,
                    owner=owner,
                    regions=regions,
                )
                found = {LEAF_SAMPLES: float(intention.samples)} if intention.samples else {}
                evidence = {**proposal.evidence, **found}
                await self._book.add(replace(proposal, why=intention.reason, evidence=evidence))
            if not self._parts.changes.is_retirement(proposal):
                return await self._order(proposal, regions)
            self._retiring.add(proposal.id)
            await self._retire(proposal.id)
            return self._book.get(proposal.id)

        return await self._alone(made(), "propose by policy")

    async def run(self) -> None:
        """End what nobody carries out any more, until cancelled."""
        await self._abandoned.run()

    async def stop(self) -> None:
        """End what is under way, as a crash would."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # How

    async def _order(self, proposal: Proposal, regions: bytes = b"") -> Proposal:
        """Give a proposal to its owner; its refusal ends it."""
        try:
            await give_order(proposal, regions, self._parts.live)
        except ConflictError as error:
            if proposal.by != POLICY:
                return await self._end(proposal.id, f"{proposal.owner} did not take it: {error}")
            reason = f"{proposal.owner} could not take it just now, and is asked again soon: {error}"
            return await self._end(proposal.id, reason, {NOT_NOW: 1.0})
        except SwarmError as error:
            return await self._end(proposal.id, f"{proposal.owner} did not take it: {error}")
        reached("coordinator.growth.ordered")
        known = self._book.get(proposal.id)
        if known.state != "open":  # it was faster than its reply
            return known
        return await self._book.change(
            known.id, "working", self._parts.clock(), f"{known.owner} carries it out"
        )

    async def _retire(self, id: str) -> None:
        try:
            await self._parts.keeper.retire(id)
        except SwarmError as error:
            await self._end(id, str(error))
        finally:
            self._retiring.discard(id)

    async def _catch_up(self) -> None:
        if self._parts.changes.is_behind:
            await self._parts.keeper.follow_gate()

    async def _trained_anew(self, proposal: Proposal) -> Proposal:
        """Accept what does not descend from a withdrawn version any more; without a registry, on its word."""
        for expert in proposal.experts:
            try:
                descends = await descends_from_withdrawn(self._parts.registry, expert)
            except (UnreachableError, NotFoundError) as error:
                log.warning("growth.lineage_unknown", proposal=proposal.id, reason=str(error))
                continue
            if descends:
                return await self._end(proposal.id, f"{descends} still descends from a withdrawn version")
        count = len(proposal.experts)
        which = proposal.experts[0] if count == 1 else f"each of {count} experts"
        return await self._book.change(
            proposal.id, "accepted", self._parts.clock(), f"{which} was trained anew"
        )

    async def _end(self, id: str, reason: str, evidence: Mapping[str, float] | None = None) -> Proposal:
        """End a proposal that came to nothing; one that has ended meanwhile stays as it is."""
        try:
            return await self._parts.keeper.end_growth(id, reason, evidence)
        except ConflictError:
            known = self._book.get(id)
            if not known.has_ended:
                raise
            return known

    async def _remember(self, name: str, id: str) -> None:
        """Remember by name (empty: not at all) which proposal it was about, so that the same call again finds
        it. Where the store is away nothing is undone for it."""
        if not name:
            return
        try:
            await self._parts.store.remember(name, id)
        except SwarmError as error:
            log.warning("growth.not_remembered", proposal=id, reason=str(error))

    async def _alone(self, work: Coroutine[Any, Any, _T], name: str) -> _T:
        """Do work to its end, whether or not its caller stays."""
        return await asyncio.shield(self._begin(work, name))

    def _begin(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Its caller may be gone; looking at the error keeps it from being reported as forgotten.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("growth.not_done", task=task.get_name(), reason=str(error))
