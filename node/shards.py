"""A node's shards: which samples belong to which leaf, and what the gate learns of each leaf."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.accumulating import Kept, added_counts, enough_of_each, kept_of
from node.jobs import ExistingLeaf, LearningJob
from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import LeafId, leaf_of
from swarm.gating.distances import squared_distances
from swarm.gating.joined_summaries import joined_summary
from swarm.gating.regions import MIN_CLASS_COUNT, LeafSummary, natural_leaves, summarise_leaf

Floats = NDArray[np.float32]
SUMMARY_ARRAYS = ("prototypes", "prototype_counts", "radii")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """One leaf's training and validation samples (classes that it never saw are left out of validation).

    `rows` int64 are the training samples' places among all of the node's, `told` those of the samples that
    the gate is told of: the classes of `new_counts`. `class_names` are the outputs of its net, `labels` int64
    the training samples' columns among them. `class_counts` counts all samples that the leaf then stands for:
    those of `kept` (None: only the new ones) and the new ones. `summary` is of those that the gate is told
    of; where there are none, it is of all samples and stays on the node. `existing` is the leaf that it
    continues, None for a new one.
    """

    number: int
    leaf: LeafId
    rows: NDArray[np.int64]
    told: NDArray[np.int64]
    training: Dataset
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    class_counts: Mapping[str, int]
    validation_inputs: NDArray[np.generic]
    validation_labels: NDArray[np.int64]
    summary: LeafSummary
    existing: ExistingLeaf | None
    kept: Kept | None = None

    @property
    def told_counts(self) -> dict[str, int]:
        """The samples of each class that the gate is told of."""
        return told_counts(self.class_counts)

    @property
    def new_counts(self) -> dict[str, int]:
        """Those of them that are new."""
        return told_counts(self.training.class_counts())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sharding:
    """A job's shards by number, the rows of training samples that wait for more of their kind, what finding
    them cost, and what is to be said of it."""

    shards: list[Shard]
    waiting: NDArray[np.int64]
    flops: int
    notes: tuple[str, ...] = ()


def told_counts(class_counts: Mapping[str, int]) -> dict[str, int]:
    """Return the classes of a leaf that the gate is told of: the others have too few samples to sum over."""
    return {name: count for name, count in class_counts.items() if count >= MIN_CLASS_COUNT}


def make_shards(
    job: LearningJob,
    training: Dataset,
    training_regions: Floats,
    validation: Dataset,
    validation_regions: Floats,
) -> Sharding:
    """Return the leaves' shards, from features in region columns [N, R].

    One leaf unless they fall into really separate clusters. A cluster continues the existing leaf whose
    prototypes are nearest; clusters beyond those get new numbers. Where samples are added to what leaves
    stand for (`order.accumulate`), and where leaves were split, each sample belongs to the existing leaf
    with the nearest prototype instead. Raises InvalidInputError where all added samples have to wait.
    """
    specification = job.specification
    accumulate = job.order.accumulate
    if job.existing and (accumulate or job.branches):
        found = _by_leaf(job, training_regions, validation_regions)
    else:
        found = _by_cluster(job, training_regions, validation_regions)
    waiting = np.zeros(len(training), dtype=bool)
    if accumulate:
        waiting = ~enough_of_each(found.training, training.labels, specification.min_leaf_count)
        if waiting.all():
            raise InvalidInputError(
                "samples to add",
                found=f"{len(training)}, too few of each class and leaf",
                expected=f"{specification.min_leaf_count} or more of a leaf, {MIN_CLASS_COUNT} of a class",
                remedy="they wait; bring more",
            )
    shards, flops, notes, free = [], found.flops, list[str](), job.first_free_leaf
    for place, existing in enumerate(found.leaves):
        rows = np.flatnonzero((found.training == place) & ~waiting)
        if not len(rows):
            continue
        kept, why_not = None, ""
        if accumulate and existing is not None:
            sum_size = 0 if job.order.sums == "none" else specification.trunk.sum_size
            kept, why_not = kept_of(existing, read_summary(existing.prototypes), sum_size)
        if why_not:
            notes.append(f"{existing.leaf if existing else ''} stands for its new samples alone: {why_not}")
        number = existing.number if existing else free
        free += existing is None
        shard, cost = _shard(job, training, training_regions, rows, number, existing, kept)
        flops += cost
        labels = validation.labels_among(shard.class_names)
        judged = np.flatnonzero((found.validation == place) & (labels >= 0))
        shards.append(
            replace(shard, validation_inputs=validation.inputs[judged], validation_labels=labels[judged])
        )
    return Sharding(
        shards=sorted(shards, key=lambda shard: shard.number),
        waiting=np.flatnonzero(waiting),
        flops=flops,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """Which of `leaves` (None: a new one) each training and validation sample belongs to, int64 rows."""

    leaves: list[ExistingLeaf | None]
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    flops: int


def _by_cluster(job: LearningJob, training: Floats, validation: Floats) -> _Found:
    specification = job.specification
    clusters = natural_leaves(
        training,
        max_leaves=specification.max_leaves_per_owner,
        min_shard=specification.min_leaf_count,
        seed=job.order.seed,
    )
    wide = validation.astype(np.float64)
    held_out = squared_distances(wide, clusters.centres.astype(np.float64)).argmin(axis=1)
    return _Found(
        leaves=match_leaves(clusters.centres, job.existing),
        training=clusters.labels,
        validation=held_out,
        flops=clusters.flops + 2 * len(validation) * clusters.centres.size,
    )


def _by_leaf(job: LearningJob, training: Floats, validation: Floats) -> _Found:
    summaries = [read_summary(leaf.prototypes) for leaf in job.existing]
    numbers = sum(found["prototypes"].size for found in summaries if found is not None)
    return _Found(
        leaves=list(job.existing),
        training=nearest_leaves(training, job.existing),
        validation=nearest_leaves(validation, job.existing),
        flops=2 * (len(training) + len(validation)) * numbers,
    )


def _shard(
    job: LearningJob,
    training: Dataset,
    regions: Floats,
    rows: NDArray[np.int64],
    number: int,
    existing: ExistingLeaf | None,
    kept: Kept | None,
) -> tuple[Shard, int]:
    """Return a shard, without validation samples yet, and what summarising it cost."""
    samples = training.subset(rows)
    names = samples.class_names
    if existing is not None and job.order.accumulate:
        names = (*existing.class_names, *(name for name in names if name not in existing.class_names))
    told = rows[samples.labels_among(tuple(told_counts(samples.class_counts()))) >= 0]
    most = job.specification.max_prototypes_per_leaf
    summary = summarise_leaf(regions[told if len(told) else rows], prototypes=most, seed=job.order.seed)
    flops = summary.flops
    if kept is not None:
        summary = joined_summary(kept.summary, summary, prototypes=most)
        flops += summary.flops
    shard = Shard(
        number=number,
        leaf=leaf_of(job.node, number),
        rows=rows,
        told=told,
        training=samples,
        class_names=names,
        labels=samples.labels_among(names),
        class_counts=added_counts(kept, samples.class_counts()),
        validation_inputs=training.inputs[:0],
        validation_labels=np.zeros(0, dtype=np.int64),
        summary=summary,
        existing=existing,
        kept=kept,
    )
    return shard, flops


def match_leaves(centres: Floats, existing: Sequence[ExistingLeaf]) -> list[ExistingLeaf | None]:
    """Return, for each cluster's centre [k, R], the existing leaf that it continues, or None.

    Pairs are taken by rising distance from centre to the leaf's nearest prototype, each leaf once; a leaf
    without readable prototypes of this trunk comes last.
    """
    distances = np.full((len(centres), len(existing)), np.inf)
    for column, leaf in enumerate(existing):
        prototypes = _prototypes(leaf)
        if prototypes is not None and prototypes.shape[1:] == centres.shape[1:]:
            wide = squared_distances(centres.astype(np.float64), prototypes.astype(np.float64))
            distances[:, column] = wide.min(axis=1)
    matched: list[ExistingLeaf | None] = [None] * len(centres)
    taken: set[int] = set()
    for flat in np.argsort(distances, axis=None, kind="stable"):
        cluster, column = divmod(int(flat), len(existing))
        if matched[cluster] is None and column not in taken:
            matched[cluster] = existing[column]
            taken.add(column)
    return matched


def summary_arrays(summary: LeafSummary) -> dict[str, NDArray[Any]]:
    """Return a leaf's summary under the names of its contribution's tensors."""
    return {
        "prototypes": summary.prototypes,
        "prototype_counts": summary.counts,
        "radii": summary.radii,
    }


def read_summary(path: str) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a leaf's summary, None where there are none that can be read."""
    found = _read(path)
    if found is None or any(name not in found for name in SUMMARY_ARRAYS):
        return None
    return {name: found[name] for name in SUMMARY_ARRAYS}


def nearest_leaves(regions: Floats, existing: Sequence[ExistingLeaf]) -> NDArray[np.int64]:
    """Return for each sample's features in region columns [N, R] the row of the existing leaf that it belongs
    to, int64 [N]: the one with the nearest prototype; leaves without readable prototypes get none, unless no
    leaf has any: then all are the first's."""
    distances = np.full((len(regions), len(existing)), np.inf, dtype=np.float32)
    for row, leaf in enumerate(existing):
        prototypes = _prototypes(leaf)
        if len(existing) > 1 and prototypes is not None and prototypes.shape[1:] == regions.shape[1:]:
            wide = squared_distances(regions, prototypes.astype(np.float64))
            distances[:, row] = wide.min(axis=1)
    nearest: NDArray[np.int64] = distances.argmin(axis=1)
    return nearest


def _prototypes(leaf: ExistingLeaf) -> Floats | None:
    return (_read(leaf.prototypes) or {}).get("prototypes")


def _read(path: str) -> dict[str, NDArray[Any]] | None:
    if not path:
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
