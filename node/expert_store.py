"""This node's experts in memory: loaded when first asked for, the least recently asked forgotten first.

Own manifests lie in `state/manifests`, those of pulled experts in `cache/manifests`, both under their
digests; the weights in the verified cache. What is on disk is checked again when it is loaded.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from swarm.config import NodeHome
from swarm.domain.errors import NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import best_device
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import read_statement

DEFAULT_BUDGET_BYTES = 1 << 30


class ExpertStore:
    """Experts by manifest digest, at most `budget_bytes` of weights in memory (one expert always fits)."""

    def __init__(
        self,
        home: NodeHome,
        *,
        import_paths: Callable[[], Sequence[str]],
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self._folders = (home.state / "manifests", home.cache / "manifests")
        self._cache = BlobFiles(home.cache)
        self._import_paths, self._budget = import_paths, budget_bytes
        self._loaded: OrderedDict[Digest, LoadedExpert] = OrderedDict()
        self._lock = threading.Lock()

    def served(self) -> tuple[Digest, ...]:
        """Return the digests of every manifest that this node holds and may serve, its own and pulled."""
        found = {Digest(path.stem) for folder in self._folders for path in folder.glob("*.json")}
        return tuple(sorted(found))

    def manifest(self, digest: Digest) -> Manifest:
        """Return a held manifest; NotFoundError if it is not here, VerificationError if it was damaged."""
        for folder in self._folders:
            path = folder / f"{digest}.json"
            if path.exists():
                statement = read_statement(path.read_bytes(), Manifest)
                if statement.digest != digest:
                    raise VerificationError(
                        f"manifest {digest[:12]}",
                        found=f"a statement with digest {statement.digest[:12]}",
                        expected="the one that its name promises",
                        remedy=f"remove {path}; a damaged manifest is not served",
                    )
                return statement.value
        raise NotFoundError(
            f"manifest {digest[:12]}",
            found="no expert at this version on this node",
            expected="one that the node announced",
        )

    def expert(self, digest: Digest, specification: Specification) -> LoadedExpert:
        """Return the expert of exactly this manifest, loading it if need be."""
        with self._lock:
            if (known := self._loaded.get(digest)) is not None:
                self._loaded.move_to_end(digest)
                return known
        manifest = self.manifest(digest)
        loaded = load_expert(manifest, self._cache, specification, self._import_paths())
        with self._lock:
            self._loaded[digest] = loaded
            while len(self._loaded) > 1 and sum(e.size_bytes for e in self._loaded.values()) > self._budget:
                self._loaded.popitem(last=False)
        return loaded


def load_expert(
    manifest: Manifest, blobs: BlobFiles, specification: Specification, import_paths: Sequence[str]
) -> LoadedExpert:
    """Return a manifest's expert, every digest, shape and value checked; errors name the version."""
    try:
        return LoadedExpert.load(
            manifest, blobs.open_verified, specification, import_paths, device=best_device()
        )
    except SwarmError as error:
        raise type(error)(
            f"{manifest.expert}@{manifest.version}, {error.subject}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error
