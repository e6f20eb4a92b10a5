"""Records follow the gate, whose versions name their proposals: what a record lacks is there."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_book import GrowthBook
from swarm.domain.contributions import Contribution
from swarm.domain.gates import GateStatement
from swarm.domain.growth import Proposal, ProposalState
from swarm.domain.ids import LeafId, NodeId
from swarm.gating.growth import UNDONE_IN
from swarm.trust.statements import Statement

Given = Statement[Contribution]


class GateFollowing:
    """Brings records up to the gate, while nothing changes that."""

    def __init__(
        self,
        book: GrowthBook,
        records: GateRecords,
        publication: GatePublication,
        clock: Callable[[], float],
    ) -> None:
        self._book, self._records, self._publication, self._clock = book, records, publication, clock

    async def follow(self, proposal: Proposal) -> None:
        """Bring one record up to what the gate's versions say of it."""
        files, newest = self._publication.files, self._publication.version
        for version in range(proposal.gate_version + 1, newest + 1):
            envelope = files.envelope(version)
            value = files.open(envelope).value if envelope is not None else None
            if value is None or value.change.proposal != proposal.id or version in proposal.gate_versions:
                continue
            states: dict[str, ProposalState] = {"split": "working", "rollback": "rolled-back"}
            state = states.get(value.change.kind, "accepted")
            proposal = await self._book.change(
                proposal.id,
                state,
                self._clock(),
                value.reason,
                cost=value.change.cost,
                evidence={name: each for name, each in value.evidence.items() if name.startswith("tried_")},
                gate_version=version,
            )
            if proposal.has_ended:
                return
        mine = given_by(proposal.owner, await self._records.present())
        if proposal.gate_versions and (mine is None or mine.value.proposal != proposal.id):
            why = self._publication.required().value.reason
            reason = f"gate {newest} is without it: {why}"
            await self._book.change(proposal.id, "rolled-back", self._clock(), reason, gate_version=newest)

    async def mark_undone(self) -> None:
        """After a rollback by hand, mark what was accepted and went with it, and unmark what came back."""
        if self._publication.active is None:
            return
        now = self._publication.active.value
        if now.change.kind != "rollback" or now.change.proposal:
            return
        accepted = [each for each in self._book.all() if each.state == "accepted" and each.gate_versions]

        def moved() -> list[tuple[Proposal, bool]]:
            before = self._gate(now.version - 1)
            found = []
            for proposal in accepted:
                change = self._change_by(proposal)
                if before is None or change is None:
                    continue
                had, has = change.is_in(before), change.is_in(now)
                is_marked = UNDONE_IN in proposal.evidence
                if (had and not has and not is_marked) or (has and is_marked):
                    found.append((proposal, not has))
            return found

        for proposal, undone in await asyncio.to_thread(moved):
            await self._book.mark_undone(proposal.id, self._clock(), now.version, undone=undone)

    def _change_by(self, proposal: Proposal) -> "_Change | None":
        before = self._gate(proposal.gate_versions[0] - 1)
        after = self._gate(proposal.gate_versions[-1])
        if before is None or after is None:
            return None
        return _Change(
            brought=_places(after, proposal.owner) - _places(before, proposal.owner),
            taken=_leaves(before, proposal.owner) - _leaves(after, proposal.owner),
            owner=proposal.owner,
        )

    def _gate(self, version: int) -> GateStatement | None:
        envelope = self._publication.files.envelope(version)
        return None if envelope is None else self._publication.files.open(envelope).value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Which of its owner's leaves a proposal brought, be they branches by now, and which it took away."""

    brought: frozenset[LeafId]
    taken: frozenset[LeafId]
    owner: NodeId

    def is_in(self, gate: GateStatement) -> bool:
        """Say whether a gate has something that it brought; where it only took away, nothing of that."""
        if self.brought:
            return bool(self.brought & _places(gate, self.owner))
        return not self.taken & _leaves(gate, self.owner)


def _leaves(gate: GateStatement, owner: NodeId) -> frozenset[LeafId]:
    return frozenset(leaf.leaf for leaf in gate.leaves if leaf.owner == owner)


def _places(gate: GateStatement, owner: NodeId) -> frozenset[LeafId]:
    return _leaves(gate, owner) | {branch.leaf for branch in gate.branches if branch.owner == owner}


def given_by(owner: NodeId, present: Sequence[Given]) -> Given | None:
    """Return what an owner gave of what is present, None where that is nothing."""
    return next((each for each in present if each.value.owner == owner), None)
