"""A node's own samples for federated rounds: what its newest training order reads, split as training does; of
a stream, what its leaves stand for by now.

Named by the node's own configuration as `samples = node.federated_samples:load`, with `home` beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.held_out import read_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import JOB_FILE, VALIDATION_FILE, LearningJob
from node.leaves import LeafBook
from node.shard_source import ShardSource
from node.stream.novelty import NOVEL_FILE
from swarm.config import NodeHome
from swarm.data.dataset import Dataset, check_fits
from swarm.data.sources import load_training
from swarm.domain.errors import NotFoundError, NotReadyError, SwarmError
from swarm.experts.inputs import best_device
from swarm.experts.trunk import Trunk
from swarm.federation.own_samples import OwnSamples
from swarm.modules.blobs import BlobFiles

SOURCE = "node.federated_samples:load"


def load(configuration: Mapping[str, Any]) -> OwnSamples:
    """Return the samples of the node whose `home` the configuration names.

    Raises NotReadyError where it has not trained yet, and what is wrong with its data.
    """
    home = NodeHome(Path(str(configuration["home"])))
    job = newest_job(home)
    order, specification = job.order, job.specification
    training, validation = _of_stream(home, job) if order.gathered else _of_order(job)
    trunk = Trunk.load(
        specification.trunk,
        BlobFiles(Path(job.blob_folder)).open_verified,
        scale=specification.scale,
        offset=specification.offset,
        import_paths=order.import_paths,
        device=best_device(),
    )
    return OwnSamples(
        node=str(job.node),
        specification=specification,
        training=training,
        validation=validation,
        features=trunk.features,
        import_paths=order.import_paths,
        novel=lambda: _novel(home, job),
    )


def _of_order(job: LearningJob) -> tuple[Dataset, Dataset]:
    order = job.order
    dataset = load_training(order.data, order.import_paths)
    check_fits(dataset, job.specification)
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    return dataset.subset(kept), dataset.subset(held_out)


def _of_stream(home: NodeHome, job: LearningJob) -> tuple[Dataset, Dataset]:
    book = LeafBook(home.state)
    sources = [ShardSource.read(book.shard(leaf.leaf)) for leaf in book.leaves()]
    everything = ShardSource(parts=tuple(part for source in sources for part in source.parts))
    validation = read_validation(home.state / VALIDATION_FILE)
    return everything.load(job.specification, f"node {job.node}"), validation


def _novel(home: NodeHome, job: LearningJob) -> Dataset | None:
    try:
        source = ShardSource.read(home.state / NOVEL_FILE)
    except NotFoundError:
        return None
    if not len(source):
        return None
    return source.load(job.specification, f"novel samples of node {job.node}")


def newest_job(home: NodeHome) -> LearningJob:
    """Return the newest training job of a node; NotReadyError where there is none."""
    files = sorted(home.state.glob(f"jobs/*/{JOB_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for file in files:
        try:
            job = LearningJob.read(file.parent)
        except SwarmError:
            continue
        if not job.order.dry_run:
            return job
    raise NotReadyError(
        "data of this node",
        found="no training order yet",
        expected="one that says where the data are",
        remedy="on the node: swarm train DATA",
    )
