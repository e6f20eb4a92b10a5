"""What may come back into a gate, or is served, besides the newest gate versions: its arrays are kept."""

from dataclasses import dataclass

from coordinator.aside import AsideContributions
from coordinator.gate_publication import GatePublication
from coordinator.gate_retention import Named
from coordinator.growth_book import GrowthBook
from coordinator.growth_return import ReturningOwners
from coordinator.heads import Heads
from coordinator.specifications import Specifications
from swarm.domain.ids import ROOT_EXPERT, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class MayReturn:
    """Where it is looked up."""

    aside: AsideContributions
    book: GrowthBook
    returning: ReturningOwners
    publication: GatePublication
    specifications: Specifications
    heads: Heads

    def named(self) -> Named:
        """Return what is kept aside, what proposals on their way would go back to, and what owners gave that
        were retired; and the blobs of trunk and root."""
        active, root = self.publication.active, self.heads.get(ROOT_EXPERT)
        present = [leaf.owner for leaf in active.value.leaves] if active is not None else []
        trunk = self.specifications.current.value.trunk
        before = {Digest(each.before) for each in self.book.open() if each.before}
        retired = self.returning.retired(present).values()
        return Named(
            contributions=self.aside.digests.union(before, retired),
            blobs=frozenset(
                entry.blob for module in (trunk.weights, trunk.probe) for entry in module.tensors
            ).union(root.manifest.blobs() if root is not None else ()),
        )
