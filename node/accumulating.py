"""What a leaf stands for already, and what new samples add to it: nothing that was summed up is forgotten.

Integer sums add exactly, so that the sums of two mega-batches are those of their union, to the bit; compact
ones are joined. New samples of a leaf's class count once there are MIN_CLASS_COUNT of them: a difference of
two contributions is told too, and a sum over one sample would be that sample. Until then they wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.jobs import ExistingLeaf
from node.sums import GramSums, LeafSums, joined, summed
from swarm.gating.regions import MIN_CLASS_COUNT, LeafSummary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """What a leaf was given with: its class counts (each at least MIN_CLASS_COUNT), summary and sums (None:
    it was given without)."""

    class_counts: Mapping[str, int]
    summary: LeafSummary
    sums: LeafSums | None


def kept_of(
    leaf: ExistingLeaf, summary: Mapping[str, NDArray[np.generic]] | None, sum_size: int
) -> tuple[Kept | None, str]:
    """Return what a leaf stands for, as far as its files agree; else None and why new samples replace it.

    summary: its arrays; sum_size: features of the sums that the new contribution has, 0 for none.
    """
    counts = {name: count for name, count in leaf.class_counts.items() if count >= MIN_CLASS_COUNT}
    total = sum(counts.values())
    if not total:
        return None, "it stands for no samples yet"
    if summary is None or int(summary["prototype_counts"].sum()) != total:
        return None, "its summary is lost, or is not that of its samples"
    sums = LeafSums.read(Path(leaf.sums), sum_size) if leaf.sums and sum_size else None
    if sum_size and (sums is None or sums.f.samples != total or sums.columns.shape[1] != len(counts)):
        return None, "it has no sums, or they are not those of its samples"
    return Kept(
        class_counts=counts,
        summary=LeafSummary(
            prototypes=summary["prototypes"].astype(np.float32, copy=False),
            counts=summary["prototype_counts"].astype(np.int64, copy=False),
            radii=summary["radii"].astype(np.float32, copy=False),
        ),
        sums=sums,
    ), ""


def added_counts(kept: Kept | None, new: Mapping[str, int]) -> dict[str, int]:
    """Return class counts with new ones added."""
    counts = dict(kept.class_counts) if kept is not None else {}
    for name, count in new.items():
        counts[name] = counts.get(name, 0) + count
    return counts


def enough_of_each(leaves: NDArray[np.int64], labels: NDArray[np.int64], min_shard: int) -> NDArray[np.bool_]:
    """Return which new samples can be learned now, bool [N]: those of classes with MIN_CLASS_COUNT samples in
    their leaf, in leaves with min_shard such samples. leaves and labels int64 [N]."""
    found = np.zeros(len(leaves), dtype=bool)
    for leaf in np.unique(leaves):
        own = leaves == leaf
        for label in np.unique(labels[own]):
            of_class = own & (labels == label)
            found[of_class] = of_class.sum() >= MIN_CLASS_COUNT
        if found[own].sum() < min_shard:
            found[own] = False
    return found


def columns_with(kept: Kept | None, new: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.int64]:
    """Return a leaf's columns F't of what it stood for and of the new samples, int64 [M, all its classes].

    new [M, classes]: those of the new samples, of the classes names; both lie in sorted order.
    """
    if kept is None or kept.sums is None:
        return new
    return columns_together(kept.sums.columns, sorted(kept.class_counts), new, list(names))


def summed_with(
    kept: Kept | None, q: NDArray[np.int16], new: NDArray[np.int64], rank: int, seed: int
) -> tuple[GramSums, int]:
    """Return F'F of what a leaf stood for and of q [n, M] together, and the FLOPs; new: q's own columns F't.

    Exact for rank 0; InvalidInputError where what was kept is compact and exact sums are wanted.
    """
    f, flops = summed(q, rank, seed)
    if kept is None or kept.sums is None:
        return f, flops
    total, cost = joined([kept.sums, LeafSums(columns=new, f=f)], rank, seed)
    return total, flops + cost


def columns_together(
    old: NDArray[np.int64], old_names: list[str], new: NDArray[np.int64], new_names: list[str]
) -> NDArray[np.int64]:
    """Return the sum of columns [M, classes] of two lists of classes, for all of them in sorted order."""
    names = sorted({*old_names, *new_names})
    found = np.zeros((len(old), len(names)), dtype=np.int64)
    for columns, of in ((old, old_names), (new, new_names)):
        found[:, [names.index(name) for name in of]] += columns
    return found
