"""A node's own samples for federated rounds: what its newest training order reads, split as training does.

Named by the node's own configuration as `samples = node.federated_samples:load`, with `home` beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import JOB_FILE, LearningJob
from swarm.config import NodeHome
from swarm.data.dataset import check_fits
from swarm.data.sources import load_training
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.experts.inputs import best_device
from swarm.experts.trunk import Trunk
from swarm.federation.own_samples import OwnSamples
from swarm.modules.blobs import BlobFiles

SOURCE = "node.federated_samples:load"


def load(configuration: Mapping[str, Any]) -> OwnSamples:
    """Return the samples of the node whose `home` the configuration names.

    Raises NotReadyError where it has not trained yet, and what is wrong with its data.
    """
    job = newest_job(NodeHome(Path(str(configuration["home"]))))
    order, specification = job.order, job.specification
    dataset = load_training(order.data, order.import_paths)
    check_fits(dataset, specification)
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
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
        training=dataset.subset(kept),
        validation=dataset.subset(held_out),
        features=trunk.features,
        import_paths=order.import_paths,
    )


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
