"""A client, who brings no data, fetches the root and answers with it; it changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from node.enrol import join
from swarm.config import NodeHome
from swarm.domain.errors import NotAuthorisedError, NotFoundError
from swarm.domain.ids import ROOT_EXPERT, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.modules.blobs import BlobFiles
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement
from tests.support.coordinator import BackEnd, back_end, refusal, samples


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


class Client:
    """A client that has joined, as far as a program of its own would go."""

    def __init__(self, identity: Identity, coordinator: CoordinatorClient, registry: RegistryClient) -> None:
        self.identity, self.coordinator, self.registry = identity, coordinator, registry
        cache = BlobFiles(identity.folder.parent / "cache")
        self.verified = VerifiedRegistry(registry, coordinator, identity.keyring(), cache)


async def joined(swarm: BackEnd, name: str = "zoe") -> Client:
    token = await swarm.new_token("client")
    line = f"{token.text}@127.0.0.1:{swarm.endpoints.join_port}"
    identity = await asyncio.to_thread(join, line, NodeHome(swarm.folder / name), name=name, role="client")
    assert identity.role == "client"
    coordinator = await swarm.clients.enter_async_context(
        open_channel(identity, identity.coordinator, "coordinator", NodeId("coordinator"))
    )
    address = f"127.0.0.1:{swarm.registry_port}"
    registry = await swarm.clients.enter_async_context(
        open_channel(identity, address, "registry", NodeId("registry"))
    )
    return Client(identity, CoordinatorClient(coordinator), RegistryClient(registry))


async def until(found: Callable[[], Awaitable[Manifest | None]]) -> Manifest:
    async with asyncio.timeout(30):
        while (value := await found()) is None:
            await asyncio.sleep(0.05)
        return value


async def test_a_client_fetches_the_root_and_its_blobs_and_answers_with_it_alone(swarm: BackEnd) -> None:
    client = await joined(swarm)

    async def root() -> Manifest | None:
        try:
            return (await client.verified.manifest(ROOT_EXPERT)).value
        except NotFoundError:
            return None

    assert await root() is None, "there is no root before there are sums"
    ada = await swarm.node("ada", "ab", sums="exact")
    await ada.train()
    found = await until(root)
    assert (found.owner, found.share) == ("coordinator", "public")
    await client.verified.blobs(found)
    specification = read_statement(await client.coordinator.specification(), Specification).value
    expert = LoadedExpert.load(found, client.verified.cache.open_verified, specification)
    inputs = np.concatenate([samples(name, 3, 1) for name in "ab"])
    right = expert.probabilities(inputs).argmax(axis=1)
    assert [found.class_names[row] for row in right] == ["a"] * 3 + ["b"] * 3


async def test_a_client_publishes_withdraws_and_contributes_nothing(swarm: BackEnd) -> None:
    client, ada = await joined(swarm), await swarm.node("ada", "ab", sums="exact")
    await ada.train()
    envelope, arrays = await ada.contribution()
    manifest = await client.verified.manifest(ExpertId("ada.e0"))
    for attempt in (
        client.registry.publish_blob(manifest.digest, b"something"),
        client.registry.commit(manifest.envelope, ada.fence),
        client.coordinator.contribute(envelope, arrays, ada.fence),
        client.coordinator.leave("not mine"),
        client.coordinator.revoke_node(NodeId("ada"), "not mine"),
        client.coordinator.create_token("operator", 1),
    ):
        assert isinstance(await refusal(attempt), NotAuthorisedError)
    assert (await ada.ask("a")).gate_version == 1
