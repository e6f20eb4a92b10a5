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
from node.growth.net_training import accuracy, loss
from node.shard_source import ShardSource
from node.shards import summary_arrays
from node.sums import LeafSums, joined
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.ids import LeafId, number_of
from swarm.domain.manifests import Cost, Parent
from swarm.experts.flops import forward_flops
from swarm.experts.merging import merged_net
from swarm.experts.samples import Samples
from swarm.experts.weights import pack_net
from swarm.gating.joined_summaries import joined_summary
from swarm.gating.regions import LeafSummary


def merge_leaves(bench: GrowthBench) -> GrowthResult:
    """Return the merge of the job's leaves and the contribution in which it stands for what both stood for:
    columns add, F'F stays as it is.

    Corrections are left out. Raises InvalidInputError where the nets differ.
    """
    job = bench.job
    (new,), parents = job.new_leaves, [leaf.manifest for leaf in job.leaves]
    if job.ancestor is None:
        raise InvalidInputError("merge", found="no common ancestor in the lineage", expected="one")
    bench.report("merge", " and ".join(f"{each.expert}@{each.version}" for each in parents), 0.1)
    net, class_names = merged_net(
        job.options.get("method", "magmax"),
        job.ancestor,
        parents,
        bench.read_from.open_verified,
        job.import_paths,
    )
    modules, blobs = pack_net(net)
    for blob in blobs.values():
        bench.write_to.put(blob)
    laid = bench.laid
    merged = [leaf.leaf for leaf in job.leaves]
    own = _together(bench, new, [laid.leaf(leaf) for leaf in merged])
    changed = replace(laid, leaves=(*laid.leaves, own)).placed(merged_places(laid.places(), merged, new))
    if any(each.correction is not None for each in parents):
        bench.notes.append(f"{new} has no correction: swarm train DATA --refine makes one")
    judged = bench.validation(new, class_names, changed)
    metrics: dict[str, float] = {"merged": float(len(parents))}
    if judged is not None:
        none = Samples(inputs=judged.inputs[:0], labels=np.zeros(0, dtype=np.int64))
        samples = validation_samples(bench, judged, class_names, none)
        nll = loss(net, samples)
        assert nll is not None
        metrics |= {"validation_nll": nll, "validation_accuracy": accuracy(net, samples)}
        metrics["validation_samples"] = float(len(samples))
    counts: dict[str, int] = dict(own.class_counts)
    per_query = forward_flops(net, parents[0].net.input_shape)
    grown = GrownLeaf(
        leaf=new,
        net=replace(parents[0].net, classes=len(class_names)),
        class_names=class_names,
        class_counts=counts,
        modules=modules,
        parents=tuple(Parent(kind="merged-from", manifest=leaf.digest) for leaf in job.leaves),
        metrics=metrics,
        cost=Cost(
            train_flops=bench.flops,
            inference_flops=per_query,
            samples_seen=0,
            duration_s=bench.clock() - bench.started,
        ),
        summary=f"leaf-{number_of(new)}.npz",
        sums=_sums(bench, new),
        shard=_shard(bench, new),
    )
    return GrowthResult(
        task="merge", leaves=(grown,), contribution=changed.lay_down(bench.folder), notes=tuple(bench.notes)
    )


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
