"""Add a leaf on samples that no leaf's region holds: its own prototypes, its own expert, its own sums."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from node.growth.bench import GrowthBench
from node.growth.expert_task import fresh_net, validation_samples
from node.growth.jobs import GrownLeaf, GrowthResult
from node.growth.net_training import trained_net
from node.shard_source import ShardSource
from node.shards import told_counts
from node.sums import GramSums, LeafSums, joined
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import number_of
from swarm.experts.nets import net_reference


def add_leaf(bench: GrowthBench) -> GrowthResult:
    """Return a new leaf on the job's novel samples, and the contribution with it.

    Raises InvalidInputError where there are too few of them, or all of one class.
    """
    job, laid = bench.job, bench.laid
    (new,) = job.new_leaves
    bench.report("data", "reads the novel samples", 0.0)
    source = ShardSource.read(Path(job.shard))
    samples = source.load(job.specification, f"the new leaf {new}")
    told, least = told_counts(samples.class_counts()), job.specification.min_leaf_count
    if sum(told.values()) < least or len(samples.class_names) < 2:
        raise InvalidInputError(
            "add",
            found=f"{sum(told.values())} novel samples of {len(told)} classes",
            expected=f"at least {least}, of two or more classes",
            remedy="wait for more of them",
        )
    features = bench.features(samples.inputs, in_fixed_point=laid.sums is not None)
    rank = laid.sums.rank if laid.sums is not None else 0
    stood = bench.stands(new, samples, features, source, rank=rank)
    changed = replace(laid, leaves=(*laid.leaves, stood.laid))
    if laid.sums is not None:
        own = LeafSums.read(bench.folder / stood.sums, job.specification.trunk.sum_size)
        assert own is not None
        changed = replace(changed, sums=_with(bench, laid.sums, own))
    reference = net_reference(job.net, samples.input_shape, len(samples.class_names), job.import_paths)
    training = bench.as_samples(samples, samples.class_names)
    judged = bench.validation(new, samples.class_names, changed)
    validation = validation_samples(bench, judged, samples.class_names, training)
    trained = trained_net(bench, new, fresh_net(bench, new, reference), training, validation)
    grown = GrownLeaf(
        leaf=new,
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
    bench.notes.append(f"leaf {number_of(new)} is new, of {len(samples)} samples")
    return GrowthResult(
        task="add", leaves=(grown,), contribution=changed.lay_down(bench.folder), notes=tuple(bench.notes)
    )


def _with(bench: GrowthBench, total: GramSums, own: LeafSums) -> GramSums:
    columns = [one.arrays["columns"].astype(np.int64) for one in bench.laid.leaves]
    before = LeafSums(columns=np.concatenate(columns, axis=1), f=total)
    sums, cost = joined([before, own], total.rank, bench.job.seed)
    bench.flops += cost
    return sums
