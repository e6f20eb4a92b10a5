"""The node's own leaves and branches as a job finds them."""

from contextlib import suppress
from pathlib import Path

from node.jobs import ExistingBranch, ExistingLeaf, OfferedWeights
from node.leaves import LeafBook
from node.stream.taking import Answering
from swarm.domain.errors import SwarmError
from swarm.domain.ids import Digest, LeafId


def existing_leaves(book: LeafBook) -> tuple[ExistingLeaf, ...]:
    """Return the leaves whose experts answer, by number."""
    found = []
    for leaf in book.leaves():
        manifest = book.signed(leaf.manifest).value
        found.append(
            ExistingLeaf(
                leaf=leaf.leaf,
                version=manifest.version,
                net=manifest.net,
                class_names=manifest.class_names,
                modules=manifest.modules,
                prototypes=_path(book.summary(leaf.leaf)),
                sums=_path(book.sums(leaf.leaf)),
                class_counts=leaf.class_counts,
                parent=book.tree.place(leaf.leaf).parent,
                memory=_path(book.memory(leaf.leaf)),
                shard=_path(book.shard(leaf.leaf)),
                offered=offered_weights(book, leaf.leaf),
                moved_out=book.tree.moved_out(leaf.leaf),
            )
        )
    return tuple(found)


def offered_weights(book: LeafBook, leaf: LeafId) -> OfferedWeights | None:
    """Return what a leaf's parent was trained to while it was split, if it is offered to start from that."""
    digest = book.tree.offered(leaf)
    with suppress(SwarmError):
        if digest:
            manifest = book.signed(Digest(digest)).value
            return OfferedWeights(
                manifest=Digest(digest),
                net=manifest.net,
                class_names=manifest.class_names,
                modules=manifest.modules,
            )
    return None


def existing_branches(book: LeafBook) -> tuple[ExistingBranch, ...]:
    """Return the leaves that were split, by number."""
    return tuple(
        ExistingBranch(
            leaf=branch.leaf,
            prototypes=_path(book.summary(branch.leaf)),
            parent=book.tree.place(branch.leaf).parent,
            split=_path(book.split_gate(branch.leaf)),
        )
        for branch in book.branches()
    )


def answering(book: LeafBook) -> list[Answering]:
    """Return the experts of the leaves that answer, as this node signed them last."""
    return [
        Answering(manifest=book.signed(leaf.manifest).value, prototypes=_path(book.summary(leaf.leaf)))
        for leaf in book.leaves()
    ]


def _path(path: Path) -> str:
    return str(path) if path.exists() else ""
