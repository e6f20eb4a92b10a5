"""Who may name which blob in a manifest, and to whom a blob may leave.

A member may name a blob whose bytes it has shown, by sending them here once, or that may leave to everybody.
Digests are known to all: who has neither is told that the blob is not here, and nothing is computed over its
bytes for it. A manifest gives a blob to others only if its owner has shown the bytes.

Manifests, their order and withdrawals are those of the journal and, behind them, of the store: a store that
lost them sets nothing free. Which blobs an owner named by permission alone is in the journal, too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from swarm.domain.errors import NotAuthorisedError, NotFoundError
from swarm.domain.ids import ROOT_OWNER, Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.registry.catalogue import Catalogue
from swarm.registry.claims import Claims
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.swarm_blobs import SwarmBlobs


class BlobRights:
    """Knows it of one registry. For one event loop. `is_revoked` marks owners."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        swarm_blobs: SwarmBlobs,
        journal: CommitJournal,
        claims: Claims,
        is_revoked: Callable[[NodeId], bool],
    ) -> None:
        self._catalogue, self._swarm_blobs, self._journal = catalogue, swarm_blobs, journal
        self._claims, self._is_revoked = claims, is_revoked
        self._in_journal: dict[Digest, list[Digest]] = defaultdict(list)
        self._indexed = 0

    async def unnameable(self, who: NodeId, blobs: Iterable[Digest]) -> frozenset[Digest]:
        """Return those of the blobs that a member may not name. UnreachableError where the store was never
        read; while it is away, by what was known before."""
        await self._catalogue.refresh()
        unshown = self.unshown(who, blobs)
        if all(map(self._may_leave, unshown)):
            return frozenset()
        await self._swarm_blobs.refresh()
        return frozenset(blob for blob in unshown if not self._may_leave(blob))

    def unshown(self, who: NodeId, blobs: Iterable[Digest]) -> frozenset[Digest]:
        """Return those of the blobs whose bytes a member has not sent, as far as it is known."""
        return frozenset(blob for blob in blobs if not self._has_shown(who, blob))

    async def check_readable(self, who: NodeId, blob: Digest) -> None:
        """Raise NotFoundError, as for a blob that is not here, for one that a member may not name."""
        if await self.unnameable(who, [blob]):
            raise _not_here(blob)

    async def check_may_leave(self, blob: Digest, caller: Caller | None = None) -> None:
        """Raise NotAuthorisedError for a blob that only serve-only or withdrawn experts consist of.

        Of the owners who showed its bytes the first says whether it is serve-only: another's manifest over
        the same bytes does not set them free. What nothing names leaves to who sent it alone, and what the
        coordinator sent to everybody; to others it is not here: NotFoundError.
        """
        await self._catalogue.refresh()
        if self._may_leave(blob):
            return
        await self._swarm_blobs.refresh()
        if self._may_leave(blob):
            return
        given = self._given(blob)
        if given:
            raise NotAuthorisedError(
                f"blob {blob[:12]}",
                found=f"weights of {given[0].expert}, which is withdrawn or serve-only",
                expected="weights that their owner shares",
                remedy="ask the expert through the swarm: swarm predict",
            )
        if caller is None or not self._claims.has_stored(caller.id, blob):
            raise _not_here(blob)

    def _may_leave(self, blob: Digest) -> bool:
        if blob in self._swarm_blobs or self._claims.has_stored(ROOT_OWNER, blob):
            return True
        given = self._given(blob)
        is_kept = all(each.share == "serve-only" for each in given if each.owner == given[0].owner)
        return not is_kept and any(each.share != "serve-only" and not self._is_gone(each) for each in given)

    def _has_shown(self, who: NodeId, blob: Digest) -> bool:
        return self._claims.has_stored(who, blob) or any(each.owner == who for each in self._given(blob))

    def _given(self, blob: Digest) -> list[Manifest]:
        """Return the manifests that name a blob whose bytes their owner has shown, the first one first."""
        self._index_journal()
        journal = self._journal
        in_journal = [each for each in self._in_journal.get(blob, ()) if blob not in journal.unshown(each)]
        manifests = [journal.manifests[each] for each in in_journal]
        in_store = [each for each in self._catalogue.users(blob) if each not in journal.manifests]
        manifests += [
            self._catalogue.manifests[each] for each in in_store if blob not in journal.unshown(each)
        ]
        return manifests

    def _index_journal(self) -> None:
        order = self._journal.order
        for digest in order[self._indexed :]:
            for blob in self._journal.manifests[digest].blobs():
                self._in_journal[blob].append(digest)
        self._indexed = len(order)

    def _is_gone(self, manifest: Manifest) -> bool:
        return (
            self._catalogue.is_gone(manifest)
            or self._journal.is_withdrawn(manifest.expert)
            or self._is_revoked(manifest.owner)
        )


def _not_here(blob: Digest) -> NotFoundError:
    return NotFoundError(f"blob {blob[:12]}", found="nothing under this digest", expected="a stored blob")
