"""What a job gives to the gate: chosen, summed and laid down as one blob, so that the agent only signs it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays, write_blob
from node.jobs import CONTRIBUTION_FILE, ContributionDraft, LearningJob
from node.shards import Shard, read_summary, summary_arrays, told_counts
from node.sums import PADDING_BYTES, GramSums, LeafSums, chosen_rank, joined, summed
from swarm.domain.ids import LeafId, expert_of, number_of
from swarm.domain.inference import Listing
from swarm.domain.manifests import FeatureSums, LeafContribution
from swarm.gating.regions import MIN_CLASS_COUNT
from swarm.gating.sums import target_columns

Arrays = dict[str, NDArray[Any]]
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
    enough. `kept` are its sums from an earlier job; None for a leaf with new data."""

    leaf: LeafId
    class_counts: Mapping[str, int]
    summary: Arrays
    columns: NDArray[np.int64] | None
    shard: Shard | None = None
    kept: LeafSums | None = None


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
    arrays = {f"{one.leaf}/{name}": array for one in leaves for name, array in _leaf_arrays(one).items()}
    entries, size_bytes = write_blob(
        folder / CONTRIBUTION_FILE, {**arrays, **(sums.arrays() if sums is not None else {})}
    )
    draft = ContributionDraft(
        leaves=tuple(
            LeafContribution(
                leaf=one.leaf,
                expert=expert_of(one.leaf),
                class_counts=dict(one.class_counts),
                prototypes=entries[f"{one.leaf}/prototypes"],
                prototype_counts=entries[f"{one.leaf}/prototype_counts"],
                radii=entries[f"{one.leaf}/radii"],
                columns=entries.get(f"{one.leaf}/columns"),
            )
            for one in leaves
        ),
        sums=None
        if sums is None
        else FeatureSums(
            form="compact" if sums.rank else "exact",
            samples=sums.samples,
            tensors=tuple(entries[name] for name in sums.arrays()),
        ),
        size_bytes=size_bytes,
    )
    return Given(draft=draft, flops=flops, listings=_listings(leaves, sums), notes=notes)


def summary_file(shard: Shard) -> str:
    """Return the name of a shard's summary in the job's folder."""
    return f"leaf-{shard.number}.npz"


def sums_file(shard: Shard) -> str:
    """Return the name of a shard's sums in the job's folder."""
    return f"leaf-{shard.number}.sums.npz"


def _chosen(
    job: LearningJob, shards: Sequence[Shard], q: NDArray[np.int16] | None
) -> tuple[list[_Leaf], tuple[str, ...]]:
    specification = job.specification
    notes: list[str] = []
    found = []
    for shard in shards:
        counts = shard.told_counts
        notes += _too_few(shard.leaf, shard.training.class_counts())
        found.append(
            _Leaf(
                leaf=shard.leaf,
                class_counts=counts,
                summary=summary_arrays(shard.summary),
                columns=None if q is None or not counts else _columns(shard, q),
                shard=shard,
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


def _columns(shard: Shard, q: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return F't for the classes that the gate is told of, in sorted order."""
    names = sorted(shard.told_counts)
    labels = shard.training.labels_among(names)
    return target_columns(_rows_of(q, shard), labels[labels >= 0], len(names))


def _rows_of(q: NDArray[np.int16], shard: Shard) -> NDArray[np.int16]:
    return q if len(shard.told) == len(q) else q[shard.told]


def _sum_up(
    job: LearningJob, folder: Path, leaves: Sequence[_Leaf], q: NDArray[np.int16]
) -> tuple[GramSums, int]:
    """Return the F'F of all leaves together, and save that of each leaf with new data."""
    order, size = job.order, q.shape[1]
    others = sum(array.nbytes + PADDING_BYTES for one in leaves for array in _leaf_arrays(one).values())
    rank = chosen_rank(order.sums, order.sums_mb, size, others)
    compact_only = any(one.kept is not None and one.kept.f.rank for one in leaves)
    if not rank and compact_only and order.sums == "auto":
        rank = chosen_rank("compact", order.sums_mb, size, others)
    parts, flops = [], 0
    for one in leaves:
        part = one.kept
        if one.shard is not None:
            assert one.columns is not None
            f, cost = summed(_rows_of(q, one.shard), rank, order.seed)
            flops += cost + one.columns.shape[0] * f.samples
            part = LeafSums(columns=one.columns, f=f)
            part.save(folder / sums_file(one.shard))
        assert part is not None
        parts.append(part)
    sums, cost = joined(parts, rank, order.seed)
    return sums, flops + cost


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
