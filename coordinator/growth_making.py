"""Whether a proposal may be made now, and what is written down of it: looks only, and changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.gate_keeper import GateKeeper
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_adds import checked_add
from coordinator.growth_book import GrowthBook
from coordinator.growth_changes import GrowthChanges
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
from coordinator.growth_lineage import LineageRegistry, came_from_withdrawn
from coordinator.growth_settings import GrowthSettings
from coordinator.heads import Heads
from coordinator.journal import Journal
from coordinator.live_nodes import LiveNodes
from coordinator.specifications import Specifications
from swarm.domain.errors import ConflictError, NotReadyError
from swarm.domain.growth import POLICY, Proposal, ProposalKind, checked_options
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.membership import Caller
from swarm.gating.growth import LEAF_SAMPLES
from swarm.registry.store import MetadataStore

BY_POLICY = Caller(role="coordinator", id=POLICY)
"""The coordinator, as it proposes of its own accord."""


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


class ProposalMaker:
    """Makes the records of new proposals; the caller sees to it that it makes one at a time."""

    def __init__(self, parts: GrowthParts) -> None:
        self._parts = parts

    async def made(
        self,
        caller: Caller,
        kind: ProposalKind,
        experts: tuple[ExpertId, ...],
        options: Mapping[str, str],
        gate_version: int,
        *,
        owner: NodeId | None = None,
        regions: bytes = b"",
    ) -> Proposal:
        """Return a proposal that may be made now; see `Growth.propose` for the refusals."""
        parts, chosen = self._parts, checked_options(kind, options)
        owner = owner_for(kind, experts, caller, owner)
        subject = f"{kind} of {' and '.join(experts) or owner}"
        if caller is not BY_POLICY:
            await self._check_caller(caller, kind, experts, owner, subject)
        gate = parts.publication.required().value
        check_version(gate, gate_version)
        if kind == "retrain":
            check_retrained(gate, experts, [each for each in experts if parts.heads.get(each) is not None])
        else:
            leaves_for(gate, experts)
        check_free(self._parts.book.open(), experts, owner)
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
            id=self._parts.book.next_id(),
            kind=kind,
            experts=experts,
            owner=owner,
            gate_version=gate.version,
            by=caller.id,
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
