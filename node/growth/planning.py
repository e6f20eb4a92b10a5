"""From what a task of growth came to, to what this node signs and sends: as `node.plan` does for training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from node.growth.changes import Place, merged_places, pruned, split_places, tree_change
from node.growth.jobs import GrowthResult
from node.leaves import LeafBook
from node.plan import Plan, planned, with_contribution
from node.statements import contribution_of, grown_manifest
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import ExpertId, LeafId, NodeId, expert_of, leaf_of, owner_of
from swarm.domain.manifests import Share
from swarm.domain.specification import Specification
from swarm.trust.signing import Signer
from swarm.trust.statements import statement_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who signs, in what swarm, and when."""

    owner: NodeId
    signer: Signer
    specification: Specification
    gate_version: int
    now: float


def make_growth_plan(
    result: GrowthResult, folder: Path, book: LeafBook, order: GrowthOrder, signing: Signing
) -> Plan:
    """Sign what a task came to and keep it in its folder.

    A split's copies answer at the very versions that it publishes, whatever is trained meanwhile, until what
    was trained on them is given in turn (`settle_plan`).
    """
    job = f"{order.proposal}-{folder.name}"
    publishes, signed = [], {}
    paths: list[str] = []
    for grown in result.leaves:
        known = book.leaf(grown.leaf)
        manifest = grown_manifest(
            grown,
            owner=signing.owner,
            specification=signing.specification,
            known=known,
            share=_share(order, grown.leaf, book),
            gate_version=signing.gate_version,
            now=signing.now,
        )
        one = planned(manifest, signing.signer, job, grown.class_counts, grown if grown.summary else None)
        publishes.append(one)
        signed[grown.leaf] = statement_digest(one.envelope.encode())
    for expert in order.experts:
        leaf = next((each for each in book.everything() if each.expert == expert), None)
        paths += leaf.import_paths if leaf else ()
    plan = Plan(publishes=tuple(publishes), import_paths=tuple(dict.fromkeys(paths)))
    if result.contribution is not None:
        pins = signed if result.task == "split" else {}
        contribution = contribution_of(
            result.contribution,
            owner=signing.owner,
            specification=signing.specification,
            epoch=book.epoch + 1,
            now=signing.now,
            pins=pins,
            proposal=order.proposal,
        )
        plan = with_contribution(plan, contribution, signing.signer, job)
        if result.task != "regate":
            places = book.tree.places([leaf.leaf for leaf in book.everything()])
            after = _places_after(order, places, [leaf.leaf for leaf in result.leaves])
            change = tree_change(order.proposal, order.kind, places, after, pins)
            change = replace(change, reshaped=tuple(one.leaf for one in result.reshaped))
            plan = replace(plan, change=change, reshaped=result.reshaped)
        else:
            plan = replace(plan, unpins=order.proposal)
        if result.split_gate:
            (branch,) = [each.leaf for each in result.contribution.branches if _is_of(each.leaf, order)]
            plan = replace(plan, split_gates={branch: result.split_gate})
    plan.write(folder)
    return plan


def _places_after(
    order: GrowthOrder, places: Mapping[LeafId, Place], new: list[LeafId]
) -> dict[LeafId, Place]:
    leaves = [_leaf_of(expert) for expert in order.experts]
    if order.kind == "split":
        return split_places(places, leaves[0], new)
    if order.kind == "merge":
        return merged_places(places, leaves, new[0])
    if order.kind == "remove":
        return pruned(places, leaves)
    return {**places, **dict.fromkeys(new, Place())}


def _share(order: GrowthOrder, made: LeafId, book: LeafBook) -> Share:
    """Return who may hold what growth makes of a leaf: as its owner said of it; of a leaf that came from
    others, as of the narrowest of them; of one that came from none, as of the newest."""
    experts = set[ExpertId](order.experts)
    if expert_of(made) in experts:
        experts = {expert_of(made)}
    leaves = [leaf for leaf in book.everything() if leaf.expert in experts] or book.leaves()[-1:]
    shares = {book.signed(leaf.manifest).value.share for leaf in leaves}
    narrowest: tuple[Share, ...] = ("serve-only", "borrow", "public")
    return next((share for share in narrowest if share in shares), "borrow")


def _is_of(leaf: LeafId, order: GrowthOrder) -> bool:
    return leaf in [_leaf_of(expert) for expert in order.experts]


def _leaf_of(expert: ExpertId) -> LeafId:
    return leaf_of(owner_of(expert), int(expert.rpartition(".e")[2]))
