"""Train one leaf's expert by itself: a child of a split from its parent's weights, or a leaf afresh."""

import numpy as np
import torch
from torch import nn

from node.growth.bench import GrowthBench
from node.growth.correction_task import corrected
from node.growth.jobs import GrowingLeaf, GrownLeaf, GrowthResult
from node.growth.net_training import trained_net
from node.growth.offering import better_start
from swarm.data.dataset import Dataset
from swarm.domain.ids import LeafId, number_of
from swarm.domain.manifests import NetReference, Parent
from swarm.experts.nets import build_net
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.weights import load_net


def train_child(bench: GrowthBench) -> GrowthResult:
    """Train a child of a split on its own part, from its parent's weights (or from those that its parent was
    trained to meanwhile, where they are better on its validation samples); its correction likewise.

    What training does not improve on validation samples stays as it is.
    """
    leaf = bench.job.leaves[0]
    manifest = leaf.manifest
    _, samples = bench.samples(leaf)
    judged = bench.validation(leaf.leaf, manifest.class_names, bench.laid)
    training = bench.as_samples(samples, manifest.class_names)
    validation = validation_samples(bench, judged, manifest.class_names, training)
    net = _start(bench, leaf, validation)
    trained = trained_net(bench, leaf.leaf, net, training, validation, keep_better=True)
    grown = GrownLeaf(
        leaf=leaf.leaf,
        net=manifest.net,
        class_names=manifest.class_names,
        class_counts=samples.class_counts(),
        modules=trained.modules,
        correction=corrected(bench, leaf, samples, judged),
        parents=(Parent(kind="trained-from", manifest=leaf.digest),),
        metrics=trained.metrics,
        cost=trained.cost,
    )
    return GrowthResult(task="child", leaves=(grown,), notes=tuple(bench.notes))


def retrain(bench: GrowthBench) -> GrowthResult:
    """Train a leaf afresh on its own samples, from random weights: nobody's version is its ancestor."""
    leaf = bench.job.leaves[0]
    manifest = leaf.manifest
    _, samples = bench.samples(leaf)
    judged = None
    if bench.job.contribution is not None and any(one.leaf == leaf.leaf for one in bench.laid.leaves):
        judged = bench.validation(leaf.leaf, manifest.class_names, bench.laid)
    training = bench.as_samples(samples, manifest.class_names)
    validation = validation_samples(bench, judged, manifest.class_names, training)
    trained = trained_net(bench, leaf.leaf, fresh_net(bench, leaf.leaf, manifest.net), training, validation)
    if manifest.correction is not None:
        bench.notes.append(f"{leaf.leaf} has no correction any more: swarm train DATA --refine makes one")
    grown = GrownLeaf(
        leaf=leaf.leaf,
        net=manifest.net,
        class_names=manifest.class_names,
        class_counts=samples.class_counts(),
        modules=trained.modules,
        parents=(),
        metrics={**trained.metrics, "afresh": 1.0},
        cost=trained.cost,
    )
    return GrowthResult(task="retrain", leaves=(grown,), notes=tuple(bench.notes))


def fresh_net(bench: GrowthBench, leaf: LeafId, reference: NetReference) -> nn.Module:
    """Return a net with random weights of the job's seed."""
    torch.manual_seed(derived_seed(bench.job.seed, "afresh", number_of(leaf)))
    return build_net(reference, bench.job.import_paths)


def validation_samples(
    bench: GrowthBench, judged: Dataset | None, class_names: tuple[str, ...], training: Samples
) -> Samples:
    """Return validation samples for a net with these classes, as training has them; none where there are
    none."""
    if judged is not None:
        return bench.as_samples(judged, class_names)
    return training.at(np.zeros(0, dtype=np.int64))


def _start(bench: GrowthBench, leaf: GrowingLeaf, validation: Samples) -> nn.Module:
    """Return the child's own weights, or those offered, if these are better on validation samples."""
    job, manifest = bench.job, leaf.manifest
    own = build_net(manifest.net, job.import_paths)
    load_net(own, manifest.modules, bench.read_from.open_verified)
    if job.offered is None:
        return own
    net, note, flops = better_start(
        own,
        job.offered,
        manifest.net,
        manifest.class_names,
        validation,
        bench.read_from.open_verified,
        job.import_paths,
    )
    bench.flops += flops
    bench.notes += [f"{leaf.leaf} {note}"] if note else []
    return net
