"""A split as it comes in: the leaf that was proposed, by exact copies under pins, and nothing else."""

import asyncio

from coordinator.contribution_arrays import read_arrays
from coordinator.contributions import ContributionFiles
from coordinator.heads import Heads
from coordinator.split_checks import check_exact_split
from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError
from swarm.domain.growth import Proposal
from swarm.domain.ids import Digest, expert_of
from swarm.trust.statements import Statement


class ExactSplits:
    """Checks a contribution against the one that it replaces."""

    def __init__(self, files: ContributionFiles, heads: Heads) -> None:
        self._files, self._heads = files, heads

    async def check(
        self,
        proposal: Proposal,
        before: Statement[Contribution],
        after: Statement[Contribution],
        min_leaf_count: int,
    ) -> None:
        """Raise InvalidInputError unless `after` is `before` with the proposal's leaf split, nothing else."""
        manifests = {str(expert): head for expert, head in self._heads.manifests().items()}
        for leaf in (*before.value.leaves, *after.value.leaves):
            pinned = await self._heads.pin(Digest(leaf.manifest)) if leaf.manifest else None
            if pinned is not None:
                manifests[leaf.manifest] = pinned.manifest

        def compare() -> str:
            was, now = (
                read_arrays(each.digest, each.value, self._files.arrays(each.digest))
                for each in (before, after)
            )
            return expert_of(check_exact_split(was, now, manifests, min_leaf_count))

        split = await asyncio.to_thread(compare)
        if [split] != list(proposal.experts):
            raise InvalidInputError(
                proposal.subject, found=f"a split of {split}", expected=proposal.experts[0]
            )
