"""What the manifests say about each other: who came from whom, and which blobs each of them needs.

Kept in memory, filled from the store as it grows; answers from what it knows while the store is down.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode, Standing, descendants
from swarm.domain.manifests import Manifest
from swarm.registry.refusals import owner_of_target
from swarm.registry.store import MetadataStore
from swarm.trust.statements import read_statement

_log = structlog.get_logger(__name__)


class Catalogue:
    """All manifests of a store by digest, with their edges both ways. `is_revoked` marks owners."""

    def __init__(self, store: MetadataStore, is_revoked: Callable[[NodeId], bool]) -> None:
        self._store, self._is_revoked = store, is_revoked
        self._tombstones: set[str] = set()
        self._loaded = False
        self._refreshing = asyncio.Lock()
        self._forget()

    async def refresh(self) -> bool:
        """Take in what the store has gained. While it is down (False), what was known before stays."""
        async with self._refreshing:
            try:
                await self._take_in()
            except UnreachableError:
                if not self._loaded:
                    raise
                return False
        return True

    async def _take_in(self) -> None:
        # The last known row again: a store that went back to an older state shows by it.
        rows = await self._store.manifests(max(0, len(self._order) - 1))
        went_back = bool(self._order) and rows[:1] != self._order[-1:]
        if went_back:
            self._forget()
            rows = await self._store.manifests()
        for digest in rows[1 if self._order else 0 :]:
            self._add(digest, await self._store.manifest(digest))
        if went_back or await self._store.tombstone_count() != len(self._tombstones):
            self._tombstones = set(await self._store.tombstones())
        self._loaded = True

    def users(self, blob: Digest) -> Sequence[Digest]:
        """Return the manifests that name a blob, in the store's order."""
        return self._users.get(blob, ())

    @property
    def manifests(self) -> Mapping[Digest, Manifest]:
        """Every manifest that could be read."""
        return self._manifests

    @property
    def digests(self) -> frozenset[Digest]:
        """The manifests that the store has, readable or not."""
        return frozenset(self._order)

    @property
    def count(self) -> int:
        """How many manifests the store has, readable or not."""
        return len(self._order)

    @property
    def is_whole(self) -> bool:
        """Say whether every manifest of the store could be read."""
        return len(self._order) == len(self._manifests)

    def is_gone(self, manifest: Manifest) -> bool:
        """Say whether its expert or owner was withdrawn, so that nobody may fetch its weights any more."""
        return self._has_tombstone(manifest)

    def blobs_of(self, owner: NodeId) -> set[Digest]:
        """Return the distinct blobs of an owner's experts that were not withdrawn."""
        made = (self._manifests[digest] for digest in self._by_owner.get(owner, ()))
        return {blob for each in made if not self._has_tombstone(each) for blob in each.blobs()}

    def withdrawn_blobs_of(self, owner: NodeId) -> set[Digest]:
        """Return the distinct blobs of an owner's withdrawn experts that no other expert has."""
        made = (self._manifests[digest] for digest in self._by_owner.get(owner, ()))
        named = {blob for each in made if self._has_tombstone(each) for blob in each.blobs()}
        return {
            blob
            for blob in named
            if all(self._has_tombstone(self._manifests[user]) for user in self._users[blob])
        }

    def versions_of(self, target: str) -> list[Digest]:
        """Return all versions of an expert, or of all experts of a node, oldest first."""
        found = [
            digest
            for digest in self._order
            if (known := self._manifests.get(digest)) and target in (known.expert, known.owner)
        ]
        return sorted(found, key=lambda digest: self._manifests[digest].version)

    def has_version_of(self, target: str) -> bool:
        """Say whether there is a version of an expert, or of any expert of a node."""
        mine = self._by_owner.get(NodeId(owner_of_target(target)), ())
        return any(
            target in (self._manifests[digest].expert, self._manifests[digest].owner) for digest in mine
        )

    def withdrawn_unseen(self, owner: NodeId) -> int:
        """Return how many experts of an owner were withdrawn of which there is no version."""
        return sum(
            owner_of_target(target) == owner and target != owner and not self.has_version_of(target)
            for target in self._tombstones
        )

    def is_withdrawn(self, target: str) -> bool:
        """Say whether an expert or a node was withdrawn."""
        return target in self._tombstones

    def descendants(self, roots: Iterable[Digest]) -> list[Digest]:
        """Return everything that came from roots, without them."""
        return descendants(self._children, roots)

    def lineage(self, root: Digest, heads: set[Digest]) -> Lineage:
        """Return the ancestors and descendants of a version, itself among them, newest first.

        Versions among heads are live unless they, or what they came from, were withdrawn.
        """
        members = [*self._ancestors(root), root, *self.descendants([root])]
        known = [digest for digest in dict.fromkeys(members) if digest in self._manifests]
        tainted = set(self.descendants(self._withdrawn()))
        nodes = [self._node(digest, heads, tainted) for digest in known]
        edges = [
            LineageEdge(child=digest, parent=parent.manifest, kind=parent.kind)
            for digest in known
            for parent in self._manifests[digest].parents
        ]
        newest_first = sorted(nodes, key=lambda node: (-node.created_at, -node.version, node.manifest))
        return Lineage(nodes=tuple(newest_first), edges=tuple(edges))

    def _forget(self) -> None:
        self._order: list[Digest] = []
        self._manifests: dict[Digest, Manifest] = {}
        self._children: dict[Digest, list[Digest]] = defaultdict(list)
        self._parents: dict[Digest, list[Digest]] = {}
        self._users: dict[Digest, list[Digest]] = defaultdict(list)
        self._by_owner: dict[NodeId, list[Digest]] = defaultdict(list)

    def _add(self, digest: Digest, envelope: bytes | None) -> None:
        self._order.append(digest)
        try:
            statement = read_statement(envelope or b"", Manifest)
        except SwarmError as error:
            _log.error("manifest.unreadable", manifest=digest, reason=str(error))
            return
        if statement.digest != digest:
            _log.error("manifest.damaged", manifest=digest, found=statement.digest)
            return
        self._manifests[digest] = statement.value
        self._by_owner[statement.value.owner].append(digest)
        self._parents[digest] = [parent.manifest for parent in statement.value.parents]
        for parent in statement.value.parents:
            self._children[parent.manifest].append(digest)
        for blob in statement.value.blobs():
            self._users[blob].append(digest)

    def _is_withdrawn(self, manifest: Manifest) -> bool:
        return self._has_tombstone(manifest) or self._is_revoked(manifest.owner)

    def _has_tombstone(self, manifest: Manifest) -> bool:
        return manifest.expert in self._tombstones or manifest.owner in self._tombstones

    def _withdrawn(self) -> list[Digest]:
        return [digest for digest, manifest in self._manifests.items() if self._is_withdrawn(manifest)]

    def _ancestors(self, root: Digest) -> list[Digest]:
        return descendants(self._parents, [root])

    def _node(self, digest: Digest, heads: set[Digest], tainted: set[Digest]) -> LineageNode:
        manifest = self._manifests[digest]
        standing: Standing = "live" if digest in heads else "superseded"
        if digest in tainted:
            standing = "descends-from-withdrawn"
        if self._is_withdrawn(manifest):
            standing = "withdrawn"
        return LineageNode(
            manifest=digest,
            expert=manifest.expert,
            version=manifest.version,
            owner=manifest.owner,
            standing=standing,
            created_at=manifest.created_at,
        )
