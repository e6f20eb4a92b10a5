"""A node gives blobs of shared experts that are in its gate, over mutual TLS; nothing else leaves."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from node.holdings import Holdings
from node.outbound import OutboundLog
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.errors import NotAuthorisedError, VerificationError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.modules import BlobFiles, pack_module
from swarm.modules.outlines import BLOCK_BYTES
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.rpc.blob_holders import node_holder
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.servicers import holder_service, registry_service
from swarm.rpc.verified import VerifiedRegistry
from swarm.transfer import Holder
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement
from tests.support.rpc import found_now, node, service, serving
from tests.support.trust import Founded, gate, manifest


@dataclass
class Node:
    """A node's home with one large expert in it, and a peer's way to it."""

    swarm: Founded
    identity: Identity
    home: NodeHome
    peer: Identity
    holder: Holder
    manifest: Manifest
    blobs: dict[Digest, bytes]

    def keep(self, value: Manifest, folder: Path) -> None:
        envelope = sign_statement(value, self.identity.required_signer())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{digest_of(envelope)}.json").write_bytes(envelope)

    def set_gate(self, *owners: str) -> None:
        leaves = tuple(replace(gate().leaves[0], owner=NodeId(owner)) for owner in owners)
        envelope = sign_statement(replace(gate(), leaves=leaves), self.swarm.coordinator_signer)
        (self.home.state / "gate.json").write_bytes(envelope)

    async def read(self, blob: Digest, offset: int = 0, length: int = 0) -> bytes:
        return b"".join([chunk async for chunk in self.holder.read(blob, offset, length)])


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncIterator[Node]:
    swarm, home = found_now(tmp_path / "swarm"), NodeHome(tmp_path / "home")
    identity, peer = node(swarm, "ada"), node(swarm, "bob")
    weights = np.random.default_rng(3).normal(size=(BLOCK_BYTES // 1000, 600)).astype(np.float32)
    module, blobs = pack_module("hidden", {"weight": weights})
    for data in blobs.values():
        BlobFiles(home.cache).put(data)
    home.state.mkdir(parents=True)
    holdings = Holdings(home, identity.keyring(), OutboundLog(home.outbound), clock=lambda: 5.0)
    async with (
        serving(identity, [holder_service(holdings)]) as (_, address),
        open_channel(peer, address, "node", NodeId("ada")) as connection,
    ):
        value = replace(manifest(), modules=(module,))
        made = Node(swarm, identity, home, peer, node_holder(connection), value, blobs)
        made.keep(value, home.state / "manifests")
        made.set_gate("ada")
        yield made


async def test_shared_weights_of_an_expert_in_the_gate_are_given_and_listed_as_sent(ada: Node) -> None:
    ((blob, data),) = ada.blobs.items()
    assert await ada.read(blob) == data
    assert await ada.read(blob, 10, 20) == data[10:30]
    assert (await ada.holder.outline(blob)).size_bytes == len(data)
    whole, part = OutboundLog(ada.home.outbound).read()
    assert (whole.what, whole.recipient, whole.digest, whole.size_bytes) == (
        "blob",
        "node bob",
        blob,
        len(data),
    )
    assert part.size_bytes == 20


async def test_what_is_in_no_gate_serve_only_or_unknown_is_not_given(ada: Node) -> None:
    (blob,) = ada.blobs
    ada.set_gate()
    for refused in (blob, digest_of(b"unknown")):
        with pytest.raises(NotAuthorisedError, match=refused[:12]):
            await ada.read(refused)
        with pytest.raises(NotAuthorisedError, match=refused[:12]):
            await ada.holder.outline(refused)
    (ada.home.state / "gate.json").unlink()
    with pytest.raises(NotAuthorisedError):
        await ada.read(blob)
    ada.set_gate("ada")
    assert await ada.read(blob, 0, 1)
    ada.keep(
        replace(ada.manifest, version=2, parent_version=1, share="serve-only"), ada.home.cache / "manifests"
    )
    with pytest.raises(NotAuthorisedError):
        await ada.read(blob)
    assert len(OutboundLog(ada.home.outbound).read()) == 1


async def test_a_gate_that_the_coordinator_did_not_sign_sets_nothing_free(ada: Node) -> None:
    forged = sign_statement(gate(), ada.identity.required_signer())
    (ada.home.state / "gate.json").write_bytes(forged)
    with pytest.raises(VerificationError):
        await ada.read(next(iter(ada.blobs)))


async def test_an_expert_comes_from_registry_and_node_together_and_from_one_where_the_other_fails(
    ada: Node, tmp_path: Path
) -> None:
    ((blob, data),) = ada.blobs.items()
    registry, files = service(ada.swarm, "registry"), BlobFiles(tmp_path / "blobs")
    files.put(data)
    port = RegistryService(
        store=MemoryStore(), blobs=files, keyring=registry.keyring(), certificate_days=lambda: 7.0
    )
    totals = list[int]()
    told = list[int]()

    def on_start(total: int) -> object:
        totals.append(total)
        return told.append

    async with (
        serving(registry, [registry_service(port)]) as (_, address),
        open_channel(ada.peer, address, "registry", NodeId("registry")) as connection,
    ):
        for name in ("both", "node alone"):
            cache = BlobFiles(tmp_path / name)
            keyring = ada.swarm.keyring(ada.identity)
            verified = VerifiedRegistry(RegistryClient(connection), None, keyring, cache, [ada.holder])
            await verified.blobs(ada.manifest, on_start)  # type: ignore[arg-type]
            assert bytes(cache.open_verified(blob)) == data
            assert verified.dropped == {}
            files.remove(blob)  # the registry lost it: the next turn has the node alone
    assert totals == [len(data)] * 2 and sum(told) == 2 * len(data)
    assert OutboundLog(ada.home.outbound).read()
