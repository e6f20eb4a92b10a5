"""Growth by proposals (docs/adr/0012): who may propose what, who carries it out, and when that ends."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from coordinator.gate_keeper import GateKeeper
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_adds import checked_add
from coordinator.growth_book import GrowthBook
from coordinator.growth_changes import POLICY, GrowthChanges
from coordinator.growth_checks import (
    check_caller,
    check_counts,
    check_free,
    check_retrained,
    check_version,
    leaves_for,
    owner_for,
    samples_of,
)
from coordinator.growth_lineage import LineageRegistry, came_from_withdrawn, descends_from_withdrawn
from coordinator.growth_orders import give_order
from coordinator.growth_settings import GrowthSettings
from coordinator.growth_watch import PATIENCE_S, SILENCE_S, AbandonedProposals
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.specifications import Specifications
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
    GrowthPolicy,
    GrowthReport,
    Proposal,
    ProposalKind,
    checked_options,
)
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.membership import Caller
from swarm.gating.growth import LEAF_SAMPLES, Intention
from swarm.registry.store import MetadataStore

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
        self.on_policy: Callable[[], None] = lambda: None
        """Called when another policy was set."""
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
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        """Record a proposal and give it to its owner; what it refuses changes nothing.

        An operator may propose everything, a node what concerns its own experts, and the owner of a withdrawn
        expert that what came from it is trained anew. `owner` and `regions` are an add's: whose it is, and
        the prototypes that it is to have in common with others. Raises ConflictError for another gate than
        the present one and for an expert or owner with an open proposal, NotFoundError for an expert without
        a leaf, InvalidInputError for too few samples, NotReadyError while the owner is away. An owner that
        refuses its order ends the proposal, which is returned as failed with its words.
        """
        name = f"propose:{caller.id}:{key}" if key else ""
        async with self._proposing:
            known = await self._parts.store.recall(name) if name else None
            if known is not None:
                return self._book.get(known)
            proposal = await self._proposal(
                caller, kind, tuple(experts), options, gate_version, owner=owner, regions=regions
            )
            await self._book.add(proposal)
            if name:
                await self._parts.store.remember(name, proposal.id)
        if self._parts.changes.is_retirement(proposal):
            self._retiring.add(proposal.id)
            self._begin(self._retire(proposal.id), "retire an owner")
            return proposal
        return await self._order(proposal, regions)

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
        owner, experts = intention.owner if intention.kind == "add" else None, intention.experts
        async with self._proposing:
            proposal = await self._proposal(
                _POLICY, intention.kind, experts, {}, gate_version, by=POLICY, owner=owner, regions=regions
            )
            found = {LEAF_SAMPLES: float(intention.samples)} if intention.samples else {}
            noted = replace(proposal, why=intention.reason, evidence={**proposal.evidence, **found})
            await self._book.add(noted)
        if self._parts.changes.is_retirement(proposal):
            self._retiring.add(proposal.id)
            await self._retire(proposal.id)
            return self._book.get(proposal.id)
        return await self._order(proposal, regions)

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
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        """Return a proposal that may be made now; see `propose` for the refusals."""
        parts, chosen = self._parts, checked_options(kind, options)
        owner = owner_for(kind, experts, caller, owner)
        subject = f"{kind} of {' and '.join(experts) or owner}"
        if caller is not _POLICY:
            await self._check_caller(caller, kind, experts, owner, subject)
        gate = parts.publication.required().value
        check_version(gate, gate_version)
        if kind == "retrain":
            check_retrained(gate, experts, [each for each in experts if parts.heads.get(each) is not None])
        else:
            leaves_for(gate, experts)
        check_free(self._book.open(), experts, owner)
        given = next((each for each in await parts.records.present() if each.value.owner == owner), None)
        specification, evidence = parts.specifications.current.value, dict[str, float]()
        if kind == "add":
            was_here = owner in parts.live.seen
            own = given.value if given is not None else None
            evidence = checked_add(owner, own, chosen, regions, specification, was_here=was_here)
        if given is not None:
            check_counts(kind, experts, given.value, specification)
            evidence[LEAF_SAMPLES] = float(samples_of(experts, given.value))
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
            evidence=evidence,
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
        if is_others and await came_from_withdrawn(self._parts.registry, experts, caller.id):
            return
        check_caller(caller, owner, subject)

    async def _order(self, proposal: Proposal, regions: bytes = b"") -> Proposal:
        """Give a proposal to its owner; its refusal ends it."""
        try:
            await give_order(proposal, regions, self._parts.live)
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
