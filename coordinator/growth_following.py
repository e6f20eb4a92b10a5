"""Records follow the gate, whose versions name their proposals: what a record lacks is there."""

from collections.abc import Callable, Sequence

from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_book import GrowthBook
from swarm.domain.contributions import Contribution
from swarm.domain.growth import Proposal, ProposalState
from swarm.domain.ids import NodeId
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


def given_by(owner: NodeId, present: Sequence[Given]) -> Given | None:
    """Return what an owner gave of what is present, None where that is nothing."""
    return next((each for each in present if each.value.owner == owner), None)
