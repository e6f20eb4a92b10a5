"""Add a leaf on samples that no leaf's region holds: its own prototypes, its own expert, its own sums."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from node.growth.adding import read_regions
from node.growth.bench import GrowthBench, Stood, check_same
from node.growth.expert_task import fresh_net, validation_samples
from node.growth.jobs import GrowingLeaf, GrownLeaf, GrowthResult, ReshapedLeaf
from node.growth.laying import SUMMARY, LaidLeaf
from node.growth.net_training import trained_net
from node.growth.overlap import NOBODY, Overlap, held_places, movable, overlap_of
from node.preparing import Features
from node.shard_source import ShardSource, together
from node.sums import GramSums, LeafSums, joined, summed
from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import expert_of, number_of
from swarm.experts.nets import net_reference
from swarm.gating.sums import target_columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Share:
    """Some samples of the new leaf: where they are, and their features."""

    source: ShardSource
    samples: Dataset
    features: Features

    @classmethod
    def of(
        cls, source: ShardSource, samples: Dataset, features: Features, rows: NDArray[np.int64]
    ) -> "_Share":
        """Return the samples at rows [n] rising."""
        q = features.q
        return cls(
            source=source.subset(samples, rows),
            samples=samples.subset(rows),
            features=Features(regions=features.regions[rows], q=None if q is None else q[rows]),
        )


def add_leaf(bench: GrowthBench) -> GrowthResult:
    """Return a new leaf on the job's novel samples, and the contribution with it.

    Samples that leaves hold already move: their columns and class counts leave the old leaf for the new one,
    and F'F stays as it is; F'F of those that nobody holds is added. Samples on their way into leaves are left
    out, and so are classes of which too few would move, come in or be left (`movable`).
    Raises InvalidInputError where there are too few, or all of one class, or where a leaf would be left with
    fewer than the least that it may stand for. That is so of one that has nothing but novel samples too: it
    is their leaf.
    """
    job, laid = bench.job, bench.laid
    (new,) = job.new_leaves
    bench.report("data", "reads the novel samples", 0.0)
    source = ShardSource.read(Path(job.shard))
    samples = source.load(job.specification, f"the new leaf {new}")
    sources = [ShardSource.read(Path(other.shard)) if other.shard else None for other in job.others]
    overlap = overlap_of(source, sources, held_places(job.held))
    told = [laid.leaf(other.leaf).class_counts for other in job.others]
    chosen = movable(overlap, samples.labels, samples.class_names, told)
    _check_enough(bench, samples, chosen)
    _check_left(bench, overlap, chosen, told)
    shares, changed, reshaped = list[_Share](), laid, list[ReshapedLeaf]()
    for row, other in enumerate(job.others):
        moved = np.sort(overlap.positions[chosen & (overlap.holders == row)])
        if len(moved):
            share, left, one = _taken_out(bench, other, moved)
            shares.append(share)
            reshaped.append(one)
            kept = tuple(left if each.leaf == left.leaf else each for each in changed.leaves)
            changed = replace(changed, leaves=kept)
            bench.notes.append(f"{len(moved)} samples move from {other.leaf} to leaf {number_of(new)}")
    fresh = np.flatnonzero(chosen & (overlap.holders == NOBODY))
    if len(fresh):
        part = samples.subset(fresh)
        share = _Share(
            source=source.subset(samples, fresh),
            samples=part,
            features=bench.features(part.inputs, in_fixed_point=laid.sums is not None),
        )
        shares.append(share)
        if laid.sums is not None:
            changed = replace(changed, sums=_with(bench, laid.sums, share))
    whole = _together(shares, str(new))
    rank = laid.sums.rank if laid.sums is not None else 0
    regions = read_regions(job.regions)
    stood = bench.stands(
        new,
        whole.samples,
        whole.features,
        whole.source,
        rank=rank,
        prototypes=int(job.options.get("k", "0")),
        regions=regions,
    )
    by = (
        ""
        if regions is None
        else f", by {len(stood.laid.arrays['prototypes'])} of {len(regions)} common regions"
    )
    changed = replace(changed, leaves=(*changed.leaves, stood.laid))
    grown = _trained(bench, whole.samples, stood, changed.leaves)
    bench.notes.append(f"leaf {number_of(new)} is new, of {len(whole.samples)} samples{by}")
    return GrowthResult(
        task="add",
        leaves=(grown,),
        reshaped=tuple(reshaped),
        contribution=changed.lay_down(bench.folder),
        notes=tuple(bench.notes),
    )


def _check_enough(bench: GrowthBench, samples: Dataset, chosen: NDArray[np.bool_]) -> None:
    least = bench.job.specification.min_leaf_count
    classes = len(np.unique(samples.labels[chosen]))
    if chosen.sum() < least or classes < 2:
        stay = f"; {len(chosen) - chosen.sum()} stay where they are" if not chosen.all() else ""
        raise InvalidInputError(
            "add",
            found=f"{chosen.sum()} novel samples of {classes} classes{stay}",
            expected=f"at least {least}, of two or more classes",
            remedy="wait for more of them",
        )


def _check_left(
    bench: GrowthBench, overlap: Overlap, chosen: NDArray[np.bool_], told: Sequence[Mapping[str, int]]
) -> None:
    least = bench.job.specification.min_leaf_count
    for row, other in enumerate(bench.job.others):
        moved = int((chosen & (overlap.holders == row)).sum())
        left = sum(told[row].values()) - moved
        if moved and left < least:
            expert = expert_of(other.leaf)
            raise InvalidInputError(
                f"add, samples of {other.leaf}",
                found=f"{moved} novel ones, and {left} others",
                expected=f"at least {least} that stay: with fewer it is the leaf of those samples itself",
                remedy=f"train it on, or split it: swarm expert split {expert}",
            )


def _taken_out(
    bench: GrowthBench, leaf: GrowingLeaf, moved: NDArray[np.int64]
) -> tuple[_Share, LaidLeaf, ReshapedLeaf]:
    """Return the samples of a leaf at `moved`, and the leaf without them; save what was, what is, and what
    moved."""
    number, laid = number_of(leaf.leaf), bench.laid.leaf(leaf.leaf)
    source, samples = bench.samples(leaf)
    features = bench.features(samples.inputs, in_fixed_point=bench.laid.sums is not None)
    check_same(laid, samples, features, source.told)
    own, total = bench.own_sums(leaf), bench.laid.sums
    rank = own.f.rank if own is not None else total.rank if total is not None else 0
    shutil.copyfile(leaf.shard, bench.folder / f"before-{number}.shard.npz")
    save_arrays(bench.folder / f"before-{number}.npz", {name: laid.arrays[name] for name in SUMMARY})
    if own is not None:
        own.save(bench.folder / f"before-{number}.sums.npz")
    share = _Share.of(source, samples, features, moved)
    rest = _Share.of(source, samples, features, np.setdiff1d(np.arange(len(samples)), moved))
    gone = bench.stands(leaf.leaf, share.samples, share.features, share.source, rank=rank, name="moved")
    left = bench.stands(
        leaf.leaf,
        rest.samples,
        rest.features,
        rest.source,
        rank=rank,
        parent=laid.parent,
        told=laid.class_counts,
    )
    reshaped = ReshapedLeaf(
        leaf=leaf.leaf,
        before=dict(laid.class_counts),
        after=left.class_counts,
        moved=gone.class_counts,
    )
    return share, left.laid, reshaped


def _together(shares: Sequence[_Share], name: str) -> _Share:
    source = ShardSource(parts=tuple(part for share in shares for part in share.source.parts))
    parts = [share.features.q for share in shares]
    q = [part for part in parts if part is not None]
    return _Share(
        source=source,
        samples=together([share.samples for share in shares], name),
        features=Features(
            regions=np.concatenate([share.features.regions for share in shares]),
            q=np.concatenate(q) if len(q) == len(parts) else None,
        ),
    )


def _with(bench: GrowthBench, total: GramSums, share: _Share) -> GramSums:
    """Return F'F with that of samples that nobody holds."""
    q, samples = share.features.q, share.samples
    assert q is not None
    columns = [one.arrays["columns"].astype(np.int64) for one in bench.laid.leaves]
    f, cost = summed(q, total.rank, bench.job.seed)
    before = LeafSums(columns=np.concatenate(columns, axis=1), f=total)
    new = LeafSums(columns=target_columns(q, samples.labels, len(samples.class_names)), f=f)
    sums, joining = joined([before, new], total.rank, bench.job.seed)
    bench.flops += cost + joining
    return sums


def _trained(bench: GrowthBench, samples: Dataset, stood: Stood, leaves: Sequence[LaidLeaf]) -> GrownLeaf:
    """Return the new leaf with an expert that is trained on its samples, from random weights."""
    job, leaf = bench.job, stood.laid.leaf
    reference = net_reference(job.net, samples.input_shape, len(samples.class_names), job.import_paths)
    training = bench.as_samples(samples, samples.class_names)
    judged = bench.validation(leaf, samples.class_names, replace(bench.laid, leaves=tuple(leaves)))
    validation = validation_samples(bench, judged, samples.class_names, training)
    trained = trained_net(bench, leaf, fresh_net(bench, leaf, reference), training, validation)
    return GrownLeaf(
        leaf=leaf,
        net=reference,
        class_names=samples.class_names,
        class_counts=stood.class_counts,
        modules=trained.modules,
        parents=(),
        metrics=trained.metrics,
        cost=trained.cost,
        summary=stood.summary,
        sums=stood.sums,
        shard=stood.shard,
    )
