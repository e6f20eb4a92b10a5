"""This node's own validation samples, and what it computed on them. They never leave the node."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.config import NodeHome
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import best_device
from swarm.experts.trunk import Trunk
from swarm.modules.blobs import BlobFiles


class OwnValidation:
    """Raw inputs [N, *shape] and the class name of each, with features and experts' answers kept by digest.

    Everything is computed again when the node trained on new data.
    """

    def __init__(self, home: NodeHome) -> None:
        self._file = home.state / "validation.npz"
        self._cache = BlobFiles(home.cache)
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.inputs: NDArray[Any] = np.empty((0,), dtype=np.float32)
        self.labels: tuple[str, ...] = ()
        self._features: dict[Digest, tuple[NDArray[np.float32], int]] = {}
        self._answers: dict[Digest, NDArray[np.float32]] = {}

    def refresh(self) -> int:
        """Read the samples if they changed; return how many there are."""
        if not self._file.exists():
            return 0
        state = self._file.stat()
        stamp = (state.st_ino, state.st_mtime_ns)
        if stamp != self._stamp:
            self.inputs, self.labels = _read(self._file)
            self._features, self._answers, self._stamp = {}, {}, stamp
        return len(self.labels)

    def features(self, specification: Specification, import_paths: tuple[str, ...]) -> tuple[Any, int]:
        """Return the samples' features float32 [N, D] and the trunk's FLOPs per sample."""
        reference = specification.trunk
        with self._lock:
            if reference.digest not in self._features:
                trunk = Trunk.load(
                    reference,
                    self._cache.open_verified,
                    scale=specification.scale,
                    offset=specification.offset,
                    import_paths=import_paths,
                    device=best_device(),
                )
                self._features[reference.digest] = (trunk.features(self.inputs), trunk.flops_per_query)
            return self._features[reference.digest]

    def answered(self, manifest: Digest) -> NDArray[np.float32] | None:
        """Return an expert's answers on the samples, float32 [N, C_own], if they are known."""
        return self._answers.get(manifest)

    def answers(self, manifest: Digest, expert: LoadedExpert) -> NDArray[np.float32]:
        """Return an expert's answers on the samples and keep them."""
        self._answers[manifest] = expert.probabilities(self.inputs)
        return self._answers[manifest]


def _read(path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            inputs, labels = file["inputs"], file["labels"]
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise VerificationError(
            str(path),
            found=f"no readable samples ({error})",
            expected="inputs and labels",
            remedy="train again: swarm train DATA",
        ) from error
    return inputs, tuple(str(label) for label in labels.tolist())
