"""What was published, as others read it: heads, manifests, lineage.

A store that went back to an older state is brought forward before it answers, NotReadyError while that cannot
be done.
"""

from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.lineage import Lineage
from swarm.domain.membership import Head
from swarm.registry import refusals
from swarm.registry.catalogue import Catalogue
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.reconciling import Reconciler
from swarm.registry.store import MetadataStore
from swarm.trust.statements import statement_digest


class Versions:
    """Reads one store's versions; the journal says which of them it must have."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        catalogue: Catalogue,
        journal: CommitJournal,
        reconciler: Reconciler,
    ) -> None:
        self._store, self._catalogue = store, catalogue
        self._journal, self._reconciler = journal, reconciler

    async def heads(self, owner: str) -> list[Head]:
        """Return all heads, or one owner's."""
        found = await self._store.heads(owner)
        versions = {head.expert: head.version for head in found}
        mine = [
            each for each in self._journal.experts() if not owner or refusals.owner_of_target(each) == owner
        ]
        if any(self._reconciler.is_behind(each, versions.get(each, 0)) for each in mine):
            await self._brought_forward()
            found = await self._store.heads(owner)
        return found

    async def manifest(self, digest: str, expert: str, version: int) -> bytes:
        """Return a manifest's envelope by digest, or by expert and version (0: its head).

        Raises NotFoundError; VerificationError if the stored bytes are not those of the digest; NotReadyError
        while the store lacks what was acknowledged.
        """
        name = Digest(digest) if digest else await self._digest_of(ExpertId(expert), version)
        envelope = await self._store.manifest(name)
        if envelope is None and self._journal.has(name):
            await self._brought_forward()
            envelope = await self._store.manifest(name)
        if envelope is None:
            raise _not_found(
                f"manifest {name[:12]}", "none of that digest", "the digest of a published manifest"
            )
        found = statement_digest(envelope)
        if found != name:
            raise VerificationError(
                f"manifest {name[:12]}",
                found=f"a statement with digest {found[:12]}",
                expected=f"digest {name[:12]}",
                remedy="the store's copy is damaged and is not used; its owner can announce it again",
            )
        return envelope

    async def lineage(self, manifest: str, expert: str) -> Lineage:
        """Return the graph around a manifest, or around an expert's newest version, withdrawn or not."""
        await self._reconciler.bring_forward()
        await self._catalogue.refresh()
        root = Digest(manifest)
        if not manifest:
            versions = self._catalogue.versions_of(ExpertId(expert))
            root = versions[-1] if versions else root
        heads = {head.manifest for head in await self._store.heads()}
        found = self._catalogue.lineage(root, heads)
        if not found.nodes:
            raise _not_found(f"lineage of {manifest[:12] or expert[:80]}")
        return found

    async def _digest_of(self, expert: ExpertId, version: int) -> Digest:
        if version:
            found = await self._store.manifest_at(expert, version)
            if found is None and self._reconciler.is_behind(expert, version - 1):
                await self._brought_forward()
                found = await self._store.manifest_at(expert, version)
        else:
            head = await self._store.head(expert)
            if self._reconciler.is_behind(expert, head.version if head else 0):
                await self._brought_forward()
                head = await self._store.head(expert)
            found = head.manifest if head else None
        if found is None:
            await self._reconciler.bring_forward()
            raise _not_found(f"{expert[:80]}@{version}" if version else f"expert {expert[:80]}")
        return found

    async def _brought_forward(self) -> None:
        await self._reconciler.reconcile()
        self._reconciler.check_whole()


def _not_found(
    subject: str,
    found: str = "no published version",
    expected: str = "an expert's id, as ada.e1, or a manifest's digest",
) -> NotFoundError:
    return NotFoundError(subject, found=found, expected=expected, remedy="list what there is: swarm experts")
