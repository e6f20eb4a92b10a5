"""Whether this node can carry out an order: refused by name, and at once, where it cannot."""

from collections.abc import Sequence
from pathlib import Path

from node.growth.adding import check_add
from node.leaves import LeafBook, OwnLeaf
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    NotReadyError,
)
from swarm.domain.growth import NO_LEAF_HERE, GrowthOrder
from swarm.domain.ids import ExpertId, NodeId, owner_of
from swarm.domain.specification import Specification
from swarm.trust.statements import Statement

_ONCE_MORE = "train it once more: swarm train DATA"
_EXPERTS = {"split": 1, "merge": 2}


def check_order(
    order: GrowthOrder, node: NodeId, book: LeafBook, specification: Specification, novel: Path
) -> None:
    """Raise by name unless this node can carry out the order.

    NotAuthorisedError for another's expert, NotFoundError for one that is no leaf here, NotReadyError where
    what it takes was never kept, ConflictError where the gate's contribution is not kept here any more,
    InvalidInputError for what the specification does not allow. `novel` is where novel samples are noted.
    """
    leaves = own_leaves(order.experts, node, book)
    wanted = _EXPERTS.get(order.kind, len(leaves) if order.kind == "add" else max(1, len(leaves)))
    if len(leaves) != wanted or len(set(order.experts)) < len(order.experts):
        raise InvalidInputError(
            order.kind, found=f"{len(order.experts)} experts", expected=f"{wanted} different ones"
        )
    unplaced = [leaf for leaf in leaves if not book.shard(leaf.leaf).exists()]
    if order.kind in ("split", "retrain") and unplaced:
        raise NotReadyError(
            f"{order.kind} of {' and '.join(leaf.expert for leaf in unplaced)}",
            found="no record of where its samples are",
            expected="one, which training leaves",
            remedy=_ONCE_MORE,
        )
    if order.kind == "add":
        check_add(order, node, specification, novel)
    if order.kind == "retrain":
        return
    given = contribution_before(order, node, book).value
    absent = [leaf.leaf for leaf in leaves if leaf.leaf not in {each.leaf for each in given.leaves}]
    if absent and order.kind != "add":
        raise ConflictError(
            f"{order.kind} of {' and '.join(order.experts)}",
            found=f"no {absent[0]} in the contribution that the gate has",
            expected="a leaf that it has",
            remedy=_ONCE_MORE,
        )
    if order.kind in ("split", "add") and len(given.leaves) >= specification.max_leaves_per_owner:
        raise InvalidInputError(
            f"{order.kind} for {node}",
            found=f"{len(given.leaves)} leaves already",
            expected=f"fewer than {specification.max_leaves_per_owner}",
        )
    if order.kind == "remove" and len(leaves) >= len(given.leaves):
        raise InvalidInputError(
            f"removal of {' and '.join(order.experts)}",
            found="the node's last leaf",
            expected="another one that stays",
            remedy="leave instead: swarm leave",
        )


def own_leaves(experts: Sequence[ExpertId], node: NodeId, book: LeafBook) -> list[OwnLeaf]:
    """Return the leaves of these experts; each is this node's, and its head is published."""
    found = []
    by_expert = {leaf.expert: leaf for leaf in book.leaves()}
    for expert in experts:
        if owner_of(expert) != node:
            raise NotAuthorisedError(
                f"expert {expert}", found=f"an order to {node}", expected=f"its owner, {owner_of(expert)}"
            )
        leaf = by_expert.get(expert)
        if leaf is None or not leaf.head:
            raise NotFoundError(
                f"expert {expert}",
                found=NO_LEAF_HERE if leaf is None else "no version that is published",
                expected=", ".join(leaf.expert for leaf in book.published()) or "a published expert",
            )
        found.append(leaf)
    return found


def contribution_before(order: GrowthOrder, node: NodeId, book: LeafBook) -> Statement[Contribution]:
    """Return the contribution that the order is about; ConflictError where it is not kept here."""
    found = book.contributions.find(order.before)
    if found is None:
        raise ConflictError(
            f"contribution {order.before[:12] or 'of before'} of {node}",
            found="none that is kept here" if order.before else "none in the gate",
            expected="the one that the gate has",
            remedy="train once more, then propose again: swarm train DATA",
        )
    return found[0]
