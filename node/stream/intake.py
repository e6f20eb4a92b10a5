"""Taking one mega-batch, in a process of its own: `python -m node.stream.intake FOLDER` on an intake.json.

The samples are split once and for all by their own bytes, judged by the experts that answer now, looked
through for what is new, and laid down in the folder; `taken.json` is written last. Everything is a function
of the job and the node's state, so a run that was killed is done again. With `judge_only` only the error of
the experts is measured.
"""

import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from node.children import die_with_parent
from node.held_out import digest_in, read_validation, validated_classes, validation_with, write_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import VALIDATION_FILE, ExistingLeaf
from node.learner import PROBLEM_EXIT, say
from node.preparing import features_of
from node.shards import nearest_leaves, read_summary
from node.stream.gathered import Gathered
from node.stream.novelty import Known, keep_novel, known_reach, reach_of
from node.stream.taking import HELD_OUT_FILE, TRAINING_FILE, VALIDATION_SO_FAR, Intake, IntakeJob
from node.stream.trouble import reason_of
from swarm.data.dataset import Dataset, check_form
from swarm.data.sources import load_test, load_training
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.problems import Problem
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import best_device
from swarm.experts.trunk import Trunk
from swarm.gating.regions import region_columns
from swarm.modules.blobs import BlobFiles

_CALIBRATED = 1000
"""What is known reaches as far as so many validation samples of it do."""


class _SamplesError(Exception):
    """The mega-batch's own samples are at fault, for this reason."""

    def __init__(self, reason: SwarmError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def _of_samples() -> Iterator[None]:
    try:
        yield
    except SwarmError as error:
        if _is_the_machines(error.__cause__):
            raise error.__cause__ from error
        raise _SamplesError(error) from error


def _is_the_machines(cause: BaseException | None) -> TypeGuard[OSError]:
    """Say whether it is the disk that failed, not what a damaged file asked of it."""
    return isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL, errno.EOVERFLOW)


def take(job: IntakeJob, folder: Path) -> Intake:
    """Take the job's mega-batch into the folder. Raises what is wrong with its samples."""
    started = time.monotonic()
    judges = _Judges(job)
    state = Path(job.state)
    if job.judge_only:
        judged, measured_on = _measure(job, state / VALIDATION_FILE)
        return Intake(error=judges.error(judged), judged=len(judged), measured_on=measured_on)
    with _of_samples():
        dataset = load_training(job.source, job.import_paths, min_classes=1)
        check_form(dataset, job.specification)
    added_to = digest_in(state / VALIDATION_FILE)
    classes = validated_classes(state / VALIDATION_FILE, dataset)
    validated = [label for label, name in enumerate(dataset.class_names) if name in classes]
    with _of_samples():
        kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION, validated)
    training = Gathered.of(dataset, kept, job.source, job.import_paths)
    training.save(folder / TRAINING_FILE)
    own = dataset.subset(held_out)
    validation, seen = validation_with(state / VALIDATION_FILE, own, job.seed)
    write_validation(folder / VALIDATION_FILE, validation, seen)
    write_validation(folder / HELD_OUT_FILE, own, len(own))
    judged, measured_on = _measure(job, folder / VALIDATION_FILE)
    novel, known, forward, total = _novel(job, judges, training.samples)
    # A node's first samples make its first leaves: they are new, but nothing is to be added for them.
    rows = kept[novel] if job.answering else kept[:0]
    part = Gathered.of(dataset, rows, job.source, job.import_paths).source(np.arange(len(rows)))
    by, reach = known
    novel_classes = Counter(dataset.class_names[label] for label in dataset.labels[rows])
    keep_novel(state, folder, job.number, part, len(kept), by, reach, novel_classes)
    return Intake(
        samples=len(dataset),
        held_out=len(held_out),
        error_before=judges.error(own) if job.answering and len(own) else None,
        error=judges.error(judged),
        judged=len(judged),
        measured_on=measured_on,
        added_to=added_to,
        fresh=len(kept),
        novel=len(novel),
        novelty_by=known[0],
        flops_forward=forward,
        flops_total=total,
        seconds=time.monotonic() - started,
    )


def _measure(job: IntakeJob, validation: Path) -> tuple[Dataset, str]:
    """Return the samples that errors are measured on, and what to call them."""
    if not job.test:
        return read_validation(validation), VALIDATION_SO_FAR
    try:
        found = load_test(job.test, job.import_paths)
    except NotFoundError:
        found = load_training(job.test, job.import_paths, min_classes=1)
    return found, job.test


def _novel(
    job: IntakeJob, judges: "_Judges", training: Dataset
) -> tuple[NDArray[np.int64], tuple[str, float], int, int]:
    """Return the novel rows, by whose prototypes and beyond which distance, and the FLOPs of forward passes
    and altogether."""
    none: tuple[NDArray[np.int64], tuple[str, float], int, int] = (np.zeros(0, np.int64), ("", 1.0), 0, 0)
    if job.gate is not None:
        known: Known | None = Known.of_gate(job.gate, BlobFiles(Path(job.blob_folder)).open_verified)
    else:
        summaries = [read_summary(one.prototypes) for one in job.answering]
        named = ", ".join(f"{one.manifest.expert}@{one.manifest.version}" for one in job.answering)
        known = Known.of_summaries([one for one in summaries if one is not None], named)
    if known is None or known.prototypes.shape[1] != judges.region_size:
        return none
    reach, forward, total = _reach(job, judges, known)
    regions, cost = judges.regions(training.inputs)
    distances, flops = known.distances(regions)
    return np.flatnonzero(distances > reach), (known.by, reach), forward + cost, total + cost + flops


def _reach(job: IntakeJob, judges: "_Judges", known: Known) -> tuple[float, int, int]:
    """Return how far out what is known reaches, and the FLOPs of finding out."""
    state = Path(job.state)
    found = known_reach(state, known.by)
    if found is not None or not (state / VALIDATION_FILE).exists():
        return found or 1.0, 0, 0
    samples = read_validation(state / VALIDATION_FILE).inputs
    rows = np.arange(min(len(samples), _CALIBRATED)) * len(samples) // max(1, min(len(samples), _CALIBRATED))
    regions, forward = judges.regions(samples[rows])
    distances, flops = known.distances(regions)
    return reach_of(distances), forward, forward + flops


class _Judges:
    """The node's experts as they answer now: each sample by the leaf with the nearest prototype."""

    def __init__(self, job: IntakeJob) -> None:
        read = BlobFiles(Path(job.blob_folder)).open_verified
        specification = job.specification
        self._experts = [
            LoadedExpert.load(one.manifest, read, specification, job.import_paths, best_device())
            for one in job.answering
        ]
        self._leaves = [
            ExistingLeaf(
                leaf=one.manifest.leaf,
                version=one.manifest.version,
                net=one.manifest.net,
                class_names=one.manifest.class_names,
                modules=one.manifest.modules,
                prototypes=one.prototypes,
            )
            for one in job.answering
        ]
        self._trunk = Trunk.load(
            specification.trunk,
            read,
            scale=specification.scale,
            offset=specification.offset,
            import_paths=job.import_paths,
            device=best_device(),
        )

    @property
    def region_size(self) -> int:
        """The number of region columns."""
        return len(region_columns(self._trunk.feature_size))

    def regions(self, inputs: NDArray[np.generic]) -> tuple[NDArray[np.float32], int]:
        """Return features in region columns [N, R], and the FLOPs."""
        found = features_of(self._trunk, inputs, in_fixed_point=False)
        return found.regions, self._trunk.flops_per_query * len(inputs)

    def error(self, samples: Dataset) -> float:
        """Return the share of samples that the experts get wrong; 1 where there is none yet."""
        if not self._experts or not len(samples):
            return 1.0
        rows = np.zeros(len(samples), dtype=np.int64)
        if len(self._experts) > 1:
            rows = nearest_leaves(self.regions(samples.inputs)[0], self._leaves)
        right = 0
        for number, expert in enumerate(self._experts):
            own = np.flatnonzero(rows == number)
            if len(own):
                told = expert.probabilities(samples.inputs[own]).argmax(axis=1)
                right += int((told == samples.labels_among(expert.class_names)[own]).sum())
        return 1.0 - right / len(samples)


def main(folder: Path) -> int:
    """Do the job in a folder; return the exit code, as `node.learner` does."""
    try:
        job = IntakeJob.read(folder)
        torch.set_num_threads(max(1, job.threads))
        if not (folder / Intake.FILE).exists():
            take(job, folder).write(folder)
    except _SamplesError as error:
        say({"problem": asdict(Problem.of(error.reason)), "of": "samples"})
        return PROBLEM_EXIT
    except SwarmError as error:
        say({"problem": asdict(Problem.of(error)), "of": "stream"})
        return PROBLEM_EXIT
    except (OSError, MemoryError) as error:
        trouble = SwarmError(
            "taking a mega-batch",
            found=f"{type(error).__name__}: {error}",
            expected="room on the disk and in memory, and files that can be read",
            remedy="mend that; it is tried again by itself",
        )
        say({"problem": asdict(Problem.of(trouble)), "of": "machine", "reason": reason_of(error)})
        return PROBLEM_EXIT
    say({"stage": "done"})
    return 0


if __name__ == "__main__":
    # What is laid down holds private samples.
    os.umask(0o077)
    die_with_parent()
    sys.exit(main(Path(sys.argv[1])))
