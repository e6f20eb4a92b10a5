"""A small node that splits, settles and removes its experts as proposals ask it to."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from swarm.domain.contributions import BranchContribution, Contribution, FeatureSums, LeafContribution
from swarm.domain.ids import ExpertId, LeafId, expert_of, leaf_of
from swarm.domain.manifests import Cost, Manifest, NetReference, Parent
from swarm.domain.membership import ContributionOutcome, Head
from swarm.gating.regions import summarise_leaf
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns
from swarm.modules.packing import pack_module, pack_single
from tests.support.coordinator import SIZE, Floats, SmallNode, samples

PARENT, CHILDREN = 0, (1, 2)


@dataclass
class GrowingNode(SmallNode):
    """A node whose one leaf can be split by class, in two halves. `knows` is what the parent believes its
    classes look like; `heads` are the versions of each of its experts."""

    knows: dict[str, Floats] = field(default_factory=dict)
    heads: dict[int, list[Head]] = field(default_factory=dict)

    def leaf(self, number: int) -> LeafId:
        return leaf_of(self.id, number)

    def expert_of(self, number: int) -> ExpertId:
        return expert_of(self.leaf(number))

    async def train(self) -> ContributionOutcome:
        """Publish the parent as it is, and contribute."""
        self.heads[PARENT] = [await self.publish(self.knows)]
        return await self.contribute()

    async def split(self, proposal: str) -> ContributionOutcome:
        """Publish exact copies and contribute them under pins."""
        copied = Parent(kind="split-from", manifest=self.heads[PARENT][-1].manifest)
        for number in CHILDREN:
            self.heads.setdefault(number, []).append(await self.publish_expert(number, self.knows, copied))
        return await self.send(proposal, pinned=True)

    async def train_children(self, knows: dict[str, Floats]) -> None:
        """Publish the children's next versions."""
        for number in CHILDREN:
            before = Parent(kind="trained-from", manifest=self.heads[number][-1].manifest)
            self.heads[number].append(await self.publish_expert(number, knows, before))

    async def settle(self, proposal: str, knows: dict[str, Floats]) -> ContributionOutcome:
        """Publish trained children and contribute them without pins."""
        await self.train_children(knows)
        return await self.send(proposal, pinned=False)

    async def send(self, proposal: str, *, pinned: bool) -> ContributionOutcome:
        """Contribute the children under their branch."""
        half = len(self.called) // 2
        parts = dict(zip(CHILDREN, (self.called[:half], self.called[half:]), strict=True))
        return await self.give(proposal, parts, is_split=True, pinned=pinned)

    async def remove(self, proposal: str, *, keeps: str) -> ContributionOutcome:
        """Contribute the first child alone, in the place of its branch, with the samples of these classes."""
        return await self.give(proposal, {CHILDREN[0]: tuple(keeps)}, is_split=False, pinned=False)

    async def give(
        self, proposal: str, parts: Mapping[int, Sequence[str]], *, is_split: bool, pinned: bool
    ) -> ContributionOutcome:
        """Contribute these leaves by number, each with its classes."""
        features = {name: samples(name, self.count, 7) for names in parts.values() for name in names}
        arrays: dict[str, Any] = _summary(PARENT, list(features.values()))
        for number, names in parts.items():
            arrays |= _summary(number, [features[name] for name in names])
        if self.sums:
            arrays |= await self._own_sums(parts, features)
        entries, _, blob = pack_single(arrays)
        by_name = {entry.name: entry for entry in entries}

        def place(number: int) -> dict[str, Any]:
            names = ("prototypes", "prototype_counts", "radii")
            return {"leaf": self.leaf(number)} | {name: by_name[f"{number}.{name}"] for name in names}

        leaves = tuple(
            LeafContribution(
                **place(number),
                expert=self.expert_of(number),
                class_counts=dict.fromkeys(names, self.count),
                columns=by_name.get(f"{number}.columns"),
                parent=self.leaf(PARENT) if is_split else "",
                manifest=self.heads[number][-1].manifest if pinned else "",
            )
            for number, names in parts.items()
        )
        envelope, _ = await self.contribution()
        value = replace(
            (await self.verified.open(envelope, Contribution)).value,
            proposal=proposal,
            leaves=leaves,
            branches=(BranchContribution(**place(PARENT)),) if is_split else (),
        )
        if value.sums is not None:
            count = self.count * len(features)
            value = replace(value, sums=FeatureSums(form="exact", samples=count, tensors=(by_name["gram"],)))
        return await self.coordinator.contribute(self._signed(value), blob, self.fence, "")

    async def _own_sums(
        self, parts: Mapping[int, Sequence[str]], features: Mapping[str, Floats]
    ) -> dict[str, Any]:
        trunk = (await self._specification()).trunk
        found: dict[str, Any] = {}
        for number, names in parts.items():
            own = np.concatenate([features[name] for name in names])
            rows = np.repeat(np.arange(len(names)), self.count)
            q = quantised(own, trunk.fixed_point, trunk.has_constant)
            found[f"{number}.columns"] = target_columns(q, rows, len(names))
        q = quantised(np.concatenate(list(features.values())), trunk.fixed_point, trunk.has_constant)
        return found | {"gram": pack_triangle(exact_gram(q))}

    async def publish_expert(self, number: int, knows: dict[str, Floats], parent: Parent) -> Head:
        """Publish the next version of one of its experts, over all its classes."""
        specification = await self._specification()
        centres = 5 * np.eye(SIZE, dtype=np.float32)
        means = np.stack([knows.get(name, centres["abcdef".index(name)]) for name in self.called])
        module, blobs = pack_module("means", {"means": means.astype(np.float32)})
        for blob, data in blobs.items():
            self.verified.cache.put(data)
            await self.registry.publish_blob(blob, data)
        version = len(self.heads.get(number, [])) + 1
        manifest = Manifest(
            swarm=specification.swarm,
            expert=self.expert_of(number),
            version=version,
            parent_version=version - 1,
            leaf=self.leaf(number),
            owner=self.id,
            net=NetReference(factory="linear", input_shape=(SIZE,), classes=len(means), code_digest=""),
            class_names=self.called,
            modules=(module,),
            parents=(parent,),
            trunk=specification.trunk.digest,
            gate_version_seen=0,
            share=self.share,
            metrics={},
            cost=Cost(train_flops=1000, inference_flops=100, samples_seen=1, duration_s=0.1),
            created_at=time.time(),
        )
        head = await self.registry.commit(self._signed(manifest), self.fence)
        self.served.append(head.manifest)
        return head


def _summary(number: int, features: Sequence[Floats]) -> dict[str, Any]:
    found = summarise_leaf(np.concatenate(features), prototypes=8, seed=0)
    return {
        f"{number}.prototypes": found.prototypes,
        f"{number}.prototype_counts": found.counts,
        f"{number}.radii": found.radii,
    }
