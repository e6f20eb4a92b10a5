"""From what a job learned to what this node signs: manifests, and the contribution to the gate."""

from collections.abc import Mapping
from dataclasses import replace

from node.growth.jobs import GrownLeaf
from node.jobs import ContributionDraft, LearnedLeaf, RefinedLeaf
from node.leaves import OwnLeaf
from swarm.domain.contributions import Contribution
from swarm.domain.ids import LeafId, NodeId, digest, expert_of
from swarm.domain.manifests import Manifest, Parent, Share
from swarm.domain.membership import Head
from swarm.domain.specification import Specification
from swarm.trust.statements import Statement


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
    """Return the manifest of a trained leaf: the version after the newest that this node signed for it.

    It has no correction: one belongs to the weights beside which it was trained, until it is trained anew.
    """
    parents = [Parent(kind="trained-from", manifest=known.manifest)] if known else []
    if learned.borrowed_from:
        parents.append(Parent(kind="borrowed-from", manifest=digest(learned.borrowed_from)))
    return _next_version(
        learned,
        tuple(parents),
        owner=owner,
        specification=specification,
        known=known,
        share=share,
        gate_version=gate_version,
        now=now,
    )


def on_newer_head(manifest: Manifest, head: Head | None, *, now: float) -> Manifest:
    """Return the same weights as the version after the registry's head (None: the registry has none)."""
    parent_version = head.version if head else 0
    return replace(manifest, version=parent_version + 1, parent_version=parent_version, created_at=now)


def refined_manifest(
    refined: RefinedLeaf, known: Statement[Manifest], *, gate_version: int, now: float
) -> Manifest:
    """Return the version after `known`, the newest that this node signed: the same weights, and the new
    correction. Who may hold it stays as it was."""
    return replace(
        known.value,
        version=known.value.version + 1,
        parent_version=known.value.version,
        parents=(Parent(kind="trained-from", manifest=known.digest),),
        gate_version_seen=gate_version,
        created_at=now,
        correction=refined.correction,
    )


def grown_manifest(
    grown: GrownLeaf,
    *,
    owner: NodeId,
    specification: Specification,
    known: OwnLeaf | None,
    share: Share,
    gate_version: int,
    now: float,
) -> Manifest:
    """Return the manifest of a leaf's version that growth made: the one after the newest of this node's."""
    made = _next_version(
        grown,
        grown.parents,
        owner=owner,
        specification=specification,
        known=known,
        share=share,
        gate_version=gate_version,
        now=now,
    )
    return replace(made, correction=grown.correction)


def _next_version(
    made: LearnedLeaf | GrownLeaf,
    parents: tuple[Parent, ...],
    *,
    owner: NodeId,
    specification: Specification,
    known: OwnLeaf | None,
    share: Share,
    gate_version: int,
    now: float,
) -> Manifest:
    parent_version = known.version if known else 0
    return Manifest(
        swarm=specification.swarm,
        expert=expert_of(made.leaf),
        version=parent_version + 1,
        parent_version=parent_version,
        leaf=made.leaf,
        owner=owner,
        net=made.net,
        class_names=made.class_names,
        modules=made.modules,
        parents=parents,
        trunk=specification.trunk.digest,
        gate_version_seen=gate_version,
        share=share,
        metrics=dict(made.metrics),
        cost=made.cost,
        created_at=now,
    )


def contribution_of(
    draft: ContributionDraft,
    *,
    owner: NodeId,
    specification: Specification,
    epoch: int,
    now: float,
    pins: Mapping[LeafId, str] | None = None,
    proposal: str = "",
) -> Contribution:
    """Return the contribution that a job has laid down. `pins` are the versions that answer, by digest, while
    the change by `proposal` is on trial; elsewhere the heads do."""
    pins = pins or {}
    return Contribution(
        swarm=specification.swarm,
        owner=owner,
        epoch=epoch,
        trunk=specification.trunk.digest,
        leaves=tuple(replace(leaf, manifest=pins.get(leaf.leaf, "")) for leaf in draft.leaves),
        created_at=now,
        sums=draft.sums,
        branches=draft.branches,
        proposal=proposal,
    )
