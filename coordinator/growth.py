"""Growth by proposals (docs/adr/0012): who may propose what, who carries it out, and when that ends."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from coordinator.gate_keeper import GateKeeper
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_book import GrowthBook
from coordinator.growth_changes import POLICY, GrowthChanges
from coordinator.growth_checks import (
    check_caller,
    check_counts,
    check_free,
    check_version,
    leaves_for,
    owner_for,
)
from coordinator.growth_lineage import LineageRegistry, descends_from_withdrawn, withdrawn_ancestors
from coordinator.growth_settings import GrowthSettings
from coordinator.growth_watch import PATIENCE_S, SILENCE_S, AbandonedProposals
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.specifications import Specifications
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    SwarmError,
    UnreachableError,
)
from swarm.domain.growth import (
    POLICIES,
    GrowthOrder,
    GrowthPolicy,
    GrowthReport,
    Proposal,
    ProposalKind,
    checked_options,
)
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.membership import Caller
from swarm.gating.growth import LEAF_SAMPLES
from swarm.registry.store import MetadataStore

ORDER_TIMEOUT_S = 20.0
_POLICY = Caller(role="coordinator", id=POLICY)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthParts:
    """What growth works with."""

    book: GrowthBook
    changes: GrowthChanges
    keeper: GateKeeper
    publication: GatePublication
    records: GateRecords
    specifications: Specifications
    heads: Heads
    live: LiveNodes
    store: MetadataStore
    journal: Journal
    registry: LineageRegistry
    settings: GrowthSettings
    clock: Callable[[], float]


class Growth:
    """Implements `GrowthPort`. What changes the gate is the keeper's and `GrowthChanges`'."""

    def __init__(
        self, parts: GrowthParts, *, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S
    ) -> None:
        self._parts, self._book = parts, parts.book
        self._proposing = asyncio.Lock()
        self._retiring: set[str] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._abandoned = AbandonedProposals(
            parts.book,
            parts.live,
            parts.clock,
            end=self._end,
            left_alone=self._retiring,
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
    ) -> Proposal:
        """Record a proposal and give it to its owner; what it refuses changes nothing.

        An operator may propose everything, a node what concerns its own experts, and the owner of a withdrawn
        expert that what came from it is trained anew. Raises ConflictError for another gate than the present
        one and for an expert or owner with an open proposal, NotFoundError for an expert without a leaf,
        InvalidInputError for too few samples, NotReadyError while the owner is away. An owner that refuses
        its order ends the proposal, which is returned as failed with its words.
        """
        name = f"propose:{caller.id}:{key}" if key else ""
        async with self._proposing:
            known = await self._parts.store.recall(name) if name else None
            if known is not None:
                return self._book.get(known)
            proposal = await self._proposal(caller, kind, tuple(experts), options, gate_version)
            await self._book.add(proposal)
            if name:
                await self._parts.store.remember(name, proposal.id)
        if self._parts.changes.is_retirement(proposal):
            self._retiring.add(proposal.id)
            self._begin(self._retire(proposal.id), "retire an owner")
            return proposal
        return await self._order(proposal)

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
        if known.state == "open":
            return await self._book.change(known.id, "working", self._parts.clock())
        return await self._book.touch(known.id, self._parts.clock())

    async def cancel(self, caller: Caller, proposal: str, key: str) -> Proposal:
        """End a proposal; what it changed is rolled back. ConflictError where it has ended already."""
        name = f"cancel:{caller.id}:{key}" if key else ""
        known = self._book.get(proposal)
        if name and await self._parts.store.recall(name) == proposal:
            return known
        if caller.id != known.by:
            check_caller(caller, known.owner, known.subject)
        ended = await self._parts.keeper.end_growth(proposal, f"cancelled by {caller.id}")
        if name:
            await self._parts.store.remember(name, proposal)
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
        return settings.policy

    # Of its own accord

    async def propose_by_policy(
        self,
        kind: ProposalKind,
        owner: NodeId,
        experts: Sequence[ExpertId],
        gate_version: int,
        reason: str,
    ) -> Proposal:
        """Propose what the policy found, as `propose` does; a retirement is carried out before it returns."""
        caller = Caller(role="node", id=owner) if not experts else _POLICY
        async with self._proposing:
            proposal = await self._proposal(caller, kind, tuple(experts), {}, gate_version, by=POLICY)
            await self._book.add(replace(proposal, why=reason))
        if self._parts.changes.is_retirement(proposal):
            self._retiring.add(proposal.id)
            await self._retire(proposal.id)
            return self._book.get(proposal.id)
        return await self._order(proposal)

    async def run(self) -> None:
        """End what nobody carries out any more, until cancelled."""
        await self._abandoned.run()

    async def stop(self) -> None:
        """End what is under way, as a crash would."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # How

    async def _proposal(
        self,
        caller: Caller,
        kind: ProposalKind,
        experts: tuple[ExpertId, ...],
        options: Mapping[str, str],
        gate_version: int,
        *,
        by: str = "",
    ) -> Proposal:
        """Return a proposal that may be made now; see `propose` for the refusals."""
        parts, chosen = self._parts, checked_options(kind, options)
        owner = owner_for(kind, experts, caller)
        subject = f"{kind} of {' and '.join(experts) or owner}"
        if caller is not _POLICY:
            await self._check_caller(caller, kind, experts, owner, subject)
        gate = parts.publication.required().value
        check_version(gate, gate_version)
        if kind != "retrain" or parts.heads.get(experts[0]) is None:
            leaves_for(gate, experts)
        check_free(self._book.open(), experts, owner)
        given = next((each for each in await parts.records.present() if each.value.owner == owner), None)
        if given is not None:
            check_counts(kind, experts, given.value, parts.specifications.current.value)
        now = parts.clock()
        proposal = Proposal(
            id=self._book.next_id(),
            kind=kind,
            experts=experts,
            owner=owner,
            gate_version=gate.version,
            by=by or caller.id,
            created_at=now,
            changed_at=now,
            options=chosen,
            evidence={LEAF_SAMPLES: float(_samples_of(experts, given.value))} if given is not None else {},
            before=given.digest if given is not None else "",
        )
        if parts.changes.is_retirement(proposal):
            if {leaf.owner for leaf in gate.leaves} <= {owner}:
                raise ConflictError(subject, found="the swarm's last leaves", expected="others that stay")
        elif parts.live.get(owner) is None:
            raise NotReadyError(
                subject,
                found=f"{owner} away",
                expected="its owner connected, for it carries the change out",
                remedy="see who is: swarm status; then propose again",
            )
        return proposal

    async def _check_caller(
        self, caller: Caller, kind: ProposalKind, experts: Sequence[ExpertId], owner: NodeId, subject: str
    ) -> None:
        is_others = kind == "retrain" and caller.role == "node" and caller.id != owner
        if is_others and caller.id in await withdrawn_ancestors(self._parts.registry, experts[0]):
            return
        check_caller(caller, owner, subject)

    async def _order(self, proposal: Proposal) -> Proposal:
        """Give a proposal to its owner; its refusal ends it."""
        order = GrowthOrder(
            proposal=proposal.id,
            kind=proposal.kind,
            experts=proposal.experts,
            gate_version=proposal.gate_version,
            before=proposal.before,
            options=proposal.options,
        )
        try:
            node = self._parts.live.get(proposal.owner)
            if node is None:
                raise UnreachableError(f"node {proposal.owner}", found="no stream")
            await node.link.carry_out(order, ORDER_TIMEOUT_S)
        except SwarmError as error:
            return await self._end(proposal.id, f"{proposal.owner} did not take it: {error}")
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

    async def _trained_anew(self, proposal: Proposal) -> Proposal:
        """Accept what does not descend from a withdrawn version any more; without a registry, on its word."""
        descends = ""
        try:
            descends = await descends_from_withdrawn(self._parts.registry, proposal.experts[0])
        except (UnreachableError, NotFoundError) as error:
            log.warning("growth.lineage_unknown", proposal=proposal.id, reason=str(error))
        if descends:
            return await self._end(proposal.id, f"{descends} still descends from a withdrawn version")
        return await self._book.change(
            proposal.id, "accepted", self._parts.clock(), f"{proposal.experts[0]} was trained anew"
        )

    async def _end(self, id: str, reason: str) -> Proposal:
        """End a proposal that came to nothing; one that has ended meanwhile stays as it is."""
        try:
            return await self._parts.keeper.end_growth(id, reason)
        except ConflictError:
            known = self._book.get(id)
            if not known.has_ended:
                raise
            return known

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _samples_of(experts: Sequence[ExpertId], contribution: Contribution) -> int:
    """Return how many samples these experts' leaves stand for."""
    own = [leaf for leaf in contribution.leaves if leaf.expert in experts]
    return sum(sum(leaf.class_counts.values()) for leaf in own)
