"""Room in the registry for what growth makes: what did not pay goes before it is in the way (docs/adr/0012).

The registry holds a limited number of an owner's experts. Each split that does not pay leaves two there that
no gate has; once the next one would not fit, the owner withdraws the oldest of them by itself, with its own
tombstones, and forgets their files.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from node.growth.changes import TreeChange
from node.leaves import LeafBook, OwnLeaf
from node.outbox import Outbox
from swarm.domain.errors import SwarmError, TooManyExpertsError
from swarm.domain.gates import GateStatement
from swarm.domain.growth import ProposalKind
from swarm.domain.ids import Digest, ExpertId, LeafId, number_of
from swarm.domain.lineage import Lineage, descendants
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Head
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement, sign_statement

NEW_EXPERTS: dict[ProposalKind, int] = {"split": 2, "merge": 1, "add": 1}
"""How many experts a proposal of each kind lays down."""
KEPT_ACCEPTED = 16
"""What the node's newest accepted changes made, or took away, stays: `swarm gate rollback` may want it."""
REASON = "growth that did not pay; withdrawn by its owner to make room"
_log = structlog.get_logger(__name__)


class Registry(Protocol):
    """What is asked of the registry (`swarm.rpc.clients.RegistryClient`)."""

    async def heads(self, owner: str = "") -> list[Head]: ...
    async def lineage(self, manifest: str = "", expert: str = "") -> Lineage: ...
    async def withdraw(self, tombstone: bytes, fence: int) -> list[Digest]: ...


class Knowledge(Protocol):
    """What must be known of the swarm."""

    @property
    def gate(self) -> GateStatement | None: ...
    def specification(self) -> Specification: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedExperts:
    """Withdraws this node's experts that no gate has. `fence` gives the present lease's, 0 without one."""

    identity: Identity
    book: LeafBook
    outbox: Outbox
    cache: BlobFiles
    knowledge: Knowledge
    registry: Registry
    fence: Callable[[], int]
    clock: Callable[[], float] = time.time

    async def make_room(self, wanted: int) -> tuple[ExpertId, ...]:
        """Withdraw as many unused experts, the oldest first, as `wanted` more need to fit into the registry;
        return them, nothing where there is room.

        Raises TooManyExpertsError where too few may go, after withdrawing those, and UnreachableError.
        """
        most = self.knowledge.specification().max_experts_per_owner
        heads = {head.expert: head for head in await self.registry.heads(self.identity.id)}
        excess = len(heads) + wanted - most
        if excess <= 0:
            return ()
        gone: list[ExpertId] = []
        for leaf in self._unused():
            head = heads.get(leaf.expert)
            if head is None and not leaf.head:  # it never came there
                self._forget(leaf)
            elif head is None:  # withdrawn before, and then something stopped this node
                await self._withdraw(leaf)
            elif len(gone) < excess and not await self._has_descendants(leaf, head):
                await self._withdraw(leaf)
                gone.append(leaf.expert)
        if gone:
            _log.info("growth.withdrew_unused", experts=" ".join(gone), found=len(heads), most=most)
        if len(gone) < excess:
            raise TooManyExpertsError(
                f"experts of {self.identity.id}",
                found=f"{len(heads) - len(gone)} in the registry, none of which may be withdrawn unasked",
                expected=f"at most {most - wanted}, for {wanted} more to come",
                remedy="withdraw some that no gate has: swarm experts, then swarm expert remove EXPERT",
            )
        return tuple(gone)

    def _unused(self) -> list[OwnLeaf]:
        gate = self.knowledge.gate
        if gate is None:
            return []
        taken = {leaf.leaf for leaf in gate.leaves} | {branch.leaf for branch in gate.branches}
        on_their_way = {intent.subject.partition("@")[0] for intent in self.outbox.pending()}
        retired = [leaf for leaf in self.book.everything() if self.book.tree.place(leaf.leaf).is_retired]
        found = [leaf for leaf in retired if leaf.leaf not in taken and leaf.expert not in on_their_way]
        order = unused_leaves(self.book.tree.changes(), [leaf.leaf for leaf in found])
        return sorted((leaf for leaf in found if leaf.leaf in order), key=lambda leaf: order.index(leaf.leaf))

    async def _has_descendants(self, leaf: OwnLeaf, head: Head) -> bool:
        """Tell whether some other expert that was not withdrawn came from any version of a leaf's."""
        seen: set[Digest] = set()
        for version in reversed(self._versions(leaf) or [head.manifest]):
            if version in seen:
                continue
            lineage = await self.registry.lineage(manifest=version)
            children: dict[Digest, list[Digest]] = {}
            for edge in lineage.edges:
                children.setdefault(edge.parent, []).append(edge.child)
            below = set(descendants(children, [version]))
            seen |= below
            if any(
                node.expert != leaf.expert and node.standing != "withdrawn"
                for node in lineage.nodes
                if node.manifest in below
            ):
                return True
        return False

    def _versions(self, leaf: OwnLeaf) -> list[Digest]:
        """Return the digests of a leaf's versions that are kept here, newest first."""
        found, wanted = list[Digest](), [Digest(leaf.head), leaf.manifest]
        while wanted:
            digest = wanted.pop()
            if not digest or digest in found or not self.book.manifest_file(digest).exists():
                continue
            manifest = self.book.signed(digest).value
            if manifest.leaf == leaf.leaf:
                found.append(digest)
                wanted += [parent.manifest for parent in manifest.parents]
        return sorted(found, key=lambda each: -self.book.signed(each).value.version)

    async def _withdraw(self, leaf: OwnLeaf) -> None:
        stone = Tombstone(
            swarm=self.identity.swarm, kind="expert", id=leaf.expert, reason=REASON, created_at=self.clock()
        )
        await self.registry.withdraw(sign_statement(stone, self.identity.required_signer()), self.fence())
        self._forget(leaf)

    def _forget(self, leaf: OwnLeaf) -> None:
        """Remove what is kept here of a leaf: its record, files, versions, and weights that no other has."""
        versions = self._versions(leaf)
        weights = {blob for each in versions for blob in self.book.signed(each).value.blobs()}
        self.book.forget(leaf.leaf, versions)
        for blob in weights - self._blobs_in_use():
            self.cache.remove(blob)

    def _blobs_in_use(self) -> set[Digest]:
        folders = (self.book.manifests, self.cache.folder / "manifests")
        files = [file for folder in folders for file in folder.glob("*.json")]
        used: set[Digest] = set()
        for file in files:
            try:
                used |= set(read_statement(file.read_bytes(), Manifest).value.blobs())
            except SwarmError as error:
                _log.warning("manifest.unreadable", file=str(file), because=str(error))
        return used


def unused_leaves(changes: Sequence[TreeChange], retired: Iterable[LeafId]) -> list[LeafId]:
    """Return which retired leaves may be withdrawn, those first that should go first.

    Only what growth made; never what an open change is about, nor what one of the KEPT_ACCEPTED newest
    accepted changes made or took away. What was never accepted goes before what was; then the oldest.
    """
    accepted = [change for change in changes if change.was_accepted]
    kept = {
        leaf
        for change in (*accepted[-KEPT_ACCEPTED:], *(each for each in changes if each.state == "open"))
        for leaf in (*change.before, *change.after)
    }
    makers = {leaf: change for change in changes for leaf in change.made}
    found = [leaf for leaf in retired if leaf in makers and leaf not in kept]
    return sorted(found, key=lambda leaf: (makers[leaf].was_accepted, number_of(leaf)))
