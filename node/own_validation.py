"""This node's own validation samples, and what it computed on them. They never leave the node."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.config import NodeHome
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest
from swarm.domain.inference import MAX_TRIAL_SAMPLES, ExpertForm
from swarm.domain.specification import Specification
from swarm.experts.inputs import best_device
from swarm.experts.trunk import Trunk
from swarm.modules.blobs import BlobFiles

VALUES_BYTES = 64 << 20
Floats = NDArray[np.float32]


class OwnValidation:
    """Raw inputs [N, *shape] and the class name of each, with what was computed on them: the features under
    one trunk, and experts' values by manifest and form (the least recently used are forgotten).

    Everything is computed again when the node trained on new data.
    """

    def __init__(self, home: NodeHome) -> None:
        self._file = home.state / "validation.npz"
        self._cache = BlobFiles(home.cache)
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.inputs: NDArray[Any] = np.empty((0,), dtype=np.float32)
        self.labels: tuple[str, ...] = ()
        self._features: dict[Digest, Floats] = {}
        self._values: OrderedDict[tuple[Digest, ExpertForm], Floats] = OrderedDict()

    def refresh(self) -> int:
        """Read the samples if they changed; return how many there are."""
        if not self._file.exists():
            return 0
        state = self._file.stat()
        stamp = (state.st_ino, state.st_mtime_ns)
        if stamp != self._stamp:
            self.inputs, self.labels = _read(self._file)
            self._features, self._stamp = {}, stamp
            self._values.clear()
        return len(self.labels)

    def features(self, specification: Specification, import_paths: tuple[str, ...]) -> tuple[Floats, int]:
        """Return the samples' features float32 [N, D], and the FLOPs that they cost now: 0 if known."""
        reference = specification.trunk
        with self._lock:
            if reference.digest in self._features:
                return self._features[reference.digest], 0
            trunk = Trunk.load(
                reference,
                self._cache.open_verified,
                scale=specification.scale,
                offset=specification.offset,
                import_paths=import_paths,
                device=best_device(),
            )
            self._features = {reference.digest: trunk.features(self.inputs)}
            return self._features[reference.digest], trunk.flops_per_query * len(self.inputs)

    def values(self, manifest: Digest, form: ExpertForm) -> Floats | None:
        """Return an expert's values on the samples, float32 [N, C_own], if they are known."""
        found = self._values.get((manifest, form))
        if found is not None:
            self._values.move_to_end((manifest, form))
        return found

    def keep(self, manifest: Digest, form: ExpertForm, values: Floats) -> None:
        """Keep an expert's values on the samples."""
        self._values[manifest, form] = values
        while len(self._values) > 1 and sum(each.nbytes for each in self._values.values()) > VALUES_BYTES:
            self._values.popitem(last=False)


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
    if len(labels) > MAX_TRIAL_SAMPLES:
        rows = np.arange(MAX_TRIAL_SAMPLES) * len(labels) // MAX_TRIAL_SAMPLES
        inputs, labels = inputs[rows], labels[rows]
    return inputs, tuple(str(label) for label in labels.tolist())
