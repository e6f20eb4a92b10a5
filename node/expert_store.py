"""This node's experts in memory: loaded when first asked for, the least recently asked forgotten first.

Own manifests lie in `state/manifests`, those of pulled experts in `cache/manifests`, both under their
digests; the weights in the verified cache. What is on disk is checked again when it is loaded.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from node.expert_groups import ExpertGroups, Kind, Stack
from swarm.config import NodeHome
from swarm.domain.agent import ExpertMemory
from swarm.domain.errors import NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.grouped import ExpertGroup
from swarm.experts.inputs import best_device
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import read_statement

DEFAULT_BUDGET_BYTES = 1 << 30


class ExpertStore:
    """Experts by manifest digest, at most `budget_bytes` of weights in memory (one expert always fits).

    The bytes are those of the tensors that experts hold, on the device that computes; what is being loaded
    counts before it comes, and so do stacks of small experts that are asked together, which are the first to
    go. An expert that somebody still computes with leaves memory when they are done.
    """

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
        self._coming: dict[Digest, tuple[int, Future[LoadedExpert]]] = {}
        self._lock = threading.Lock()
        self._hits = self._loads = 0
        self._groups = ExpertGroups()

    @property
    def memory(self) -> ExpertMemory:
        """What is in memory, and how often what was asked for was."""
        with self._lock:
            return ExpertMemory(
                loaded=len(self._loaded),
                size_bytes=self._held(),
                budget_bytes=self._budget,
                hits=self._hits,
                loads=self._loads,
            )

    def in_memory_now(self) -> tuple[Digest, ...]:
        """Return the manifests whose experts are in memory."""
        with self._lock:
            return tuple(self._loaded)

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

    def loaded(self, digest: Digest) -> LoadedExpert | None:
        """Return the expert of exactly this manifest where it is in memory: asked for, so kept longer."""
        with self._lock:
            return self._asked(digest)

    def in_memory(self, digest: Digest) -> LoadedExpert | None:
        """Return the expert where it is in memory, for who has asked for it already: it counts no more."""
        with self._lock:
            return self._loaded.get(digest)

    def expert(self, digest: Digest, specification: Specification) -> LoadedExpert:
        """Return the expert of exactly this manifest, loading it if need be; others are not held up.

        May be called from several threads: who asks for what is being loaded waits for it.
        """
        with self._lock:
            if (known := self._asked(digest)) is not None:
                return known
            waiting = self._coming.get(digest)
            if waiting is None:
                self._coming[digest] = 0, Future()
        if waiting is not None:
            return waiting[1].result()
        return self._load(digest, specification)

    def stack(self, kind: Kind, digests: Sequence[Digest]) -> Stack | None:
        """Return the stack of a kind that has these experts among others, all in memory; None where there is
        none and none is made: too seldom asked for, or too large for the budget. For one thread."""
        with self._lock:
            if (found := self._groups.find(kind, digests)) is not None:
                return found
            members = [digest for digest in self._groups.wanted(kind, digests) if digest in self._loaded]
            if not set(digests) <= set(members) or not members:
                return None
            experts = [self._loaded[digest] for digest in members]
            size = sum(expert.form_bytes(kind[1]) for expert in experts)
            self._groups.drop(kind)
            if self._held() + size > self._budget:
                return None
        made = Stack(tuple(members), ExpertGroup(experts, kind[1]))
        with self._lock:
            if all(digest in self._loaded for digest in members):
                self._groups.put(kind, made)
                self._make_room(keep=1)
        return made

    def _load(self, digest: Digest, specification: Specification) -> LoadedExpert:
        coming = self._coming[digest][1]
        try:
            manifest = self.manifest(digest)
            with self._lock:
                self._coming[digest] = manifest.weight_bytes(), coming
                self._make_room(keep=0)
            loaded = load_expert(manifest, self._cache, specification, self._import_paths())
        except BaseException as error:
            with self._lock:
                del self._coming[digest]
            coming.set_exception(error)
            raise
        with self._lock:
            del self._coming[digest]
            self._loaded[digest] = loaded
            self._loads += 1
            self._make_room(keep=1)
        coming.set_result(loaded)
        return loaded

    def _asked(self, digest: Digest) -> LoadedExpert | None:
        known = self._loaded.get(digest)
        if known is not None:
            self._loaded.move_to_end(digest)
            self._hits += 1
        return known

    def _make_room(self, *, keep: int) -> None:
        """Forget experts, the least recently asked first, until the rest and what is coming fit."""
        coming = sum(size for size, _ in self._coming.values())
        if self._held() + coming > self._budget:
            self._groups.clear()
        while len(self._loaded) > keep and self._held() + coming > self._budget:
            digest, _ = self._loaded.popitem(last=False)
            self._groups.forget(digest)

    def _held(self) -> int:
        return self._groups.size_bytes + sum(expert.size_bytes for expert in self._loaded.values())


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
