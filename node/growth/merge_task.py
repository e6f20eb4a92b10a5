"""Merge two experts: one net out of both by their common ancestor, under a new id, for both's samples."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from node.growth.bench import GrowthBench
from node.growth.changes import merged_places
from node.growth.expert_task import validation_samples
from node.growth.jobs import GrowingLeaf, GrownLeaf, GrowthResult
from node.growth.laying import Arrays, LaidLeaf, narrowed
from node.growth.net_training import Trained, trained_net, untrained_net
from node.shard_source import ShardSource
from node.shards import summary_arrays
from node.sums import LeafSums, joined
from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.ids import LeafId, number_of
from swarm.domain.manifests import Parent
from swarm.experts.borrowing import Net
from swarm.experts.merging import DEFAULT_METHOD, merged_net
from swarm.gating.joined_summaries import joined_summary
from swarm.gating.regions import LeafSummary


def merge_leaves(bench: GrowthBench) -> GrowthResult:
    """Return the merge of the job's leaves and the contribution in which it stands for what both stood for:
    columns add, F'F stays as it is. It is trained for some steps on the samples of both, if there are any.

    Corrections are left out. Raises InvalidInputError where the nets differ.
    """
    job = bench.job
    (new,), parents = job.new_leaves, [leaf.manifest for leaf in job.leaves]
    if job.ancestor is None:
        raise InvalidInputError("merge", found="no common ancestor in the lineage", expected="one")
    bench.report("merge", " and ".join(f"{each.expert}@{each.version}" for each in parents), 0.1)
    net, class_names = merged_net(
        job.options.get("method", DEFAULT_METHOD),
        job.ancestor,
        parents,
        bench.read_from.open_verified,
        job.import_paths,
    )
    laid = bench.laid
    merged = [leaf.leaf for leaf in job.leaves]
    own = _together(bench, new, [laid.leaf(leaf) for leaf in merged])
    changed = replace(laid, leaves=(*laid.leaves, own)).placed(merged_places(laid.places(), merged, new))
    if any(each.correction is not None for each in parents):
        bench.notes.append(f"{new} has no correction: swarm train DATA --refine makes one")
    sums, shard = _sums(bench, new), _shard(bench, new)
    trained = _trained(bench, new, net, class_names, bench.validation(new, class_names, changed), shard)
    grown = GrownLeaf(
        leaf=new,
        net=replace(parents[0].net, classes=len(class_names)),
        class_names=class_names,
        class_counts=dict(own.class_counts),
        modules=trained.modules,
        parents=tuple(Parent(kind="merged-from", manifest=leaf.digest) for leaf in job.leaves),
        metrics={**trained.metrics, "merged": float(len(parents))},
        cost=trained.cost,
        summary=f"leaf-{number_of(new)}.npz",
        sums=sums,
        shard=shard,
    )
    return GrowthResult(
        task="merge", leaves=(grown,), contribution=changed.lay_down(bench.folder), notes=tuple(bench.notes)
    )


def _trained(
    bench: GrowthBench,
    new: LeafId,
    net: Net,
    class_names: tuple[str, ...],
    judged: Dataset | None,
    shard: str,
) -> Trained:
    """Return the merged net after some steps on the samples of both, where these can be had and the steps
    make it better on validation samples; else as it is."""
    samples = _samples(bench, new, shard)
    if samples is None:
        return untrained_net(bench, net, class_names, judged)
    samples = samples.subset(np.flatnonzero(samples.labels_among(class_names) >= 0))
    training = bench.as_samples(samples, class_names)
    validation = validation_samples(bench, judged, class_names, training)
    return trained_net(bench, new, net, training, validation, keep_better=True)


def _samples(bench: GrowthBench, new: LeafId, shard: str) -> Dataset | None:
    if not shard:
        return None
    try:
        source = ShardSource.read(bench.folder / shard)
        return source.load(bench.job.specification, " and ".join(leaf.leaf for leaf in bench.job.leaves))
    except SwarmError as error:
        bench.notes.append(f"{new} is not trained after the merge: {error}")
        return None


def _together(bench: GrowthBench, new: LeafId, parts: list[LaidLeaf]) -> LaidLeaf:
    """Return the leaf that stands for all samples of some leaves."""
    summary = _summary(parts[0])
    for part in parts[1:]:
        most = bench.job.specification.max_prototypes_per_leaf
        summary = joined_summary(summary, _summary(part), prototypes=most)
        bench.flops += summary.flops
    arrays = summary_arrays(summary)
    save_arrays(bench.folder / f"leaf-{number_of(new)}.npz", arrays)
    names = sorted({name for part in parts for name in part.class_counts})
    counts = {name: sum(part.class_counts.get(name, 0) for part in parts) for name in names}
    if all("columns" in part.arrays for part in parts):
        arrays["columns"] = narrowed(_columns(parts, names))
    return LaidLeaf(leaf=new, class_counts=counts, arrays=arrays)


def _columns(parts: list[LaidLeaf], names: list[str]) -> NDArray[np.int64]:
    found = np.zeros((len(parts[0].arrays["columns"]), len(names)), dtype=np.int64)
    for part in parts:
        for place, name in enumerate(sorted(part.class_counts)):
            found[:, names.index(name)] += part.arrays["columns"][:, place]
    return found


def _summary(laid: LaidLeaf) -> LeafSummary:
    arrays: Arrays = laid.arrays
    return LeafSummary(
        prototypes=arrays["prototypes"], counts=arrays["prototype_counts"], radii=arrays["radii"]
    )


def _sums(bench: GrowthBench, new: LeafId) -> str:
    """Save the new leaf's own sums, if all of its parents' are kept, and return the file's name."""
    parts = [bench.own_sums(leaf) for leaf in bench.job.leaves]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return ""
    laid = [bench.laid.leaf(leaf.leaf) for leaf in bench.job.leaves]
    names = sorted({name for one in laid for name in one.class_counts})
    # Exact parts stay exact; with a compact one among them the whole is compact.
    rank = max(part.f.rank for part in found)
    f, cost = joined(found, rank, bench.job.seed)
    bench.flops += cost
    LeafSums(columns=_columns(laid, names), f=f).save(bench.folder / f"leaf-{number_of(new)}.sums.npz")
    return f"leaf-{number_of(new)}.sums.npz"


def _shard(bench: GrowthBench, new: LeafId) -> str:
    """Save where the samples of all parents are, if that is known, and return the file's name."""
    whole: ShardSource | None = None
    for leaf in bench.job.leaves:
        part = _source(bench, leaf)
        if part is None:
            return ""
        whole = part if whole is None else whole.joined(part)
    assert whole is not None
    whole.save(bench.folder / f"leaf-{number_of(new)}.shard.npz")
    return f"leaf-{number_of(new)}.shard.npz"


def _source(bench: GrowthBench, leaf: GrowingLeaf) -> ShardSource | None:
    try:
        return bench.source(leaf)
    except SwarmError as error:
        bench.notes.append(str(error))
        return None
