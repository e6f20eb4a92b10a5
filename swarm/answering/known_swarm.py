"""A swarm as a client or a node knows it, verified and on disk: enough to route without the coordinator.

The gate with its arrays, the manifests of the versions that answer, who is revoked, and where nodes listen
and what they hold. Gates, manifests, records, the specification and the revocation list are signed, and
verified here; which version is an expert's newest, where a node listens, and which others hold a version, is
what registry and coordinator say over mutual TLS.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import structlog

from swarm.answering.active_gate import ActiveGate, active_gate
from swarm.answering.head_changes import HeadChanges
from swarm.answering.known_head import KnownHead
from swarm.answering.known_members import KnownMembers, take_kept
from swarm.domain.errors import SwarmError, TrunkMismatchError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import ROOT_EXPERT, Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.tensors import TensorEntry
from swarm.modules.blobs import BlobFiles
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.keyring import UnknownMemberError
from swarm.trust.statements import Statement

_log = structlog.get_logger(__name__)


class KnownSwarm(KnownMembers):
    """Implements `KnownHeads`. `refresh` brings it up to date; what is known stays while nobody answers."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Take up what is kept in folder; what does not verify is left out."""
        super().__init__(folder, identity)
        self.blobs = BlobFiles(folder / "blobs")
        self._gate: Statement[GateStatement] | None = None
        self._loading = asyncio.Lock()
        self._manifests: dict[Digest, KnownHead] = {}
        self._loaded: ActiveGate | None = None
        self._changes, self._revoked = HeadChanges(), self.keyring.revoked
        self._lacking: tuple[ActiveGate | None, int, tuple[ExpertId, ...]] = (None, -1, ())
        self._owners: tuple[Statement[GateStatement] | None, frozenset[NodeId]] = (None, frozenset())
        self._heads = {ExpertId(name): Digest(head) for name, head in self._kept.table("heads").items()}
        self.placed: Mapping[Digest, tuple[NodeId, ...]] = {
            Digest(manifest): tuple(map(NodeId, nodes.split()))
            for manifest, nodes in self._kept.table("placement").items()
        }
        """On which nodes the coordinator has the versions that answer, beside their owners."""
        self._placement_mark = ""
        self._take_kept()

    @property
    def gate(self) -> GateStatement | None:
        """The newest verified gate whose arrays are here."""
        return None if self._gate is None else self._gate.value

    @property
    def active(self) -> ActiveGate | None:
        """That gate once `load` has loaded it. None where the versions known here are of a newer one."""
        loaded = self._loaded
        is_present = loaded is not None and loaded.version == self.gate_version
        return loaded if is_present else None

    @property
    def gate_version(self) -> int:
        """The version of `gate`, 0 before the first."""
        return 0 if self._gate is None else self._gate.value.version

    @property
    def owners(self) -> frozenset[NodeId]:
        """Who has leaves in `gate`; the same object for the same gate."""
        if self._owners[0] is not self._gate:
            leaves = () if self._gate is None else self._gate.value.leaves
            self._owners = self._gate, frozenset(leaf.owner for leaf in leaves)
        return self._owners[1]

    @property
    def changes(self) -> HeadChanges:
        """Whose version that answers has changed, or who was revoked."""
        if self.keyring.revoked is not self._revoked:  # whoever follows the gate sets it, too
            self._changes.note(*(self.keyring.revoked ^ self._revoked))
            self._revoked = self.keyring.revoked
        return self._changes

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        """Return the version that answers for a leaf; None where there is none, where it was withdrawn, or
        its owner revoked."""
        head = self._manifests.get(_version(leaf, self._heads))
        if head is None or head.manifest.expert != leaf.expert:
            return None
        return None if self.keyring.is_revoked(leaf.owner) else head

    def get(self, expert: ExpertId) -> KnownHead | None:
        """Return an expert's newest version, None where it is not known."""
        return self._manifests.get(self._heads.get(expert, Digest("")))

    def lacking(self) -> tuple[ExpertId, ...]:
        """Return the experts of the loaded gate that have a version, of which the manifest is not here."""
        active, mark = self.active, self.changes.mark
        if self._lacking[:2] != (active, mark):
            versions = {
                leaf.expert: _version(leaf, self._heads)
                for leaf in (() if active is None else active.value.leaves)
                if not self.keyring.is_revoked(leaf.owner)
            }
            found = (e for e, digest in versions.items() if digest and digest not in self._manifests)
            self._lacking = active, mark, tuple(found)
        return self._lacking[2]

    async def refresh(self, coordinator: CoordinatorClient, registry: RegistryClient) -> None:
        """Ask for all that is new. What can be had is taken up; then the first error is raised.

        A gate and the versions that answer are taken up together: no answer is by half of them.
        """
        refusals: list[SwarmError] = []
        gate = self._gate
        try:
            await self.refresh_members(coordinator)
            gate = await self._newest_gate(coordinator, registry)
            await self._refresh_placement(coordinator)
        except SwarmError as error:
            refusals.append(error)
        try:
            await self._take_with_heads(gate, coordinator, registry)
        except SwarmError as error:
            refusals.append(error)
        if refusals:
            raise refusals[0]

    async def _refresh_placement(self, coordinator: CoordinatorClient) -> None:
        found = await coordinator.placement(self._placement_mark)
        if found is None:
            return
        self.placed, self._placement_mark = found.nodes, found.mark
        rows = [(manifest, " ".join(nodes)) for manifest, nodes in found.nodes.items()]
        await asyncio.to_thread(self._kept.keep_table, "placement", rows)

    async def load(self) -> ActiveGate | None:
        """Return the newest gate that is here with its arrays, loaded; None before the first."""
        async with self._loading:
            gate = self._gate
            if gate is not None and self.active is None:
                trunk = self.specification().trunk
                self._loaded = await asyncio.to_thread(
                    active_gate, gate, self.blobs.open_verified, lambda: trunk
                )
        return self.active

    async def _newest_gate(
        self, coordinator: CoordinatorClient, registry: RegistryClient
    ) -> Statement[GateStatement]:
        """Return the newest gate, its arrays and the trunk's in the cache."""
        await self.take_specification(await coordinator.specification())
        found = self._open_gate(await coordinator.gate())
        trunk = self.specification().trunk
        if found.value.trunk != trunk.digest:
            raise TrunkMismatchError(
                f"gate {found.value.version}",
                found=f"trunk {found.value.trunk[:12]}",
                expected=f"the specification's, {trunk.digest[:12]}",
            )
        if self._gate is not None and found.value.version <= self._gate.value.version:
            found = self._gate
        entries = self._entries(found.value)
        if self.blobs.missing(entry.blob for entry in entries):
            await VerifiedRegistry(registry, coordinator, self.keyring, self.blobs).fetch(entries)
        return found

    async def _take_with_heads(
        self,
        gate: Statement[GateStatement] | None,
        coordinator: CoordinatorClient,
        registry: RegistryClient,
    ) -> None:
        heads = {head.expert: head.manifest for head in await registry.heads()}
        leaves = () if gate is None else gate.value.leaves
        wanted = {_version(leaf, heads) for leaf in leaves} | {heads.get(ROOT_EXPERT, Digest(""))}
        manifests = {digest: head for digest, head in self._manifests.items() if digest in wanted}
        for digest in sorted(wanted - {Digest("")} - manifests.keys()):
            try:
                envelope = await registry.manifest(digest=digest)
                statement = await self._opened(envelope, coordinator)
            except SwarmError as error:
                _log.warning("manifest.not_known", manifest=digest[:12], because=str(error))
                continue
            if statement.digest == digest:
                manifests[digest] = KnownHead(manifest=statement.value, digest=digest)
                await asyncio.to_thread(self._kept.keep, f"manifest/{digest}", envelope)
        is_newer = gate is not None and gate is not self._gate
        changed = {expert for expert, _ in heads.items() ^ self._heads.items()}
        for digest in manifests.keys() ^ self._manifests.keys():
            changed.add((manifests.get(digest) or self._manifests[digest]).manifest.expert)
        self._changes.note(*sorted(changed))
        self._heads, self._manifests, self._gate = heads, manifests, gate
        await asyncio.to_thread(self._keep, is_newer)

    def _keep(self, is_newer: bool) -> None:
        """Bring gate and heads to disk, and drop what they need no more."""
        self._kept.keep_table("heads", self._heads.items())
        self._kept.drop_others("manifest", self._manifests.keys())
        if self._gate is None or not is_newer:
            return
        self._kept.keep("gate", self._gate.envelope)
        kept = {entry.blob for entry in self._entries(self._gate.value)}
        for blob in [blob for blob in self.blobs.digests() if blob not in kept]:
            self.blobs.remove(blob)
        _log.info("gate.followed", gate_version=self._gate.value.version)

    def _entries(self, gate: GateStatement) -> tuple[TensorEntry, ...]:
        trunk = self.specification().trunk
        return (*gate.arrays, *trunk.weights.tensors, *trunk.probe.tensors)

    async def _opened(self, envelope: bytes, coordinator: CoordinatorClient) -> Statement[Manifest]:
        try:
            return self._open_manifest(envelope)
        except UnknownMemberError as unknown:
            record = await coordinator.record(NodeId(unknown.member))
            self.keyring.add_record(record)
            self._kept.keep(f"record/{unknown.member}", record)
            return self._open_manifest(envelope)

    def _take_kept(self) -> None:
        for record in self._kept.all_of("record"):
            take_kept(self.keyring.add_record, record)
        if self._specification is not None:
            self._gate = take_kept(self._open_gate, self._kept.envelope("gate"))
        for envelope in self._kept.all_of("manifest"):
            statement = take_kept(self._open_manifest, envelope)
            if statement is not None:
                head = KnownHead(manifest=statement.value, digest=statement.digest)
                self._manifests[statement.digest] = head

    def _open_gate(self, envelope: bytes) -> Statement[GateStatement]:
        return self.keyring.open(envelope, GateStatement)

    def _open_manifest(self, envelope: bytes) -> Statement[Manifest]:
        return self.keyring.open(envelope, Manifest)


def _version(leaf: GateLeaf, heads: Mapping[ExpertId, Digest]) -> Digest:
    """Return the digest of the version that answers for a leaf, empty where its expert was withdrawn."""
    head = heads.get(leaf.expert, Digest(""))
    return Digest(leaf.manifest) if head and leaf.manifest else head
