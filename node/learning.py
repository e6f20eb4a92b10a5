"""The data's way on a node, from a source to trained experts: what `node.learner` runs, stage by stage.

load -> hold out validation -> trunk features -> own clusters, shards, summaries -> sums -> train each leaf.
A stream's mega-batches come with validation held out already, and add to what the leaves stand for.
Everything is a function of the job and the data, so a run that was killed and started again comes to the
same result; only training steps are kept on the way (`leaf-<number>.checkpoint`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from node.borrowing import borrowed
from node.choosing_start import Start, choose_start
from node.contributing import give, shard_file, summary_file, sums_file
from node.expert_training import (
    TRAIN_FRACTION,
    Turn,
    cost_of,
    head_note,
    keep_memory,
    metrics_of,
    train_leaf,
    turns,
    update_of,
)
from node.growth.offering import better_start
from node.held_out import write_validation
from node.imported_start import imported_start, unused_start
from node.jobs import (
    BLOBS_FOLDER,
    VALIDATION_FILE,
    WAITING_FILE,
    LearnedLeaf,
    LearningJob,
    LearningResult,
    OfferedWeights,
)
from node.listings import expert_listings, survey_listing, trial_listing
from node.loans import Loan
from node.preparing import (
    FEATURES_FRACTION,
    Bench,
    Features,
    Report,
    check_order,
    features_of,
    gathered,
    load,
    load_trunk,
    split,
)
from node.refining import refine
from node.shard_source import ShardSource
from node.shards import Shard, make_shards
from node.stream.gathered import Gathered
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
    job, without_sums = _as_before(job)
    bench = replace(bench, job=job)
    if job.order.gathered:
        found, validation = gathered(bench)
    else:
        found, validation = split(bench, load(bench))
        if not job.order.refine:
            write_validation(folder / VALIDATION_FILE, validation, len(validation))
    training = found.samples
    if job.order.refine:
        return refine(bench, training, validation, started)
    features, held_out, features_flops = _features(bench, training, validation)
    report("clusters", "looking for clusters", FEATURES_FRACTION)
    sharding = make_shards(job, training, features.regions, validation, held_out.regions)
    shards = sharding.shards
    report("clusters", f"{len(shards)} leaves: {', '.join(shard.leaf for shard in shards)}", _SUMS_FRACTION)
    for note in (*sharding.notes, *([without_sums] if without_sums else ())):
        report("clusters", note, _SUMS_FRACTION)
    if features.q is not None:
        report("sums", f"summing up {len(training)} samples' features in pairs", _SUMS_FRACTION)
    given = give(job, folder, shards, features.q)
    if len(sharding.waiting):
        found.subset(sharding.waiting).save(folder / WAITING_FILE)
    for shard in shards:
        _source(shard, found).save(folder / shard_file(shard))
    loans, search_flops = borrowed(bench, shards, features.regions)
    del features, held_out
    order = turns([len(shard.training) for shard in shards])
    learned = [_learn_leaf(bench, shard, turn, loans) for shard, turn in zip(shards, order, strict=True)]
    leaves = tuple(one.leaf for one in learned)
    continued = {leaf.leaf for leaf in leaves}
    waiting = f"{len(sharding.waiting)} samples wait for more of their leaf and class"
    return LearningResult(
        dataset=training.name,
        dry_run=job.order.dry_run,
        leaves=leaves,
        idle_leaves=tuple(leaf.leaf for leaf in job.existing if leaf.leaf not in continued),
        samples=len(training) - len(sharding.waiting),
        validation_samples=len(validation),
        features_flops=features_flops,
        clustering_flops=sharding.flops + search_flops,
        sums_flops=given.flops,
        duration_s=clock() - started,
        device=str(best_device()),
        listings=(
            *given.listings,
            *(listing for one in learned for listing in one.listings),
            trial_listing(len(validation)),
            survey_listing(len(validation)),
        ),
        notes=(
            *given.notes,
            *sharding.notes,
            *([without_sums] if without_sums else ()),
            *unused_start(job.start, shards),
            *([waiting] if len(sharding.waiting) else ()),
            *(one.note for one in learned if one.note),
        ),
        contribution=given.draft,
        forward_flops=features_flops + sum(one.forward_flops for one in learned),
    )


def _as_before(job: LearningJob) -> tuple[LearningJob, str]:
    """Return the job, without sums where samples are added to leaves that were all given without and nobody
    asks for sums by name; and why. Sums of the new samples alone would replace what the leaves stand for."""
    has_sums = any(leaf.sums for leaf in job.existing)
    if not (job.order.accumulate and job.existing) or has_sums or job.order.sums != "auto":
        return job, ""
    words = (
        "goes on without sums, as its leaves were given; with them from now on: swarm train DATA --sums exact"
    )
    return replace(job, order=replace(job.order, sums="none")), words


def _source(shard: Shard, found: Gathered) -> ShardSource:
    """Return where all samples are that a leaf stands for, as far as it is known.

    Of a class that had too few samples to be told of, those stay untold also once more came and are: they are
    in no sums.
    """
    untold = np.setdiff1d(shard.rows, shard.told)
    new = found.source(shard.told).joined(found.source(untold).untold())
    if shard.kept is None or shard.existing is None or not shard.existing.shard:
        return new
    try:
        return ShardSource.read(Path(shard.existing.shard)).joined(new)
    except (NotFoundError, VerificationError):
        return new


def _features(bench: Bench, training: Dataset, validation: Dataset) -> tuple[Features, Features, int]:
    trunk = load_trunk(bench)

    def tell(fraction: float) -> None:
        done = 0.06 + (FEATURES_FRACTION - 0.06) * fraction
        bench.report("features", f"{fraction:.0%} of {len(training)} samples", done)

    summed = bench.job.order.sums != "none"
    found = features_of(trunk, training.inputs, in_fixed_point=summed, tell=tell)
    held_out = features_of(trunk, validation.inputs, in_fixed_point=False)
    return found, held_out, trunk.flops_per_query * (len(training) + len(validation))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """A trained leaf, what of it would leave the machine, how it began, and its forward passes' FLOPs."""

    leaf: LearnedLeaf
    listings: tuple[Listing, ...]
    note: str
    forward_flops: int


def _learn_leaf(bench: Bench, shard: Shard, turn: Turn, loans: Sequence[Loan]) -> _Learned:
    """Train one leaf (unless it is a dry run) and store what its manifest needs."""
    job = bench.job
    named = job.order.net or (shard.existing.net.factory if shard.existing is not None else job.net)
    reference = net_reference(
        named, shard.training.input_shape, len(shard.class_names), job.order.import_paths
    )
    samples = partial(Samples, scale=job.specification.scale, offset=job.specification.offset)
    training = samples(inputs=shard.training.inputs, labels=shard.labels)
    validation = samples(inputs=shard.validation_inputs, labels=shard.validation_labels)
    start, continues = _start(bench, shard, reference, loans, training, validation)
    net, reference = start.net, start.reference
    memory, forward, kept_head = "", 0, ""
    if job.order.dry_run:
        inference_flops = forward_flops(net, reference.input_shape)
        cost = Cost(train_flops=0, inference_flops=inference_flops, samples_seen=0, duration_s=0.0)
        metrics: dict[str, float] = {}
        modules = pack_net(net)[0]
    else:
        update, recalling = update_of(
            bench, shard.leaf, shard.class_names, shard.existing if continues else None
        )
        result = train_leaf(bench, shard.leaf, net, training, validation, turn, update)
        cost, metrics = cost_of(result), {**metrics_of(result), **start.metrics}
        beside = start.flops + recalling
        cost = replace(cost, train_flops=cost.train_flops + beside)
        forward = result.forward_flops * result.samples_seen + result.evaluation_flops + beside
        memory = keep_memory(bench, shard.leaf, result)
        kept_head = head_note(bench, shard.leaf, shard.class_names, result)
        modules, blobs = pack_net(result.net)
        for blob in blobs.values():
            bench.write_to.put(blob)
    sums = sums_file(shard)
    leaf = LearnedLeaf(
        leaf=shard.leaf,
        parent_version=shard.existing.version if shard.existing else 0,
        class_names=shard.class_names,
        class_counts=shard.class_counts,
        net=reference,
        modules=() if job.order.dry_run else modules,
        summary=summary_file(shard),
        metrics=metrics,
        cost=cost,
        sums=sums if (bench.folder / sums).exists() else "",
        borrowed_from=start.borrowed_from,
        shard=shard_file(shard),
        memory=memory,
    )
    note = f"{shard.leaf} {start.message}" if start.metrics or start.is_noted else ""
    note = "; ".join(each for each in (note, kept_head) if each)
    return _Learned(
        leaf=leaf,
        listings=expert_listings(f"{shard.leaf} weights", shard.leaf, modules),
        note=note,
        forward_flops=forward,
    )


def _start(
    bench: Bench,
    shard: Shard,
    reference: NetReference,
    loans: Sequence[Loan],
    training: Samples,
    validation: Samples,
) -> tuple[Start, bool]:
    """Return what a leaf's training begins with, its own last version or the best that is lent; and whether
    it is the former."""
    order, given = bench.job.order, bench.job.start
    if given is not None and shard.existing is None:
        torch.manual_seed(derived_seed(order.seed, "net", shard.number))
        start = imported_start(
            given,
            reference.input_shape,
            shard.class_names,
            bench.read_from.open_verified,
            import_paths=order.import_paths,
        )
        bench.report("borrow", f"{shard.leaf} {start.message}", TRAIN_FRACTION)
        return start, False
    net, continues = _initial_net(bench, shard, reference)
    if shard.existing is not None and shard.existing.offered is not None and not order.dry_run:
        return _offered_start(bench, shard, shard.existing.offered, net, reference, validation), continues
    if shard.existing is not None or order.dry_run or not loans:
        return Start(net=net, reference=reference), continues
    start = choose_start(
        net,
        reference,
        shard.class_names,
        loans,
        bench.read_from.open_verified,
        training,
        validation,
        import_paths=order.import_paths,
        seed=derived_seed(order.seed, "borrow", shard.number),
        tell=lambda message: bench.report("borrow", message, TRAIN_FRACTION),
    )
    bench.report("borrow", f"{shard.leaf} {start.message}", TRAIN_FRACTION)
    return start, False


def _offered_start(
    bench: Bench,
    shard: Shard,
    offered: OfferedWeights,
    own: nn.Module,
    reference: NetReference,
    validation: Samples,
) -> Start:
    """Return the leaf's own weights, or those that its parent was trained to while it was split, where they
    are better on its validation samples."""
    read, paths = bench.read_from.open_verified, bench.job.order.import_paths
    try:
        net, note, flops = better_start(own, offered, reference, shard.class_names, validation, read, paths)
    except (NotFoundError, VerificationError) as error:
        net, note, flops = own, f"starts from its own weights: {error}", 0
    if note:
        bench.report("train", f"{shard.leaf} {note}", TRAIN_FRACTION)
    return Start(net=net, reference=reference, flops=flops, message=note, is_noted=bool(note))


def _initial_net(bench: Bench, shard: Shard, reference: NetReference) -> tuple[nn.Module, bool]:
    """Return a seeded fresh net with the weights of the leaf's last version wherever they fit, and whether it
    is the same net as that."""
    order = bench.job.order
    torch.manual_seed(derived_seed(order.seed, "net", shard.number))
    net = build_net(reference, order.import_paths)
    if shard.existing is None:
        return net, False
    names = shard.existing.class_names, shard.class_names
    try:
        copied = warm_start(net, shard.existing.modules, bench.read_from.open_verified, *names)
    except (NotFoundError, VerificationError) as error:
        bench.report("train", f"{shard.leaf} starts afresh: {error}", TRAIN_FRACTION)
        return net, False
    bench.report(
        "train",
        f"{shard.leaf} continues version {shard.existing.version}: {copied} tensors",
        TRAIN_FRACTION,
    )
    return net, copied > 0 and reference.factory == shard.existing.net.factory
