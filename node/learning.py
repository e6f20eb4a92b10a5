"""The data's way on a node, from a source to trained experts: what `node.learner` runs, stage by stage.

load -> hold out validation -> trunk features -> own clusters, shards, summaries -> train each leaf.
Everything is a function of the job and the data, so a run that was killed and started again comes to the
same result; only training steps are kept on the way (`leaf-<number>.checkpoint`).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import BLOBS_FOLDER, VALIDATION_FILE, LearnedLeaf, LearningJob, LearningResult
from node.shards import Floats, Shard, make_shards, save_arrays, summary_arrays
from swarm.data.dataset import Dataset, check_fits
from swarm.data.sources import load_training
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError
from swarm.domain.inference import Listing
from swarm.domain.manifests import Cost, NetReference
from swarm.domain.tensors import ModuleEntry
from swarm.experts.flops import forward_flops
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.training import TrainProgress, TrainResult, TrainSettings, train_expert
from swarm.experts.trunk import Trunk
from swarm.experts.weights import pack_net, warm_start
from swarm.modules.blobs import BlobFiles

_MANIFEST_BYTES = 1500
"""A signed manifest without its modules' digests."""
_TRIAL_BYTES = 448
"""Seven temperatures' sums; what was sent is listed exactly afterwards."""

Report = Callable[[str, str, float], None]
"""Called with stage, message and the fraction of the whole job that is done."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bench:
    """What every leaf's training needs."""

    job: LearningJob
    folder: Path
    report: Report
    clock: Callable[[], float]
    read_from: BlobFiles
    write_to: BlobFiles


def learn(
    job: LearningJob, folder: Path, report: Report, clock: Callable[[], float] = time.monotonic
) -> LearningResult:
    """Run a job in its folder and return its result, which the caller writes.

    With `order.dry_run` it ends before training. Raises what is wrong with source, data, net or trunk.
    """
    started = clock()
    bench = _Bench(
        job=job,
        folder=folder,
        report=report,
        clock=clock,
        read_from=BlobFiles(Path(job.blob_folder)),
        write_to=BlobFiles(folder / BLOBS_FOLDER),
    )
    _check_order(job)
    dataset = _load(bench)
    training, validation = _hold_out(bench, dataset)
    training_features, validation_features, features_flops = _features(bench, training, validation)
    report("clusters", "looking for clusters", 0.15)
    shards, clustering_flops = make_shards(job, training, training_features, validation, validation_features)
    del training_features, validation_features
    report("clusters", f"{len(shards)} leaves: {', '.join(shard.leaf for shard in shards)}", 0.25)
    learned = [_learn_leaf(bench, shard, shards) for shard in shards]
    leaves = tuple(leaf for leaf, _ in learned)
    continued = {leaf.leaf for leaf in leaves}
    return LearningResult(
        dataset=dataset.name,
        dry_run=job.order.dry_run,
        leaves=leaves,
        idle_leaves=tuple(leaf.leaf for leaf in job.existing if leaf.leaf not in continued),
        samples=len(training),
        validation_samples=len(validation),
        features_flops=features_flops,
        clustering_flops=clustering_flops,
        duration_s=clock() - started,
        device=str(best_device()),
        listings=(
            *(listing for _, listings in learned for listing in listings),
            _trial_listing(len(validation)),
        ),
    )


def _check_order(job: LearningJob) -> None:
    """Refuse what cannot be had before any work is done: absurd numbers, a net that cannot be built."""
    order, specification = job.order, job.specification
    if order.seed < 0:
        raise InvalidInputError("seed", found=str(order.seed), expected="0 or more")
    TrainSettings(steps=order.steps, budget_s=order.budget_s)
    shape, classes = specification.input_shape, max(2, len(specification.class_names))
    with torch.random.fork_rng(devices=[]):
        build_net(net_reference(job.net, shape, classes, order.import_paths), order.import_paths)


def _load(bench: _Bench) -> Dataset:
    order = bench.job.order
    bench.report("data", f"reading {order.data}", 0.0)
    dataset = load_training(order.data, order.import_paths)
    check_fits(dataset, bench.job.specification)
    counts = dataset.class_counts()
    named = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:10])
    bench.report("data", f"{len(dataset)} samples of {len(counts)} classes: {named}", 0.03)
    return dataset


def _hold_out(bench: _Bench, dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split off the validation samples before anything else is done, and keep them in the folder."""
    minimum = bench.job.specification.min_leaf_count
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    if len(kept) < minimum:
        raise InvalidInputError(
            f"data {dataset.name}",
            found=f"{len(kept)} samples to train on after {len(held_out)} were held out for validation",
            expected=f"at least {minimum}, the least that a leaf may stand for",
            remedy="bring more samples",
        )
    training, validation = dataset.subset(kept), dataset.subset(held_out)
    names = np.array(validation.class_names, dtype=np.str_)[validation.labels]
    save_arrays(bench.folder / VALIDATION_FILE, {"inputs": validation.inputs, "labels": names})
    bench.report("data", f"{len(validation)} samples stay back for validation", 0.05)
    return training, validation


def _features(bench: _Bench, training: Dataset, validation: Dataset) -> tuple[Floats, Floats, int]:
    specification = bench.job.specification
    trunk = Trunk.load(
        specification.trunk,
        bench.read_from.open_verified,
        scale=specification.scale,
        offset=specification.offset,
        import_paths=bench.job.order.import_paths,
        device=best_device(),
    )
    bench.report("features", f"{specification.trunk.factory}: {trunk.feature_size} features", 0.06)
    found = trunk.features(training.inputs), trunk.features(validation.inputs)
    return *found, trunk.flops_per_query * (len(training) + len(validation))


def _learn_leaf(bench: _Bench, shard: Shard, shards: list[Shard]) -> tuple[LearnedLeaf, tuple[Listing, ...]]:
    """Train one leaf (unless it is a dry run) and store what its manifest and contribution need."""
    job = bench.job
    summary = f"leaf-{shard.number}.npz"
    save_arrays(bench.folder / summary, summary_arrays(shard.summary))
    reference = net_reference(
        job.net, shard.training.input_shape, len(shard.training.class_names), job.order.import_paths
    )
    net = _initial_net(bench, shard, reference)
    if job.order.dry_run:
        inference_flops = forward_flops(net, reference.input_shape)
        cost = Cost(train_flops=0, inference_flops=inference_flops, samples_seen=0, duration_s=0.0)
        metrics: dict[str, float] = {}
        modules = pack_net(net)[0]
    else:
        result = _train(bench, shard, shards, net)
        cost, metrics = _cost(result), _metrics(result)
        modules, blobs = pack_net(result.net)
        for blob in blobs.values():
            bench.write_to.put(blob)
    listings = _listings(shard, modules)
    leaf = LearnedLeaf(
        leaf=shard.leaf,
        parent_version=shard.existing.version if shard.existing else 0,
        class_names=shard.training.class_names,
        class_counts=shard.training.class_counts(),
        net=reference,
        modules=() if job.order.dry_run else modules,
        summary=summary,
        metrics=metrics,
        cost=cost,
    )
    return leaf, listings


def _initial_net(bench: _Bench, shard: Shard, reference: NetReference) -> nn.Module:
    """Return a seeded fresh net, with the weights of the leaf's last version wherever they fit."""
    order = bench.job.order
    torch.manual_seed(derived_seed(order.seed, "net", shard.number))
    net = build_net(reference, order.import_paths)
    if shard.existing is None:
        return net
    names = shard.existing.class_names, shard.training.class_names
    try:
        copied = warm_start(net, shard.existing.modules, bench.read_from.open_verified, *names)
    except (NotFoundError, VerificationError) as error:
        bench.report("train", f"{shard.leaf} starts afresh: {error}", 0.25)
    else:
        bench.report(
            "train", f"{shard.leaf} continues version {shard.existing.version}: {copied} tensors", 0.25
        )
    return net


def _train(bench: _Bench, shard: Shard, shards: list[Shard], net: nn.Module) -> TrainResult:
    order, specification = bench.job.order, bench.job.specification
    total = sum(len(each.training) for each in shards)
    earlier = sum(len(each.training) for each in shards if each.number < shard.number)
    share = len(shard.training) / total
    samples = partial(Samples, scale=specification.scale, offset=specification.offset)

    def say(progress: TrainProgress) -> None:
        message = f"{shard.leaf}, step {progress.step}"
        if progress.resumed:
            message += ", resumed"
        if progress.loss is not None:
            message += f", loss {progress.loss:.3f}"
        if progress.validation_accuracy is not None:
            message += f", validation accuracy {progress.validation_accuracy:.3f}"
        bench.report("train", message, 0.25 + 0.75 * (earlier / total + share * progress.fraction))

    return train_expert(
        net,
        samples(inputs=shard.training.inputs, labels=shard.training.labels),
        samples(inputs=shard.validation_inputs, labels=shard.validation_labels),
        TrainSettings(
            steps=order.steps,
            budget_s=order.budget_s * share,
            seed=derived_seed(order.seed, "train", shard.number),
        ),
        checkpoint=bench.folder / f"leaf-{shard.number}.checkpoint",
        on_progress=say,
        clock=bench.clock,
    )


def _cost(result: TrainResult) -> Cost:
    return Cost(
        train_flops=result.train_flops + result.evaluation_flops,
        inference_flops=result.forward_flops,
        samples_seen=result.samples_seen,
        duration_s=result.duration_s,
    )


def _metrics(result: TrainResult) -> dict[str, float]:
    """Return the metrics that the manifest states; all are on the leaf's own validation samples."""
    metrics = {"validation_samples": float(result.validation_samples), "steps": float(result.steps)}
    if result.validation_accuracy is not None and result.validation_nll is not None:
        metrics["validation_accuracy"] = result.validation_accuracy
        metrics["validation_nll"] = result.validation_nll
    return metrics


def _listings(shard: Shard, modules: Sequence[ModuleEntry]) -> tuple[Listing, ...]:
    """Return what publishing this leaf sends, and to whom."""
    summary, counts = shard.summary, shard.training.class_counts()
    gate = [array.nbytes for array in summary_arrays(summary).values()]
    return (
        Listing(
            what=f"{shard.leaf} prototypes",
            detail=f"{len(summary.counts)} means of features with counts and radii",
            size_bytes=sum(gate),
            recipient="coordinator",
        ),
        Listing(
            what=f"{shard.leaf} class counts",
            detail=", ".join(f"{name} {count}" for name, count in counts.items()),
            size_bytes=sum(len(name.encode()) + 8 for name in counts),
            recipient="coordinator",
        ),
        Listing(
            what=f"{shard.leaf} weights",
            detail="the expert's modules",
            size_bytes=sum(module.size_bytes for module in modules),
            recipient="registry",
        ),
        Listing(
            what=f"{shard.leaf} manifest",
            detail="class names, net, digests, validation metrics and cost; about",
            size_bytes=_MANIFEST_BYTES + len(json.dumps([asdict(module) for module in modules])) * 4 // 3,
            recipient="registry",
        ),
    )


def _trial_listing(samples: int) -> Listing:
    """Return what each later candidate gate makes a node send."""
    return Listing(
        what="trial sums",
        detail=f"for each candidate gate: loss and correct answers over {samples} own validation samples",
        size_bytes=_TRIAL_BYTES,
        recipient="coordinator",
    )
