"""What every task of growth needs: a leaf's samples again, their features, the validation samples near it."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.array_files import save_arrays
from node.growth.jobs import GrowingLeaf, GrowthJob
from node.growth.laying import Laid, LaidLeaf, narrowed
from node.held_out import read_validation
from node.preparing import Features, Report, features_of
from node.shard_source import ShardSource
from node.shards import summary_arrays, told_counts
from node.sums import LeafSums, summed
from swarm.data.dataset import Dataset
from swarm.domain.errors import InvalidInputError, VerificationError
from swarm.domain.ids import LeafId, number_of
from swarm.experts.inputs import best_device
from swarm.experts.samples import Samples
from swarm.experts.trunk import Trunk
from swarm.gating.distances import squared_distances
from swarm.gating.regions import summarise_by, summarise_leaf
from swarm.gating.sums import target_columns
from swarm.modules.blobs import BlobFiles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stood:
    """A leaf as it will stand in the gate: its part of the contribution, and the names of its files.
    `class_counts` are those that the gate is told of."""

    laid: LaidLeaf
    class_counts: dict[str, int]
    summary: str
    sums: str
    shard: str


@dataclass(kw_only=True, eq=False)
class GrowthBench:
    """One task's job and folder. `flops` counts features, clusters and sums as they are reckoned."""

    job: GrowthJob
    folder: Path
    report: Report
    clock: Callable[[], float] = time.monotonic
    flops: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read_from = BlobFiles(Path(self.job.blob_folder))
        self.write_to = BlobFiles(self.folder / "blobs")
        self.started = self.clock()

    @cached_property
    def trunk(self) -> Trunk:
        """The specification's trunk on the best device here."""
        specification = self.job.specification
        return Trunk.load(
            specification.trunk,
            self.read_from.open_verified,
            scale=specification.scale,
            offset=specification.offset,
            import_paths=self.job.import_paths,
            device=best_device(),
        )

    @cached_property
    def laid(self) -> Laid:
        """The contribution to change."""
        if self.job.contribution is None:
            raise InvalidInputError(
                f"{self.job.task} on {self.job.node}",
                found="no contribution that is kept here",
                expected="the one that the gate has",
                remedy="train once more: swarm train DATA",
            )
        return Laid.read(self.job.contribution, Path(self.job.arrays))

    def source(self, leaf: GrowingLeaf) -> ShardSource:
        """Return where a leaf's samples are; NotFoundError where that was never kept."""
        return ShardSource.read(Path(leaf.shard or "."))

    def samples(self, leaf: GrowingLeaf) -> tuple[ShardSource, Dataset]:
        """Return the samples that a leaf was trained on, and where they are."""
        self.report("data", f"reads the samples of {leaf.leaf}", 0.0)
        source = self.source(leaf)
        return source, source.load(self.job.specification, str(leaf.leaf))

    def features(self, inputs: NDArray[np.generic], *, in_fixed_point: bool = True) -> Features:
        """Return the features of raw inputs [N, *shape]."""
        self.flops += self.trunk.flops_per_query * len(inputs)

        def tell(fraction: float) -> None:
            self.report("features", f"{fraction:.0%} of {len(inputs)} samples", 0.5 * fraction)

        return features_of(self.trunk, inputs, in_fixed_point=in_fixed_point, tell=tell)

    def as_samples(
        self, dataset: Dataset, class_names: tuple[str, ...], base: NDArray[np.float32] | None = None
    ) -> Samples:
        """Return a dataset for training a net with these classes, all of which the net knows."""
        specification = self.job.specification
        return Samples(
            inputs=dataset.inputs,
            labels=dataset.labels_among(class_names),
            scale=specification.scale,
            offset=specification.offset,
            base_logits=base,
        )

    def validation(self, leaf: LeafId, class_names: tuple[str, ...], laid: Laid) -> Dataset | None:
        """Return the node's validation samples in the region of a leaf, of classes that its net knows.

        In its region are those whose nearest prototype, of all of the node's leaves in `laid`, is the leaf's.
        None: there are none.
        """
        path = Path(self.job.validation) if self.job.validation else None
        if path is None or not path.exists():
            return None
        held_out = read_validation(path)
        held_out = held_out.subset(np.flatnonzero(held_out.labels_among(class_names) >= 0))
        if not len(held_out):
            return None
        regions = self.features(held_out.inputs, in_fixed_point=False).regions
        own = np.flatnonzero(nearest(regions, laid) == laid.leaves.index(laid.leaf(leaf)))
        return held_out.subset(own) if len(own) else None

    def stands(
        self,
        leaf: LeafId,
        samples: Dataset,
        features: Features,
        source: ShardSource,
        *,
        rank: int,
        parent: str = "",
        told: Collection[str] | None = None,
        name: str = "leaf",
        prototypes: int = 0,
        regions: NDArray[np.float32] | None = None,
    ) -> Stood:
        """Summarise and sum up a leaf's samples, and save what is kept of it in files that begin with `name`.

        `told`: the classes that the gate is told of; None: those with samples enough. It has so many
        `prototypes` (0: as many as the specification allows), or those of `regions` [K, R] that enough of its
        samples are near to.
        """
        job, stem = self.job, f"{name}-{number_of(leaf)}"
        counted = samples.subset(np.flatnonzero(source.told)).class_counts()
        if told is None:
            told = told_counts(counted)
        counts = {each: count for each, count in counted.items() if each in told}
        names = sorted(counts)
        labels = samples.labels_among(names)
        rows = np.flatnonzero((labels >= 0) & source.told)
        points = features.regions[rows if len(rows) else slice(None)]
        most = prototypes or job.specification.max_prototypes_per_leaf
        summary = (
            summarise_by(points, regions)
            if regions is not None
            else summarise_leaf(points, prototypes=most, seed=job.seed)
        )
        self.flops += summary.flops
        arrays = summary_arrays(summary)
        save_arrays(self.folder / f"{stem}.npz", arrays)
        sums = ""
        if features.q is not None and len(rows):
            q = features.q[rows]
            columns = target_columns(q, labels[rows], len(names))
            f, cost = summed(q, rank, job.seed)
            self.flops += cost + columns.shape[0] * len(rows)
            sums = f"{stem}.sums.npz"
            LeafSums(columns=columns, f=f).save(self.folder / sums)
            arrays = {**arrays, "columns": narrowed(columns)}
        shard = f"{stem}.shard.npz"
        source.save(self.folder / shard)
        return Stood(
            laid=LaidLeaf(leaf=leaf, class_counts=counts, arrays=arrays, parent=parent),
            class_counts=counts,
            summary=f"{stem}.npz",
            sums=sums,
            shard=shard,
        )

    def own_sums(self, leaf: GrowingLeaf) -> LeafSums | None:
        """Return a leaf's own sums, None where they are not kept, or not those that the gate has."""
        found = LeafSums.read(Path(leaf.sums), self.job.specification.trunk.sum_size) if leaf.sums else None
        laid = next((one for one in self.laid.leaves if one.leaf == leaf.leaf), None)
        if found is None or laid is None or found.f.samples != laid.samples:
            return None
        # The leaf may have been trained since, on other data that no gate has.
        return found if np.array_equal(found.columns, laid.arrays.get("columns", ())) else None


def nearest(regions: NDArray[np.float32], laid: Laid) -> NDArray[np.int64]:
    """Return for each sample in region columns [N, R] the row of the leaf with the nearest prototype."""
    distances = np.stack(
        [
            squared_distances(regions, one.arrays["prototypes"].astype(np.float64)).min(axis=1)
            for one in laid.leaves
        ],
        axis=1,
    )
    found: NDArray[np.int64] = distances.argmin(axis=1)
    return found


def check_same(laid: LaidLeaf, samples: Dataset, features: Features, told: NDArray[np.bool_]) -> None:
    """Raise VerificationError unless the leaf's part of the contribution is of these samples, of those among
    them that are told, bool [N]."""
    names = sorted(laid.class_counts)
    labels = np.where(told, samples.labels_among(names), -1)
    counted = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    same = counted == [laid.class_counts[name] for name in names]
    if same and "columns" in laid.arrays and features.q is not None:
        rows = np.flatnonzero(labels >= 0)
        same = np.array_equal(
            target_columns(features.q[rows], labels[rows], len(names)), laid.arrays["columns"]
        )
    if not same:
        raise VerificationError(
            f"samples of {laid.leaf}",
            found="sums over their features that differ from those that the gate has",
            expected="the samples of its last contribution",
            remedy="train it once more: swarm train DATA",
        )
