"""A registry without its network: real signatures, real blobs, a store in memory."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.modules import BlobFiles, pack_module
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.registry.store import MetadataStore
from swarm.trust.identity import Identity
from swarm.trust.keyring import Keyring
from swarm.trust.statements import sign_statement
from tests.support.trust import Founded, found, manifest, specification

Change = Callable[[Manifest], Manifest]


def head_weights(seed: int = 0, bad: float | None = None) -> dict[str, NDArray[Any]]:
    """A linear head's arrays: one shares a blob with the next, one is large enough for its own."""
    rng = np.random.default_rng(seed)
    arrays = {
        "weight": rng.normal(size=(300, 64)).astype(np.float32),
        "bias": rng.normal(size=300).astype(np.float32),
        "scale": np.ones(4, np.float32),
    }
    if bad is not None:
        arrays["bias"][7] = bad
    return arrays


def expert(
    owner: str = "ada", number: int = 1, version: int = 1, *, seed: int = 0, bad: float | None = None
) -> tuple[Manifest, dict[Digest, bytes]]:
    """A manifest over real weights, and their blobs."""
    module, blobs = pack_module("head", head_weights(seed, bad))
    return replace(manifest(owner, number, version), modules=(module,), parents=()), blobs


async def chunked(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def fetched(service: RegistryService, blob: Digest) -> bytes:
    return b"".join([chunk async for chunk in service.fetch(blob)])


@dataclass
class Registry:
    """The service, what is behind it, and two nodes with leases."""

    founded: Founded
    store: MetadataStore
    blobs: BlobFiles
    keyring: Keyring
    service: RegistryService
    nodes: dict[str, Identity]
    fences: dict[str, int]

    def over(self, store: MetadataStore, journal: CommitJournal | None = None) -> "Registry":
        """The same registry over another store."""
        keyring = self.founded.coordinator.keyring()
        service = service_of(store, self.blobs, keyring, journal=journal)
        return replace(self, store=store, keyring=keyring, service=service)

    def caller(self, name: str) -> Caller:
        return self.nodes[name].caller

    def signed(self, value: object, signer: str = "ada") -> bytes:
        return sign_statement(value, self.nodes[signer].required_signer())

    async def publish(self, blobs: dict[Digest, bytes], sender: str = "ada") -> None:
        for name, data in blobs.items():
            await self.service.publish(self.caller(sender), name, len(data), chunked(data))

    async def commit(self, made: Manifest, *, signer: str = "", key: str = "") -> Digest:
        """Commit as the owner does; signer: sign with another node's key."""
        envelope = self.signed(made, signer or made.owner)
        caller = self.caller(made.owner)
        return (await self.service.commit(caller, envelope, self.fences[made.owner], key)).manifest

    async def add(
        self, owner: str = "ada", number: int = 1, version: int = 1, change: Change = lambda made: made
    ) -> Digest:
        """Publish and commit one expert version; return its manifest's digest."""
        made, blobs = expert(owner, number, version, seed=100 * len(owner) + 10 * number + version)
        await self.publish(blobs, owner)
        return await self.commit(change(made))


def service_of(
    store: MetadataStore,
    blobs: BlobFiles,
    keyring: Keyring,
    spare_bytes: int = 0,
    journal: CommitJournal | None = None,
) -> RegistryService:
    return RegistryService(
        store=store,
        blobs=blobs,
        keyring=keyring,
        certificate_days=lambda: 6.5,
        spare_bytes=spare_bytes,
        journal=journal,
    )


async def open_registry(folder: Path, **specified: Any) -> Registry:
    """Found a swarm with the nodes ada and bob, and a registry over memory.

    specified: what its specification says differently.
    """
    founded = found(folder / "swarm")
    store, blobs, keyring = MemoryStore(), BlobFiles(folder / "blobs"), founded.coordinator.keyring()
    signed = sign_statement(replace(specification(), **specified), founded.coordinator_signer)
    await store.put_specification(1, signed)
    nodes, fences = {}, {}
    for name in ("ada", "bob"):
        nodes[name] = founded.member(name)
        await store.put_record(NodeId(name), nodes[name].record)
        fences[name] = (await store.grant_lease(NodeId(name), 60)).fence
    return Registry(founded, store, blobs, keyring, service_of(store, blobs, keyring), nodes, fences)
