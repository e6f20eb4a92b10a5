"""The swarm's trunk, from the coordinator's own blobs."""

from collections.abc import Callable

from coordinator.specifications import Specifications
from swarm.answering.feature_service import FeatureMap
from swarm.modules.blobs import BlobFiles


def trunk_loader(
    specifications: Specifications, blobs: BlobFiles, import_paths: tuple[str, ...]
) -> Callable[[], FeatureMap]:
    """Return what loads the specification's trunk; it runs in the trunk's own thread."""

    def load() -> FeatureMap:
        from swarm.experts.trunk import Trunk

        value = specifications.current.value
        return Trunk.load(
            value.trunk,
            blobs.open_verified,
            scale=value.scale,
            offset=value.offset,
            import_paths=import_paths,
        )

    return load
