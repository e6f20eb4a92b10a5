"""A registry over mutual TLS, an owner that publishes there, and what another node sees of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swarm.digests import digest_of
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Lease
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_module
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.servicers import registry_service
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.rpc import found_now, node, service, serving
from tests.support.trust import Founded, manifest, specification


@dataclass
class World:
    """A registry with a node's client to it, and the store and files behind it."""

    swarm: Founded
    ada: Identity
    store: MemoryStore
    files: BlobFiles
    port: RegistryService
    connection: Connection
    client: RegistryClient
    lease: Lease
    cache: BlobFiles

    def verified(self, coordinator: CoordinatorClient | None = None) -> VerifiedRegistry:
        """What a node that has not met ada sees."""
        return VerifiedRegistry(self.client, coordinator, self.swarm.keyring(), self.cache)

    async def publish(self) -> tuple[Manifest, Digest, bytes]:
        """Publish one version of ada's expert through the wire."""
        value, blobs = weights_of(manifest())
        for data in blobs.values():
            await self.client.publish_blob(digest_of(data), data)
        envelope = sign_statement(value, self.ada.required_signer())
        await self.client.commit(envelope, self.lease.fence, key="publish-1")
        return value, statement_digest(envelope), envelope


@asynccontextmanager
async def published_world(folder: Path) -> AsyncIterator[World]:
    """Serve a registry over mutual TLS to its owner ada."""
    swarm = found_now(folder / "swarm")
    ada, registry = node(swarm, "ada"), service(swarm, "registry")
    store, files = MemoryStore(), BlobFiles(folder / "blobs")
    await store.put_record(ada.id, ada.record)
    await store.put_specification(1, sign_statement(specification(), swarm.coordinator_signer))
    port = RegistryService(store=store, blobs=files, keyring=registry.keyring(), certificate_days=lambda: 7.0)
    lease = await store.grant_lease(ada.id, 60.0)
    cache = BlobFiles(folder / "cache")
    async with (
        serving(registry, [registry_service(port)]) as (_, address),
        open_channel(ada, address, "registry", NodeId("registry")) as connection,
    ):
        client = RegistryClient(connection)
        yield World(swarm, ada, store, files, port, connection, client, lease, cache)


def weights_of(value: Manifest) -> tuple[Manifest, dict[Digest, bytes]]:
    """Return the manifest with modules that have real bytes, and these bytes."""
    rng = np.random.default_rng(0)
    hidden, first = pack_module("hidden", {"weight": rng.normal(size=(200, 200)).astype(np.float32)})
    head, second = pack_module("head", {"weight": np.ones((3, 2), np.float32)})
    return replace(value, modules=(hidden, head)), {**first, **second}
