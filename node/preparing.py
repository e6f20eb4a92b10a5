"""The first stages of every job: read the data, hold out validation, compute features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from node.held_out import read_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import VALIDATION_FILE, LearningJob
from node.stream.gathered import Gathered
from swarm.data.dataset import Dataset, check_fits
from swarm.data.sources import load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net, net_reference
from swarm.experts.training import TrainSettings
from swarm.experts.trunk import Trunk
from swarm.experts.updating.port import UpdateStrategy
from swarm.experts.updating.registry import DEFAULT_UPDATE, strategy_named
from swarm.experts.updating.replay import Replay
from swarm.gating.regions import region_columns
from swarm.gating.sums import quantised
from swarm.modules.blobs import BlobFiles

FEATURES_FRACTION = 0.15
"""How far a job is once the features are there."""
_ROWS = 2048

Report = Callable[[str, str, float], None]
"""Called with stage, message and the fraction of the whole job that is done."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What every stage of a job needs."""

    job: LearningJob
    folder: Path
    report: Report
    clock: Callable[[], float]
    read_from: BlobFiles
    write_to: BlobFiles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Samples' features: `regions` float32 [N, R] in region columns, and all in fixed point, `q` int16
    [N, M], None where nobody asked."""

    regions: NDArray[np.float32]
    q: NDArray[np.int16] | None


def check_order(job: LearningJob) -> None:
    """Refuse what cannot be had before any work is done: absurd numbers, a net that cannot be built."""
    order, specification = job.order, job.specification
    if order.seed < 0:
        raise InvalidInputError("seed", found=str(order.seed), expected="0 or more")
    TrainSettings(steps=order.steps, budget_s=order.budget_s)
    update_strategy(order)
    shape, classes = specification.input_shape, max(2, len(specification.class_names))
    with torch.random.fork_rng(devices=[]):
        build_net(net_reference(job.net, shape, classes, order.import_paths), order.import_paths)


def update_strategy(order: TrainOrder) -> UpdateStrategy | None:
    """Return what keeps a leaf that continues from forgetting: DEFAULT_UPDATE where mega-batches are learned,
    else, unless the order names one, None: it is fine-tuned.

    InvalidInputError for a name that there is not, and where a strategy that remembers no samples is told how
    many, which, or what to make of them.
    """
    name = order.update or (DEFAULT_UPDATE if order.gathered else "")
    strategy = strategy_named(name) if name else None
    flags = {"capacity": "--memory", "select": "--remember", "head": "--head"}
    told = {"capacity": order.memory, "select": order.remember, "head": order.head}
    given: dict[str, Any] = {knob: value for knob, value in told.items() if value}
    if not given:
        return strategy
    if not isinstance(strategy, Replay):
        words = ", ".join(f"{flags[knob]} {value}" for knob, value in given.items())
        raise InvalidInputError(
            "update memory",
            found=f"{words} for {name or 'fine-tuning'}",
            expected=f"none: only {Replay.name} remembers samples",
            remedy=f"--update {Replay.name}, or leave it out",
        )
    return replace(strategy, **given)


def load(bench: Bench) -> Dataset:
    """Return the order's training data, after checking that they fit the specification."""
    order = bench.job.order
    bench.report("data", f"reading {order.data}", 0.0)
    dataset = load_training(order.data, order.import_paths)
    check_fits(dataset, bench.job.specification)
    _tell_counts(bench, dataset)
    return dataset


def split(bench: Bench, dataset: Dataset) -> tuple[Gathered, Dataset]:
    """Return training samples with their places, and validation samples, split before all else."""
    minimum = bench.job.specification.min_leaf_count
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    if len(kept) < minimum:
        raise InvalidInputError(
            f"data {dataset.name}",
            found=f"{len(kept)} samples to train on after {len(held_out)} were held out for validation",
            expected=f"at least {minimum}, the least that a leaf may stand for",
            remedy="bring more samples",
        )
    bench.report("data", f"{len(held_out)} samples stay back for validation", 0.05)
    order = bench.job.order
    return Gathered.of(dataset, kept, order.data, order.import_paths), dataset.subset(held_out)


def gathered(bench: Bench) -> tuple[Gathered, Dataset]:
    """Return the training samples that a stream has gathered, and the validation samples of all its
    mega-batches so far, which lie in the job's folder."""
    bench.report("data", f"reading {bench.job.order.data}", 0.0)
    found = Gathered.joined([Gathered.read(Path(file)) for file in bench.job.order.gathered])
    _tell_counts(bench, found.samples)
    validation = read_validation(bench.folder / VALIDATION_FILE)
    bench.report("data", f"{len(validation)} samples stay back for validation", 0.05)
    return found, validation


def _tell_counts(bench: Bench, dataset: Dataset) -> None:
    counts = dataset.class_counts()
    named = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:10])
    bench.report("data", f"{len(dataset)} samples of {len(counts)} classes: {named}", 0.03)


def load_trunk(bench: Bench) -> Trunk:
    """Return the specification's trunk on the best device here."""
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
    return trunk


def features_of(
    trunk: Trunk,
    inputs: NDArray[np.generic],
    *,
    in_fixed_point: bool,
    tell: Callable[[float], None] = lambda fraction: None,
) -> Features:
    """Return the features of raw inputs [N, *shape], made part by part, so that never all of them lie in
    memory in float32. `tell` is called with the fraction that is done."""
    reference = trunk.reference
    columns = region_columns(reference.feature_size)
    regions = np.empty((len(inputs), len(columns)), dtype=np.float32)
    q = np.empty((len(inputs), reference.sum_size), dtype=np.int16) if in_fixed_point else None
    for rows, part in feature_parts(trunk, inputs):
        regions[rows] = part[:, columns]
        if q is not None:
            q[rows] = quantised(part, reference.fixed_point, reference.has_constant)
        tell(rows.stop / len(inputs))
    return Features(regions=regions, q=q)


def feature_parts(trunk: Trunk, inputs: NDArray[np.generic]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the features of raw inputs [N, *shape] part by part: which rows, float32 [b, feature_size]."""
    for start in range(0, len(inputs), _ROWS):
        rows = slice(start, min(start + _ROWS, len(inputs)))
        yield rows, trunk.features(inputs[rows])
