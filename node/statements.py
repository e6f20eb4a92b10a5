"""From what a job learned to what this node signs: manifests, and the contribution to the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from node.jobs import LearnedLeaf, LearningResult
from node.leaves import LeafBook, OwnLeaf
from swarm.domain.ids import LeafId, NodeId, expert_of
from swarm.domain.manifests import Contribution, LeafContribution, Manifest, Parent, Share
from swarm.domain.membership import Head
from swarm.domain.specification import Specification
from swarm.modules.packing import pack_single

_SUMMARY_ARRAYS = ("prototypes", "prototype_counts", "radii")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafSum:
    """One leaf's share of a contribution: its counts and the file with its summary."""

    leaf: LeafId
    class_counts: Mapping[str, int]
    summary: Path


def manifest_of(
    learned: LearnedLeaf,
    *,
    owner: NodeId,
    specification: Specification,
    known: OwnLeaf | None,
    share: Share,
    gate_version: int,
    now: float,
) -> Manifest:
    """Return the manifest of a trained leaf: the version after the newest that this node signed for it."""
    parent_version = known.version if known else 0
    parents = (Parent(kind="trained-from", manifest=known.manifest),) if known else ()
    return Manifest(
        swarm=specification.swarm,
        expert=expert_of(learned.leaf),
        version=parent_version + 1,
        parent_version=parent_version,
        leaf=learned.leaf,
        owner=owner,
        net=learned.net,
        class_names=learned.class_names,
        modules=learned.modules,
        parents=parents,
        trunk=specification.trunk.digest,
        gate_version_seen=gate_version,
        share=share,
        metrics=dict(learned.metrics),
        cost=learned.cost,
        created_at=now,
    )


def on_newer_head(manifest: Manifest, head: Head | None, *, now: float) -> Manifest:
    """Return the same weights as the version after the registry's head (None: the registry has none)."""
    parent_version = head.version if head else 0
    return replace(manifest, version=parent_version + 1, parent_version=parent_version, created_at=now)


def contributed_leaves(
    result: LearningResult, folder: Path, book: LeafBook, specification: Specification
) -> list[LeafSum]:
    """Return what the next contribution holds: the new leaves, and those without new data as they were.

    Leaves below the specification's minimum count stay at home; above its limit the oldest ids go first.
    """
    fresh = {
        leaf.leaf: LeafSum(
            leaf=leaf.leaf, class_counts=dict(leaf.class_counts), summary=folder / leaf.summary
        )
        for leaf in result.leaves
    }
    kept = {
        leaf.leaf: LeafSum(leaf=leaf.leaf, class_counts=leaf.class_counts, summary=book.summary(leaf.leaf))
        for leaf in book.leaves()
        if leaf.leaf not in fresh and book.summary(leaf.leaf).exists()
    }
    large = [
        one
        for one in (*fresh.values(), *kept.values())
        if sum(one.class_counts.values()) >= specification.min_leaf_count
    ]
    chosen = large[: specification.max_leaves_per_owner]
    return sorted(chosen, key=lambda one: int(one.leaf.rpartition(".l")[2]))


def contribution_of(
    leaves: Sequence[LeafSum], *, owner: NodeId, specification: Specification, epoch: int, now: float
) -> tuple[Contribution, bytes]:
    """Return the contribution and the one blob that its tensors lie in."""
    arrays = {}
    for one in leaves:
        with np.load(one.summary, allow_pickle=False) as file:
            for name in _SUMMARY_ARRAYS:
                arrays[f"{one.leaf}/{name}"] = file[name]
    entries, _, blob = pack_single(arrays)
    by_name = {entry.name: entry for entry in entries}
    contribution = Contribution(
        swarm=specification.swarm,
        owner=owner,
        epoch=epoch,
        trunk=specification.trunk.digest,
        leaves=tuple(
            LeafContribution(
                leaf=one.leaf,
                expert=expert_of(one.leaf),
                class_counts=dict(one.class_counts),
                prototypes=by_name[f"{one.leaf}/prototypes"],
                prototype_counts=by_name[f"{one.leaf}/prototype_counts"],
                radii=by_name[f"{one.leaf}/radii"],
            )
            for one in leaves
        ),
        created_at=now,
    )
    return contribution, blob
