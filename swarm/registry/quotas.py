"""How many bytes an owner's experts fill, and how many they may: each distinct blob counts once per owner.

What stays of an owner's experts for others' sake alone, who came from it or claim it, counts for those.
What holds the blobs may be behind a network: sizes are looked up in a thread, once, and counted from memory.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from swarm.domain.collection import OwnerBytes
from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import Digest, NodeId
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims


class Quotas:
    """Counts owners' bytes; `most_bytes` is what each node may fill, 0: no limit.

    For one event loop. UnreachableError while what holds the blobs is away and a size is not known yet.
    """

    def __init__(self, blobs: BlobStore, catalogue: Catalogue, claims: Claims, most_bytes: int) -> None:
        self._blobs, self._catalogue, self._claims = blobs, catalogue, claims
        self.most_bytes = most_bytes
        self._sizes: dict[Digest, int] = {}  # 0: not here
        self._removals = 0
        self._for_others: dict[NodeId, set[Digest]] = defaultdict(set)
        self._of_others: dict[NodeId, set[Digest]] = defaultdict(set)
        self._arriving: dict[NodeId, dict[Digest, int]] = defaultdict(dict)

    async def measure(self, owner: NodeId, blobs: Iterable[Digest] = ()) -> None:
        """Look up what `uploading` and `check_commit` of this owner and these blobs have to know; they count
        right if nothing else runs in between."""
        await self._measure(lambda: self._owned(owner).union(blobs))

    async def all_used(self) -> tuple[OwnerBytes, ...]:
        """Return what every owner of a manifest fills, the most first: blobs of its experts that were not
        withdrawn, and of uploads that are not committed yet."""
        owned: dict[NodeId, set[Digest]] = {}

        def wanted() -> set[Digest]:
            owned.update((made.owner, set()) for made in self._catalogue.manifests.values())
            owned.update((owner, self._owned(owner)) for owner in owned)
            return set[Digest]().union(*owned.values())

        await self._measure(wanted)
        found = [OwnerBytes(owner=owner, size_bytes=self._bytes(blobs)) for owner, blobs in owned.items()]
        return tuple(sorted(found, key=lambda each: (-each.size_bytes, each.owner)))

    @contextmanager
    def uploading(
        self, owner: NodeId | None, blob: Digest, size_bytes: int, kept: Mapping[Digest, int] | None = None
    ) -> Iterator[None]:
        """Count a blob as its owner's while it arrives; ExhaustedError where it is more than that may fill.
        Owner None: nobody who has a limit. `kept`: what is here of its uploads that broke off; it counts."""
        if owner is None or not self.most_bytes:
            yield
            self._sizes[blob] = size_bytes
            return
        owned, arriving = self._owned(owner), self._arriving[owner]
        if blob not in owned and blob not in arriving:
            begun = sum(size for each, size in (kept or {}).items() if each != blob and each not in arriving)
            used = self._bytes(owned - arriving.keys()) + sum(arriving.values()) + begun
            self._check(owner, used, size_bytes)
        arriving[blob] = size_bytes
        try:
            yield
            self._sizes[blob] = size_bytes
        finally:
            arriving.pop(blob, None)

    def check_commit(self, owner: NodeId, blobs: Iterable[Digest]) -> None:
        """Raise ExhaustedError where a manifest over these blobs is more than the owner may fill."""
        if self.most_bytes:
            owned = self._owned(owner)
            self._check(owner, self._bytes(owned), self._bytes(set(blobs) - owned))

    def settle(self, needed_by: Mapping[Digest, Collection[str]]) -> None:
        """Count blobs for who needs them, as a collection found. What is committed later counts again."""
        self._for_others.clear()
        self._of_others.clear()
        for blob, needing in needed_by.items():
            named_by = {self._catalogue.manifests[each].owner for each in self._catalogue.users(blob)}
            for owner in named_by - set(needing):
                self._for_others[owner].add(blob)
            for who in set(needing) - named_by:
                self._of_others[NodeId(who)].add(blob)

    def note_committed(self, owner: NodeId, blobs: Iterable[Digest]) -> None:
        """Count blobs for the owner of a manifest that has them, from now on."""
        self._for_others[owner].difference_update(blobs)

    def forget(self, blobs: Iterable[Digest]) -> None:
        """Forget the sizes of blobs that were removed."""
        self._removals += 1
        for blob in blobs:
            self._sizes.pop(blob, None)

    def _check(self, owner: NodeId, used: int, more: int) -> None:
        if used + more > self.most_bytes:
            raise ExhaustedError(
                f"bytes of {owner} in the registry",
                found=f"{used} and {more} more",
                expected=f"at most {self.most_bytes}",
                remedy="withdraw what no gate has: swarm expert remove EXPERT; or ask the operator for more: "
                "SWARM_REGISTRY_NODE_QUOTA",
            )

    def _owned(self, owner: NodeId) -> set[Digest]:
        own = self._catalogue.blobs_of(owner) - self._for_others[owner]
        return own | self._of_others[owner] | self._claims.stored_by(owner)

    def _bytes(self, blobs: Iterable[Digest]) -> int:
        return sum(self._sizes.get(blob, 0) for blob in blobs)

    async def _measure(self, wanted: Callable[[], set[Digest]]) -> None:
        """Look up sizes until all that are wanted are known. What an upload told meanwhile is newer and
        stays; what was looked up while blobs were removed may be older, and is looked up again."""
        while unknown := wanted() - self._sizes.keys():
            before = self._removals
            found = await asyncio.to_thread(self._blobs.sizes, unknown)
            if before == self._removals:
                self._sizes = {blob: found.get(blob, 0) for blob in unknown} | self._sizes
