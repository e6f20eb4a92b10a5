"""What a job gives to the gate: chosen, summed and laid down as one blob, so that the agent only signs it."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.accumulating import columns_with, summed_with
from node.array_files import save_arrays
from node.growth.laying import Laid, LaidBranch, LaidLeaf
from node.jobs import ContributionDraft, ExistingBranch, LearningJob
from node.shards import Shard, read_summary, summary_arrays, told_counts
from node.sums import PADDING_BYTES, GramSums, LeafSums, chosen_rank, joined
from swarm.domain.ids import LeafId, number_of
from swarm.domain.inference import Listing
from swarm.gating.regions import MIN_CLASS_COUNT
from swarm.gating.sums import target_columns

Arrays = dict[str, NDArray[Any]]
_Placed = TypeVar("_Placed", LaidLeaf, LaidBranch)
_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What a job gives: `draft` (None: no leaf reaches the minimum count), the sums' FLOPs, what leaves."""

    draft: ContributionDraft | None
    flops: int
    listings: tuple[Listing, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Leaf:
    """One leaf to contribute; `class_counts` and all that is given of it are of the classes that have samples
    enough. `kept` are its sums from an earlier job, of a leaf without new data; `new_columns` are F't of new
    data alone."""

    leaf: LeafId
    class_counts: Mapping[str, int]
    summary: Arrays
    columns: NDArray[np.int64] | None
    shard: Shard | None = None
    kept: LeafSums | None = None
    new_columns: NDArray[np.int64] | None = None


def give(job: LearningJob, folder: Path, shards: Sequence[Shard], q: NDArray[np.int16] | None) -> Given:
    """Save every shard's summary and sums, and lay down the contribution of all leaves in the folder.

    q int16 [N, M] are all training samples in fixed point, None where no sums are wanted. A leaf's classes of
    fewer than MIN_CLASS_COUNT samples stay at home, and so do leaves that are then below the specification's
    minimum count; above its limit those without new data go first, of them the newest ids. A leaf without new
    data is given as it was; if its sums or its summary are not those of its classes, it is left out. Notes
    say what stays at home.
    """
    for shard in shards:
        save_arrays(folder / summary_file(shard), summary_arrays(shard.summary))
    leaves, notes = _chosen(job, shards, q)
    if not leaves:
        return Given(draft=None, flops=0, listings=(), notes=notes)
    sums, flops = (None, 0) if q is None else _sum_up(job, folder, leaves, q)
    told = [
        LaidLeaf(leaf=one.leaf, class_counts=one.class_counts, arrays=_leaf_arrays(one)) for one in leaves
    ]
    draft = replace(_in_tree(job, told), sums=sums).lay_down(folder)
    return Given(draft=draft, flops=flops, listings=_listings(leaves, sums), notes=notes)


def summary_file(shard: Shard) -> str:
    """Return the name of a shard's summary in the job's folder."""
    return f"leaf-{shard.number}.npz"


def sums_file(shard: Shard) -> str:
    """Return the name of a shard's sums in the job's folder."""
    return f"leaf-{shard.number}.sums.npz"


def shard_file(shard: Shard) -> str:
    """Return the name of the file, in the job's folder, that says where a shard's samples are."""
    return f"leaf-{shard.number}.shard.npz"


def _chosen(
    job: LearningJob, shards: Sequence[Shard], q: NDArray[np.int16] | None
) -> tuple[list[_Leaf], tuple[str, ...]]:
    specification = job.specification
    notes: list[str] = []
    found = []
    for shard in shards:
        counts = shard.told_counts
        notes += _too_few(shard.leaf, shard.training.class_counts())
        new = None if q is None or not counts else _new_columns(shard, q)
        found.append(
            _Leaf(
                leaf=shard.leaf,
                class_counts=counts,
                summary=summary_arrays(shard.summary),
                columns=None if new is None else columns_with(shard.kept, new, sorted(shard.new_counts)),
                shard=shard,
                new_columns=new,
            )
        )
    fresh = {one.leaf for one in found}
    for leaf in job.existing:
        summary = read_summary(leaf.prototypes)
        if leaf.leaf in fresh or summary is None or not leaf.class_counts:
            continue
        kept = LeafSums.read(Path(leaf.sums), specification.trunk.sum_size) if leaf.sums else None
        counts = told_counts(leaf.class_counts)
        notes += _too_few(leaf.leaf, leaf.class_counts)
        why_not = _why_not(counts, summary, kept, q is not None)
        if why_not:
            notes.append(f"{leaf.leaf} is not contributed: {why_not}")
            continue
        columns = kept.columns if q is not None and kept is not None else None
        found.append(_Leaf(leaf=leaf.leaf, class_counts=counts, summary=summary, columns=columns, kept=kept))
    large = []
    for one in found:
        counted = sum(one.class_counts.values())
        if one.class_counts and counted >= specification.min_leaf_count:
            large.append(one)
        else:
            minimum = specification.min_leaf_count
            notes.append(f"{one.leaf} is not contributed: {counted} samples, at least {minimum} are needed")
    most = specification.max_leaves_per_owner
    notes += [
        f"{one.leaf} is not contributed: a node may have {most} leaves in the gate" for one in large[most:]
    ]
    return sorted(large[:most], key=lambda one: number_of(one.leaf)), tuple(notes)


def _too_few(leaf: LeafId, class_counts: Mapping[str, int]) -> Iterator[str]:
    """Say which of a leaf's classes are not contributed; of many, the first by name."""
    told = told_counts(class_counts)
    left_out = sorted(set(class_counts) - set(told))
    for name in left_out[:_NAMED]:
        found = f"{class_counts[name]} samples, at least {MIN_CLASS_COUNT} are needed"
        yield f"{leaf}: class {name} is not contributed: {found}"
    if left_out[_NAMED:]:
        more = len(left_out) - _NAMED
        yield f"{leaf}: {more} more classes are not contributed: fewer than {MIN_CLASS_COUNT} samples each"


def _why_not(counts: Mapping[str, int], summary: Arrays, kept: LeafSums | None, summed_up: bool) -> str:
    """Return why a leaf without new data cannot be given as it was, empty where it can."""
    counted = sum(counts.values())
    if not counts:
        return f"no class has at least {MIN_CLASS_COUNT} samples"
    if int(summary["prototype_counts"].sum()) != counted:
        return "its prototypes are of other samples too, and there are no new data to summarise"
    if summed_up and (kept is None or kept.f.samples != counted or kept.columns.shape[1] != len(counts)):
        return "it has no sums, and no new data to sum up"
    return ""


def _rows_of(q: NDArray[np.int16], shard: Shard) -> NDArray[np.int16]:
    return q if len(shard.told) == len(q) else q[shard.told]


def _new_columns(shard: Shard, q: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return F't of the new samples for the classes that the gate is told of, in sorted order."""
    names = sorted(shard.new_counts)
    labels = shard.training.labels_among(names)
    return target_columns(_rows_of(q, shard), labels[labels >= 0], len(names))


def _sum_up(
    job: LearningJob, folder: Path, leaves: Sequence[_Leaf], q: NDArray[np.int16]
) -> tuple[GramSums, int]:
    """Return the F'F of all leaves together, and save that of each leaf with new data."""
    order, size = job.order, q.shape[1]
    others = sum(array.nbytes + PADDING_BYTES for one in leaves for array in _leaf_arrays(one).values())
    rank = chosen_rank(order.sums, order.sums_mb, size, others)
    compact_only = any(sums is not None and sums.f.rank for sums in map(_earlier, leaves))
    if not rank and compact_only and order.sums == "auto":
        rank = chosen_rank("compact", order.sums_mb, size, others)
    parts, flops = [], 0
    for one in leaves:
        part = one.kept
        if one.shard is not None:
            assert one.columns is not None and one.new_columns is not None
            new = _rows_of(q, one.shard)
            f, cost = summed_with(one.shard.kept, new, one.new_columns, rank, order.seed)
            flops += cost + new.size
            part = LeafSums(columns=one.columns, f=f)
            part.save(folder / sums_file(one.shard))
        assert part is not None
        parts.append(part)
    sums, cost = joined(parts, rank, order.seed)
    return sums, flops + cost


def _earlier(one: _Leaf) -> LeafSums | None:
    """Return the sums that a leaf has of earlier jobs."""
    return one.shard.kept.sums if one.shard is not None and one.shard.kept is not None else one.kept


def _in_tree(job: LearningJob, leaves: Sequence[LaidLeaf]) -> Laid:
    """Return the leaves under the node's branches. One with fewer than two children among what is given, or
    whose summary is lost, is no branch any more: what is below it moves up."""
    parents = {leaf.leaf: leaf.parent for leaf in job.existing}
    placed = [replace(leaf, parent=parents.get(leaf.leaf, "")) for leaf in leaves]
    branches = [branch for branch in map(_laid_branch, job.branches) if branch is not None]
    lost = {branch.leaf: branch.parent for branch in job.branches}
    while True:
        above = Counter([leaf.parent for leaf in placed] + [branch.parent for branch in branches])
        kept = [branch for branch in branches if above[branch.leaf] >= 2]
        names = {branch.leaf for branch in kept}
        placed = [_moved_up(leaf, names, lost) for leaf in placed]
        is_whole = len(kept) == len(branches)
        branches = [_moved_up(branch, names, lost) for branch in kept]
        if is_whole:
            return Laid(leaves=tuple(placed), branches=tuple(branches))


def _moved_up(one: _Placed, branches: Collection[str], parents: Mapping[LeafId, str]) -> _Placed:
    parent = one.parent
    while parent and parent not in branches:
        parent = parents.get(LeafId(parent), "")
    return replace(one, parent=parent)


def _laid_branch(branch: ExistingBranch) -> LaidBranch | None:
    arrays = read_summary(branch.prototypes)
    if arrays is None:
        return None
    if branch.split and Path(branch.split).exists():
        arrays["split"] = np.load(branch.split, allow_pickle=False)
    return LaidBranch(leaf=branch.leaf, arrays=arrays, parent=branch.parent)


def _leaf_arrays(one: _Leaf) -> Arrays:
    if one.columns is None:
        return one.summary
    narrow = np.abs(one.columns).max(initial=0) <= np.iinfo(np.int32).max
    return {**one.summary, "columns": one.columns.astype(np.int32) if narrow else one.columns}


def _listings(leaves: Sequence[_Leaf], sums: GramSums | None) -> tuple[Listing, ...]:
    found = []
    for one in leaves:
        arrays, counts = _leaf_arrays(one), one.class_counts
        sizes = {name: array.nbytes for name, array in arrays.items()}
        found.append(
            _listing(
                f"{one.leaf} prototypes",
                f"{len(arrays['prototypes'])} means of features, with counts and radii",
                sum(sizes.values()) - sizes.get("columns", 0),
            )
        )
        if "columns" in sizes:
            found.append(
                _listing(
                    f"{one.leaf} columns",
                    f"sums F't: the features' sum for each of {len(counts)} classes",
                    sizes["columns"],
                )
            )
        found.append(
            _listing(
                f"{one.leaf} class counts",
                ", ".join(f"{name} {count}" for name, count in counts.items()),
                sum(len(name.encode()) + 8 for name in counts),
            )
        )
    if sums is not None:
        found.append(
            _listing(
                f"sums F'F, {f'compact rank {sums.rank}' if sums.rank else 'exact'}",
                f"products of features, summed over {sums.samples} samples of {len(leaves)} leaves",
                sum(array.nbytes for array in sums.arrays().values()),
            )
        )
    return tuple(found)


def _listing(what: str, detail: str, size_bytes: int) -> Listing:
    return Listing(what=what, detail=detail, size_bytes=size_bytes, recipient="coordinator")
