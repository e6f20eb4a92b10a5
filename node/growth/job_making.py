"""From the node's book to what a task of growth needs: leaves, and the contribution to change."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node.existing import offered_weights
from node.growth.adding import regions_file
from node.growth.checks import contribution_before
from node.growth.jobs import GrowingLeaf, GrowthJob, GrowthTask
from node.growth.overlap import held_files
from node.jobs import VALIDATION_FILE
from node.leaves import LeafBook, OwnLeaf
from swarm.config import NodeHome
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import Digest, LeafId, NodeId
from swarm.domain.lineage import common_ancestor
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import Statement

_STEPS, _MERGE_STEPS = 1000, 100
"""Without any that are known; and after a merge (docs/growth.md, Merging)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMaker:
    """Makes the jobs of one order. `net` is the factory of a new leaf's expert where the node has no leaf,
    `novel` names its samples; beside it lies what an add took along (`node.growth.adding`)."""

    home: NodeHome
    node: NodeId
    book: LeafBook
    registry: VerifiedRegistry
    specification: Specification
    order: GrowthOrder
    net: str
    novel: Path

    def job(
        self,
        task: GrowthTask,
        leaves: Sequence[LeafId],
        *,
        new: Sequence[LeafId] = (),
        gate: Statement[GateStatement] | None = None,
        ancestor: Manifest | None = None,
        threads: int = 1,
        contribution: str = "",
    ) -> GrowthJob:
        """Return the job of one task on these leaves. `contribution` is the digest of the one to change
        (empty: that of the order); `gate` the one whose root corrections are trained against."""
        book, order = self.book, self.order
        kept = book.contributions.find(contribution or order.before)
        if kept is None and order.kind != "retrain":
            contribution_before(order, self.node, book)
        growing = [self._growing(leaf) for leaf in leaves]
        given = [] if kept is None else [one.leaf for one in kept[0].value.leaves]
        others = [leaf for leaf in given if leaf not in leaves and book.leaf(leaf) is not None]
        paths = [path for leaf in leaves or given for path in self._known(leaf).import_paths]
        return GrowthJob(
            node=self.node,
            proposal=order.proposal,
            task=task,
            specification=self.specification,
            blob_folder=str(self.home.cache),
            validation=str(self.home.state / VALIDATION_FILE),
            options=order.options,
            leaves=tuple(growing),
            others=tuple(self._growing(leaf) for leaf in others),
            new_leaves=tuple(new),
            contribution=kept[0].value if kept is not None else None,
            arrays=str(kept[1]) if kept is not None else "",
            gate=gate.value if gate is not None else None,
            gate_digest=gate.digest if gate is not None else "",
            offered=offered_weights(book, leaves[0]) if task == "child" else None,
            ancestor=ancestor,
            shard=str(self.novel) if task == "add" else "",
            held=held_files(self.novel.parent) if task == "add" else (),
            regions=regions_file(self.novel) if task == "add" else "",
            net=self._net(given),
            import_paths=tuple(dict.fromkeys(paths)),
            steps=self._steps(growing),
            threads=threads,
        )

    async def ancestor(self) -> Manifest:
        """Return the nearest version from which both experts to merge came, with its weights in the cache;
        NotFoundError where their lineages have none in common."""
        first, second = (Digest(leaf.head) for leaf in self._ordered())
        lineages = [await self.registry.client.lineage(manifest=digest) for digest in (first, second)]
        found = common_ancestor(
            first,
            second,
            [edge for lineage in lineages for edge in lineage.edges],
            created_at={node.manifest: node.created_at for lineage in lineages for node in lineage.nodes},
        )
        if found is None:
            raise NotFoundError(
                f"merge of {' and '.join(self.order.experts)}",
                found=f"no common ancestor in the lineage of {' and '.join(self.order.experts)}",
                expected="a version from which both came",
                remedy="only experts that have one can be merged: swarm lineage EXPERT",
            )
        manifest = (await self.registry.manifest(found)).value
        await self.registry.blobs(manifest)
        return manifest

    def _ordered(self) -> list[OwnLeaf]:
        by_expert = {leaf.expert: leaf for leaf in self.book.everything()}
        return [by_expert[expert] for expert in self.order.experts]

    def _known(self, leaf: LeafId) -> OwnLeaf:
        found = self.book.leaf(leaf)
        if found is None:
            raise NotFoundError(f"leaf {leaf}", found="none on this node", expected="one of its own")
        return found

    def _growing(self, leaf: LeafId) -> GrowingLeaf:
        """Return a leaf as it answers: its head, or the newest version that is on its way."""
        known = self._known(leaf)
        digest = Digest(known.head) if known.head else known.manifest
        shard, sums = self.book.shard(leaf), self.book.sums(leaf)
        return GrowingLeaf(
            leaf=leaf,
            digest=digest,
            manifest=self.book.signed(digest).value,
            shard=str(shard) if shard.exists() else "",
            sums=str(sums) if sums.exists() else "",
        )

    def _net(self, given: Sequence[LeafId]) -> str:
        """Return the net of a new leaf: of the order, else that of the newest leaf in the contribution, so
        that what is compared are leaves and not nets."""
        newest = [leaf for leaf in self.book.leaves() if leaf.leaf in given][-1:]
        own = [self.book.signed(leaf.manifest).value.net.factory for leaf in newest]
        return self.order.options.get("net") or (own or [self.net])[0]

    def _steps(self, leaves: Sequence[GrowingLeaf]) -> int:
        """Return the steps to train: of the order, else those that the leaf, or what it came from, had; few
        for a merge, which begins with what both have learned."""
        if "steps" in self.order.options:
            return int(self.order.options["steps"])
        if self.order.kind == "merge":
            return _MERGE_STEPS
        manifests = [leaf.manifest for leaf in leaves]
        for leaf in leaves:
            with suppress(SwarmError):
                manifests += [self.book.signed(parent.manifest).value for parent in leaf.manifest.parents]
        steps = [each.metrics["steps"] for each in manifests if each.metrics.get("steps", 0) >= 1]
        return int(steps[0]) if steps else _STEPS
