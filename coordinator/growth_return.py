"""Owners that the policy took out as stale: what they gave is kept, and tried when they are here again."""

from collections.abc import Collection, Mapping

from coordinator.contributions import ContributionFiles
from coordinator.gate_making import GateMaker
from coordinator.gate_publication import GatePublication
from coordinator.gate_records import GateRecords
from coordinator.growth_book import GrowthBook
from coordinator.specifications import Specifications
from swarm.domain.growth import POLICY, Proposal
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import ContributionOutcome


class ReturningOwners:
    """Their way back into the gate; `readmit` runs while nothing else changes the gate."""

    def __init__(
        self,
        *,
        book: GrowthBook,
        records: GateRecords,
        publication: GatePublication,
        specifications: Specifications,
        contributions: ContributionFiles,
        maker: GateMaker,
    ) -> None:
        self._book, self._records, self._publication = book, records, publication
        self._specifications, self._contributions = specifications, contributions
        self._maker = maker

    def retired(self, present: Collection[NodeId]) -> Mapping[NodeId, Digest]:
        """Return the owners that the policy retired and that are not present, with what is kept of each."""
        newest: dict[NodeId, Proposal] = {}
        for each in self._book.all():
            if each.kind == "remove" and each.state == "accepted":
                newest.setdefault(each.owner, each)
        return {
            owner: Digest(each.before)
            for owner, each in newest.items()
            if owner not in present and each.by == POLICY != owner and self._is_kept(each)
        }

    async def readmit(self, owner: NodeId) -> ContributionOutcome:
        """Judge what is kept of an owner that was retired as a newcomer's."""
        present = await self._records.present()
        kept = self.retired([each.value.owner for each in present]).get(owner)
        if kept is None:
            return self._records.unchanged(f"{owner} is in the gate, or was not retired")
        together = [*present, *await self._records.statements([kept])]
        specification = self._specifications.serving(each.value for each in together)
        reason = f"{owner} is here again"
        outcome = await self._maker.judge_and_activate(together, specification, reason)
        if outcome.state == "refused":
            await self._records.record_refusal(outcome, reason)
        return outcome

    def _is_kept(self, proposal: Proposal) -> bool:
        """Say whether all of an owner was taken out, not a part of it, and what it gave is still here."""
        envelope = self._publication.files.envelope(max(proposal.gate_versions, default=0))
        return (
            envelope is not None
            and self._publication.files.open(envelope).value.change.kind == "retire"
            and self._contributions.has(Digest(proposal.before))
        )
