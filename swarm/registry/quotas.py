"""How many bytes an owner's experts fill, and how many they may: each distinct blob counts once per owner.

What was withdrawn counts until it is collected, what arrives counts stream by stream, and what is kept of
uploads that broke off counts too: all that lies on the disk for an owner's sake.
What stays of an owner's experts for others' sake alone, who came from it or claim it, counts for those.
What holds the blobs may be behind a network: sizes are looked up in a thread, once, and counted from memory.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from swarm.domain.collection import OwnerBytes
from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.sizes import bytes_text
from swarm.modules.partial_blobs import KEPT_FROM_BYTES
from swarm.registry.blob_store import BlobStore
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims

_REFUSED_S: Final = 120.0
"""So long a refusal is told: a node that waits for room tries more often."""

_COLLECT_AGAIN_S: Final = 30.0
"""A collection for one owner's sake comes no sooner after the last such one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Upload:
    """A blob on its way in. `is_again`: its owner has these bytes here; they will replace themselves."""

    blob: Digest
    size_bytes: int
    is_again: bool


class Quotas:
    """Counts owners' bytes; `most_bytes` is what each node may fill, 0: no limit. `collect` removes what
    nothing needs: it is asked for where an owner's withdrawn blobs take the room that it needs.

    For one event loop. UnreachableError while what holds the blobs is away and a size is not known yet.
    """

    def __init__(
        self,
        blobs: BlobStore,
        catalogue: Catalogue,
        claims: Claims,
        most_bytes: int,
        collect: Callable[[], Awaitable[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs, self._catalogue, self._claims = blobs, catalogue, claims
        self._collect, self._clock = collect, clock
        self._collected_at = -_COLLECT_AGAIN_S
        self.most_bytes = most_bytes
        self._sizes: dict[Digest, int] = {}  # 0: not here
        self._removals = 0
        self._arriving: dict[NodeId, list[_Upload]] = defaultdict(list)
        self._refused: dict[NodeId, tuple[float, int]] = {}
        self._for_others: dict[NodeId, set[Digest]] = defaultdict(set)
        self._of_others: dict[NodeId, set[Digest]] = defaultdict(set)

    async def measure(self, owner: NodeId, blobs: Iterable[Digest] = (), arriving_bytes: int = 0) -> None:
        """Look up what `uploading` and `check_commit` of this owner and these blobs have to know; they count
        right if nothing else runs in between. Where what the owner withdrew takes the room, it goes first."""
        wanted = set(blobs)
        await self._measure(lambda: self._owned(owner) | wanted)
        more = arriving_bytes + self._bytes(wanted - self._owned(owner))
        is_over = self._filled(owner, {}, self._arriving[owner]) + more > self.most_bytes
        withdrawn = self._bytes(self._catalogue.withdrawn_blobs_of(owner))
        if is_over and withdrawn and self._clock() - self._collected_at >= _COLLECT_AGAIN_S:
            self._collected_at = self._clock()
            await self._collect()
            await self._measure(lambda: self._owned(owner) | wanted)

    async def all_used(self) -> tuple[OwnerBytes, ...]:
        """Return what every owner of a manifest fills, the most first: blobs of its experts, withdrawn ones
        until they are collected, and of uploads that are not committed yet; and what was refused lately."""
        owned: dict[NodeId, set[Digest]] = {}

        def wanted() -> set[Digest]:
            owned.update((made.owner, set()) for made in self._catalogue.manifests.values())
            owned.update((owner, set()) for owner in self._refused)
            owned.update((owner, self._owned(owner)) for owner in owned)
            return set[Digest]().union(*owned.values())

        await self._measure(wanted)
        late = self._clock() - _REFUSED_S
        self._refused = {owner: each for owner, each in self._refused.items() if each[0] > late}
        found = [
            OwnerBytes(
                owner=owner,
                size_bytes=self._bytes(blobs),
                refused_bytes=self._refused.get(owner, (late, 0))[1],
            )
            for owner, blobs in owned.items()
        ]
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
        kept, running = kept or {}, self._arriving[owner]
        is_here = blob in self._owned(owner) and self._sizes.get(blob) == size_bytes
        upload = _Upload(blob, size_bytes, is_here and not any(each.is_again for each in running))
        used = self._filled(owner, kept, running)
        self._check(owner, used, self._filled(owner, kept, [*running, upload]) - used)
        running.append(upload)
        try:
            yield
            self._sizes[blob] = size_bytes
        finally:
            running.remove(upload)

    def check_commit(self, owner: NodeId, blobs: Iterable[Digest]) -> None:
        """Raise ExhaustedError where a manifest over these blobs is more than the owner may fill."""
        if self.most_bytes:
            used = self._filled(owner, {}, self._arriving[owner])
            self._check(owner, used, self._bytes(set(blobs) - self._owned(owner)))

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
            self._refused[owner] = (self._clock(), more)
            raise ExhaustedError(
                f"bytes of {owner} in the registry",
                found=f"{_told(used)} and {_told(more)} more",
                expected=f"at most {_told(self.most_bytes)}",
                remedy="withdraw what no gate has: swarm expert remove EXPERT; or ask the operator for more"
                " room, SWARM_REGISTRY_NODE_QUOTA, or for fewer old versions that stay,"
                " SWARM_REGISTRY_KEEP_VERSIONS",
            )

    def _owned(self, owner: NodeId) -> set[Digest]:
        """Return the blobs that are an owner's, as far as they are here: `_sizes` knows that."""
        catalogue = self._catalogue
        own = catalogue.blobs_of(owner) - self._for_others[owner] | self._of_others[owner]
        return own | catalogue.withdrawn_blobs_of(owner) | self._claims.stored_by(owner)

    def _filled(self, owner: NodeId, kept: Mapping[Digest, int], running: Sequence[_Upload]) -> int:
        """Return what an owner fills once these uploads have come, each with a file of its own; one that may
        be gone on with writes into what is kept of its blob."""
        gone_on_with: dict[Digest, int] = {}
        for each in running:
            if each.size_bytes >= KEPT_FROM_BYTES:
                gone_on_with[each.blob] = max(each.size_bytes, gone_on_with.get(each.blob, 0))
        begun = sum(max(0, size - gone_on_with.get(blob, 0)) for blob, size in kept.items())
        arriving = sum(each.size_bytes for each in running if not each.is_again)
        return self._bytes(self._owned(owner)) + arriving + begun

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


def _told(size_bytes: int) -> str:
    return f"{size_bytes} ({bytes_text(size_bytes)})"
