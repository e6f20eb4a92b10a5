"""The data's way on a node, from a source to trained experts: what `node.learner` runs, stage by stage.

load -> hold out validation -> trunk features -> own clusters, shards, summaries -> sums -> train each leaf.
Everything is a function of the job and the data, so a run that was killed and started again comes to the
same result; only training steps are kept on the way (`leaf-<number>.checkpoint`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from node.array_files import save_arrays
from node.borrowing import borrowed
from node.choosing_start import Start, choose_start
from node.contributing import give, summary_file, sums_file
from node.expert_training import TRAIN_FRACTION, Turn, cost_of, metrics_of, train_leaf, turns
from node.jobs import BLOBS_FOLDER, VALIDATION_FILE, LearnedLeaf, LearningJob, LearningResult
from node.listings import expert_listings, trial_listing
from node.loans import Loan
from node.preparing import (
    FEATURES_FRACTION,
    Bench,
    Features,
    Report,
    check_order,
    features_of,
    load,
    load_trunk,
    split,
)
from node.refining import refine
from node.shards import Shard, make_shards
from swarm.data.dataset import Dataset
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.inference import Listing
from swarm.domain.manifests import Cost, NetReference
from swarm.experts.flops import forward_flops
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.weights import pack_net, warm_start
from swarm.modules.blobs import BlobFiles

_SUMS_FRACTION = 0.18
"""How far a job is when its leaves are known."""


def learn(
    job: LearningJob, folder: Path, report: Report, clock: Callable[[], float] = time.monotonic
) -> LearningResult:
    """Run a job in its folder and return its result, which the caller writes.

    With `order.dry_run` it ends before training; with `order.refine` it trains corrections and nothing else.
    Raises what is wrong with source, data, net or trunk.
    """
    started = clock()
    bench = Bench(
        job=job,
        folder=folder,
        report=report,
        clock=clock,
        read_from=BlobFiles(Path(job.blob_folder)),
        write_to=BlobFiles(folder / BLOBS_FOLDER),
    )
    check_order(job)
    dataset = load(bench)
    training, validation = split(bench, dataset)
    if job.order.refine:
        return refine(bench, training, validation, started)
    _keep(folder / VALIDATION_FILE, validation)
    features, held_out, features_flops = _features(bench, training, validation)
    report("clusters", "looking for clusters", FEATURES_FRACTION)
    shards, clustering_flops = make_shards(job, training, features.regions, validation, held_out.regions)
    report("clusters", f"{len(shards)} leaves: {', '.join(shard.leaf for shard in shards)}", _SUMS_FRACTION)
    if features.q is not None:
        report("sums", f"summing up {len(training)} samples' features in pairs", _SUMS_FRACTION)
    given = give(job, folder, shards, features.q)
    loans, search_flops = borrowed(bench, shards, features.regions)
    del features, held_out
    order = turns([len(shard.training) for shard in shards])
    learned = [_learn_leaf(bench, shard, turn, loans) for shard, turn in zip(shards, order, strict=True)]
    leaves = tuple(leaf for leaf, _, _ in learned)
    continued = {leaf.leaf for leaf in leaves}
    return LearningResult(
        dataset=dataset.name,
        dry_run=job.order.dry_run,
        leaves=leaves,
        idle_leaves=tuple(leaf.leaf for leaf in job.existing if leaf.leaf not in continued),
        samples=len(training),
        validation_samples=len(validation),
        features_flops=features_flops,
        clustering_flops=clustering_flops + search_flops,
        sums_flops=given.flops,
        duration_s=clock() - started,
        device=str(best_device()),
        listings=(
            *given.listings,
            *(listing for _, listings, _ in learned for listing in listings),
            trial_listing(len(validation)),
        ),
        notes=(*given.notes, *(note for _, _, note in learned if note)),
        contribution=given.draft,
    )


def _keep(path: Path, validation: Dataset) -> None:
    """Keep the validation samples, with the name of each one's class."""
    names = np.array(validation.class_names, dtype=np.str_)[validation.labels]
    save_arrays(path, {"inputs": validation.inputs, "labels": names})


def _features(bench: Bench, training: Dataset, validation: Dataset) -> tuple[Features, Features, int]:
    trunk = load_trunk(bench)

    def tell(fraction: float) -> None:
        done = 0.06 + (FEATURES_FRACTION - 0.06) * fraction
        bench.report("features", f"{fraction:.0%} of {len(training)} samples", done)

    summed = bench.job.order.sums != "none"
    found = features_of(trunk, training.inputs, in_fixed_point=summed, tell=tell)
    held_out = features_of(trunk, validation.inputs, in_fixed_point=False)
    return found, held_out, trunk.flops_per_query * (len(training) + len(validation))


def _learn_leaf(
    bench: Bench, shard: Shard, turn: Turn, loans: Sequence[Loan]
) -> tuple[LearnedLeaf, tuple[Listing, ...], str]:
    """Train one leaf (unless it is a dry run) and store what its manifest needs; also say what it lists, and
    what it borrowed."""
    job = bench.job
    reference = net_reference(
        job.net, shard.training.input_shape, len(shard.training.class_names), job.order.import_paths
    )
    samples = partial(Samples, scale=job.specification.scale, offset=job.specification.offset)
    training = samples(inputs=shard.training.inputs, labels=shard.training.labels)
    validation = samples(inputs=shard.validation_inputs, labels=shard.validation_labels)
    start = _start(bench, shard, reference, loans, training, validation)
    net, reference = start.net, start.reference
    if job.order.dry_run:
        inference_flops = forward_flops(net, reference.input_shape)
        cost = Cost(train_flops=0, inference_flops=inference_flops, samples_seen=0, duration_s=0.0)
        metrics: dict[str, float] = {}
        modules = pack_net(net)[0]
    else:
        result = train_leaf(bench, shard.leaf, net, training, validation, turn)
        cost, metrics = cost_of(result), {**metrics_of(result), **start.metrics}
        cost = replace(cost, train_flops=cost.train_flops + start.flops)
        modules, blobs = pack_net(result.net)
        for blob in blobs.values():
            bench.write_to.put(blob)
    sums = sums_file(shard)
    leaf = LearnedLeaf(
        leaf=shard.leaf,
        parent_version=shard.existing.version if shard.existing else 0,
        class_names=shard.training.class_names,
        class_counts=shard.training.class_counts(),
        net=reference,
        modules=() if job.order.dry_run else modules,
        summary=summary_file(shard),
        metrics=metrics,
        cost=cost,
        sums=sums if (bench.folder / sums).exists() else "",
        borrowed_from=start.borrowed_from,
    )
    note = f"{shard.leaf} {start.message}" if start.metrics else ""
    return leaf, expert_listings(f"{shard.leaf} weights", shard.leaf, modules), note


def _start(
    bench: Bench,
    shard: Shard,
    reference: NetReference,
    loans: Sequence[Loan],
    training: Samples,
    validation: Samples,
) -> Start:
    """Return what a leaf's training begins with: its own last version, or the best that is lent."""
    order = bench.job.order
    net = _initial_net(bench, shard, reference)
    if shard.existing is not None or order.dry_run or not loans:
        return Start(net=net, reference=reference)
    start = choose_start(
        net,
        reference,
        shard.training.class_names,
        loans,
        bench.read_from.open_verified,
        training,
        validation,
        import_paths=order.import_paths,
        seed=derived_seed(order.seed, "borrow", shard.number),
        tell=lambda message: bench.report("borrow", message, TRAIN_FRACTION),
    )
    bench.report("borrow", f"{shard.leaf} {start.message}", TRAIN_FRACTION)
    return start


def _initial_net(bench: Bench, shard: Shard, reference: NetReference) -> nn.Module:
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
        bench.report("train", f"{shard.leaf} starts afresh: {error}", TRAIN_FRACTION)
    else:
        bench.report(
            "train",
            f"{shard.leaf} continues version {shard.existing.version}: {copied} tensors",
            TRAIN_FRACTION,
        )
    return net
