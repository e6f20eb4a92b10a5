"""A node's shards: which samples belong to which leaf, and what the gate learns of each leaf."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.jobs import ExistingLeaf, LearningJob
from swarm.data.dataset import Dataset
from swarm.domain.ids import LeafId, leaf_of
from swarm.gating.distances import squared_distances
from swarm.gating.regions import MIN_CLASS_COUNT, LeafSummary, natural_leaves, summarise_leaf

Floats = NDArray[np.float32]
SUMMARY_ARRAYS = ("prototypes", "prototype_counts", "radii")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """One leaf's training and validation samples (classes that it never saw are left out of validation).

    `rows` int64 are the training samples' places among all of the node's, `told` those of the samples that
    the gate is told of: the classes of `told_counts`. `summary` is of these alone; where there are none, it
    is of all samples and stays on the node. `existing` is the leaf that it continues, None for a new one.
    """

    number: int
    leaf: LeafId
    rows: NDArray[np.int64]
    told: NDArray[np.int64]
    training: Dataset
    validation_inputs: NDArray[np.generic]
    validation_labels: NDArray[np.int64]
    summary: LeafSummary
    existing: ExistingLeaf | None

    @property
    def told_counts(self) -> dict[str, int]:
        """The samples of each class that the gate is told of."""
        return told_counts(self.training.class_counts())


def told_counts(class_counts: Mapping[str, int]) -> dict[str, int]:
    """Return the classes of a leaf that the gate is told of: the others have too few samples to sum over."""
    return {name: count for name, count in class_counts.items() if count >= MIN_CLASS_COUNT}


def make_shards(
    job: LearningJob,
    training: Dataset,
    training_regions: Floats,
    validation: Dataset,
    validation_regions: Floats,
) -> tuple[list[Shard], int]:
    """Return the leaves' shards by number, and the FLOPs of clustering and summaries.

    One leaf unless the features in region columns [N, R] fall into really separate clusters. A cluster
    continues the existing leaf whose prototypes are nearest; clusters beyond those get new numbers.
    """
    specification, seed = job.specification, job.order.seed
    clusters = natural_leaves(
        training_regions,
        max_leaves=specification.max_leaves_per_owner,
        min_shard=specification.min_leaf_count,
        seed=seed,
    )
    wide = validation_regions.astype(np.float64)
    held_out = squared_distances(wide, clusters.centres.astype(np.float64)).argmin(axis=1)
    flops = clusters.flops + 2 * len(validation) * clusters.centres.size
    shards, free = [], job.first_free_leaf
    for cluster, existing in enumerate(match_leaves(clusters.centres, job.existing)):
        rows = np.flatnonzero(clusters.labels == cluster)
        shard = training.subset(rows)
        labels = validation.labels_among(shard.class_names)
        judged = np.flatnonzero((held_out == cluster) & (labels >= 0))
        told = rows[shard.labels_among(tuple(told_counts(shard.class_counts()))) >= 0]
        summary = summarise_leaf(
            training_regions[told if len(told) else rows],
            prototypes=specification.max_prototypes_per_leaf,
            seed=seed,
        )
        flops += summary.flops
        number = existing.number if existing else free
        free += existing is None
        shards.append(
            Shard(
                number=number,
                leaf=leaf_of(job.node, number),
                rows=rows,
                told=told,
                training=shard,
                validation_inputs=validation.inputs[judged],
                validation_labels=labels[judged],
                summary=summary,
                existing=existing,
            )
        )
    return sorted(shards, key=lambda shard: shard.number), flops


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
