"""Deltas over real TLS sockets: they arrive whole, they save bytes, and they open no way around any rule."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from node.leaves import LeafBook
from node.outbound import OutboundLog
from node.outbox import Intent, Outbox
from node.publishing import Publisher, Sending
from swarm.digests import digest_of
from swarm.domain.errors import (
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import Listing
from swarm.domain.manifests import Manifest, Parent
from swarm.domain.membership import Caller, Lease
from swarm.modules import BlobFiles, pack_module
from swarm.modules.deltas import DeltaParent, delta_pieces
from swarm.registry.claims import Claims
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.delta_client import DeltaClient
from swarm.rpc.pb import registry_pb2
from swarm.rpc.servicers import registry_service
from swarm.rpc.verified import Fetched, VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.registry import chunked
from tests.support.rpc import found_now, node, service, serving
from tests.support.trust import Founded, manifest, specification


@dataclass
class World:
    """A registry, ada who publishes, bob who pulls; `calls` names what the registry was asked for."""

    swarm: Founded
    ada: Identity
    port: RegistryService
    files: BlobFiles
    claims: Claims
    address: str
    lease: Lease
    folder: Path
    connection: Connection
    calls: list[str]

    @property
    def client(self) -> RegistryClient:
        return RegistryClient(self.connection)

    def signed(self, value: Manifest) -> bytes:
        return sign_statement(value, self.ada.required_signer())

    def publisher(
        self, cache: BlobFiles, *, deltas: bool = True, outbound: OutboundLog | None = None
    ) -> Publisher:
        return Publisher(
            registry=self.client,
            coordinator=None,  # type: ignore[arg-type]  # asked for contributions alone
            cache=cache,
            book=LeafBook(self.folder / "state"),
            outbox=Outbox(self.folder / "outbox"),
            outbound=outbound or OutboundLog(self.folder / "outbound.jsonl"),
            signer=self.ada.required_signer(),
            deltas=deltas,
        )

    async def publish(self, value: Manifest, cache: BlobFiles) -> None:
        await self.publisher(cache).publish(intent_of(self, value), self.lease.fence)

    @asynccontextmanager
    async def bob(self, cache: BlobFiles) -> AsyncIterator[VerifiedRegistry]:
        identity = node(self.swarm, "bob")
        async with open_channel(identity, self.address, "registry", NodeId("registry")) as connection:
            keyring = self.swarm.keyring(self.ada)
            yield VerifiedRegistry(RegistryClient(connection), None, keyring, cache, deltas=True)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    swarm = found_now(tmp_path / "swarm")
    ada, registry = node(swarm, "ada"), service(swarm, "registry")
    store, files = MemoryStore(), BlobFiles(tmp_path / "blobs")
    await store.put_record(ada.id, ada.record)
    await store.put_specification(1, sign_statement(specification(), swarm.coordinator_signer))
    claims = Claims()
    port = RegistryService(
        store=store,
        blobs=files,
        keyring=registry.keyring(),
        certificate_days=lambda: 7.0,
        claims=claims,
    )
    lease = await store.grant_lease(ada.id, 60.0)
    calls: list[str] = []
    for name in ("publish", "publish_delta", "fetch", "fetch_delta"):
        _record(monkeypatch, port, name, calls)
    async with (
        serving(registry, [registry_service(port)]) as (_, address),
        open_channel(ada, address, "registry", NodeId("registry")) as connection,
    ):
        yield World(swarm, ada, port, files, claims, address, lease, tmp_path, connection, calls)


def intent_of(world: World, value: Manifest) -> Intent:
    return Intent(number=1, kind="publish", key="", subject="", envelope=world.signed(value))


def _record(monkeypatch: pytest.MonkeyPatch, port: RegistryService, name: str, calls: list[str]) -> None:
    real = getattr(port, name)

    def recorded(*arguments: object) -> object:
        calls.append(name)
        return real(*arguments)

    monkeypatch.setattr(port, name, recorded)


def versions(share: str = "borrow") -> tuple[list[Manifest], list[dict[Digest, bytes]]]:
    """Three versions of one expert, each a gentle step from the one before."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(700, 700)).astype(np.float32)
    made: list[Manifest] = []
    packed = []
    for version in (1, 2, 3):
        module, blobs = pack_module("head", {"weight": weight, "bias": np.full(8, version, np.float32)})
        value = replace(manifest("ada", 1, version), modules=(module,), parents=(), share=share)  # type: ignore[arg-type]
        made.append(value)
        packed.append(blobs)
        weight = weight * np.float32(1.0001)
    return made, packed


def large(blobs: dict[Digest, bytes]) -> Digest:
    return max(blobs, key=lambda blob: len(blobs[blob]))


async def linked(world: World, made: list[Manifest]) -> list[Manifest]:
    """Let each version name the one before as its parent."""
    found = [made[0]]
    for value in made[1:]:
        before = statement_digest(world.signed(found[-1]))
        found.append(replace(value, parents=(Parent(kind="trained-from", manifest=before),)))
    return found


def cached(world: World, name: str, *packed: dict[Digest, bytes]) -> BlobFiles:
    cache = BlobFiles(world.folder / name)
    for blobs in packed:
        for data in blobs.values():
            cache.put(data)
    return cache


async def test_a_child_goes_and_comes_as_a_delta_and_is_the_same_bytes(world: World) -> None:
    made, packed = versions()
    made = await linked(world, made)
    cache = cached(world, "ada-cache", *packed)
    await world.publish(made[0], cache)
    assert world.calls == ["publish"] * 2
    world.calls.clear()
    await world.publish(made[1], cache)
    assert world.calls.count("publish_delta") == 1
    for blob, data in packed[1].items():
        assert bytes(world.files.open_verified(blob)) == data
    outbound = [json.loads(line) for line in (world.folder / "outbound.jsonl").read_text().splitlines()]
    deltas = {
        line["digest"]: line["attributes"]["delta_to"]
        for line in outbound
        if "delta_to" in line["attributes"]
    }
    assert deltas == {large(packed[1]): large(packed[0])}  # the small one goes as it is

    pulled = cached(world, "bob-cache", packed[0])
    world.calls.clear()
    totals, told = list[int](), list[int]()

    def start(total: int) -> Callable[[int], None]:
        totals.append(total)
        return told.append

    async with world.bob(pulled) as registry:
        fetched = await registry.blobs(made[1], start)
        again = await registry.blobs(made[1])
    assert "fetch_delta" in world.calls
    came = sum(len(data) for blob, data in packed[1].items() if blob not in packed[0])
    assert totals == [came] and sum(told) == came, "a bar is full at the end, and not before the delta began"
    assert (fetched.came_bytes, fetched.delta_bytes) == (came, len(packed[1][large(packed[1])]))
    assert 0 < fetched.delta_sent_bytes < fetched.delta_bytes
    assert again == Fetched()
    for blob, data in packed[1].items():
        assert bytes(pulled.open_verified(blob)) == data


class Watched(OutboundLog):
    """Notes how far the publisher is whenever it lists what goes next."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.publisher: Publisher | None = None
        self.told: list[Sending | None] = []

    def record(self, listings: Sequence[Listing]) -> None:
        assert self.publisher is not None
        self.told.append(self.publisher.sending)
        super().record(listings)


@pytest.mark.parametrize("deltas", [False, True])
async def test_a_publisher_says_how_far_it_is_in_the_blobs_own_bytes(world: World, deltas: bool) -> None:
    made, packed = versions()
    made = await linked(world, made)
    cache, watched = cached(world, "ada-cache", *packed), Watched(world.folder / "watched.jsonl")
    await world.publish(made[0], cache)
    watched.publisher = publisher = world.publisher(cache, deltas=deltas, outbound=watched)
    intent = Intent(number=1, kind="publish", key="k", subject="", envelope=world.signed(made[1]))
    await publisher.publish(intent, world.lease.fence)
    sizes = {blob: len(data) for blob, data in packed[1].items() if blob not in packed[0]}
    before, between, after = watched.told  # of the blobs and the manifest
    assert before is None and after is None and publisher.sending is None
    assert between is not None and between.key == "k"
    assert between.sent_bytes in sizes.values() and between.total_bytes == sum(sizes.values())
    assert world.calls.count("publish_delta") == deltas


@pytest.mark.parametrize("deltas", [False, True])
async def test_a_damaged_blob_of_the_publishers_own_is_named_and_nothing_of_it_is_stored(
    world: World, deltas: bool
) -> None:
    made, packed = versions()
    cache = cached(world, "ada-cache", packed[0])
    blob = large(packed[0])
    with cache.path(blob).open("r+b") as file:
        file.seek(99)
        file.write(bytes([packed[0][blob][99] ^ 1]))
    publisher = world.publisher(cache, deltas=deltas)
    with pytest.raises(VerificationError) as refused:
        await publisher.publish(intent_of(world, made[0]), world.lease.fence)
    assert str(refused.value).startswith(f"blob {blob[:12]}")
    assert not world.files.has(blob) and not cache.has(blob)
    cache.put(packed[0][blob])
    await world.publish(made[0], cache)
    assert bytes(world.files.open_verified(blob)) == packed[0][blob]


async def test_no_claim_outlives_the_commit_of_what_came_as_a_delta(world: World) -> None:
    made, packed = versions()
    made = await linked(world, made)
    cache = cached(world, "ada-cache", *packed)
    for value in made:
        await world.publish(value, cache)
    assert "publish_delta" in world.calls
    assert not any(world.claims.is_claimed(blob) for blobs in packed for blob in blobs)


async def test_a_delta_to_a_grandparent_serves_where_the_parent_is_not_here(world: World) -> None:
    made, packed = versions()
    made = await linked(world, made)
    cache = cached(world, "ada-cache", *packed)
    for value in made:
        await world.publish(value, cache)
    pulled = cached(world, "bob-cache", packed[0])
    world.calls.clear()
    async with world.bob(pulled) as registry:
        await registry.blobs(made[2])
    assert world.calls[0] == "fetch_delta" and pulled.missing(made[2].blobs()) == []


async def test_without_a_parent_here_or_there_blobs_travel_whole(world: World) -> None:
    made, packed = versions()
    made = await linked(world, made)
    await world.publish(made[0], cached(world, "first", packed[0]))
    world.calls.clear()
    await world.publish(made[1], cached(world, "second", packed[1]))  # the parent's bytes are not here
    assert world.calls == ["publish"] * 2
    async with world.bob(cached(world, "bob-cache")) as registry:
        world.calls.clear()
        await registry.blobs(made[1])
        assert "fetch_delta" not in world.calls and "fetch" in world.calls


async def test_what_is_hardly_alike_travels_whole(world: World) -> None:
    rng = np.random.default_rng(1)
    parent, child = rng.bytes(300_000), rng.bytes(300_000)
    cache = cached(world, "cache")
    base = DeltaParent(blob=cache.put(parent), width=4)
    await world.client.publish_blob(base.blob, parent)
    client = DeltaClient(world.connection, cache)
    assert not await client.publish(digest_of(child), memoryview(child), base)
    await world.client.publish_blob(digest_of(child), child)
    assert not await client.fetch_into(digest_of(child), len(child), base)
    assert not cache.has(digest_of(child))


async def test_a_delta_to_another_parent_than_it_says_stores_nothing(world: World) -> None:
    before, after = bytes(300_000), bytes(150_000) + b"\x01" * 150_000
    other = b"\x07" * 300_000
    for data in (before, other):
        await world.client.publish_blob(digest_of(data), data)
    pieces = b"".join(delta_pieces(after, before, 4))
    with pytest.raises(VerificationError, match="bytes with digest"):
        await world.port.publish_delta(
            world.ada.caller, digest_of(other), digest_of(after), len(after), chunked(pieces)
        )
    with pytest.raises(VerificationError, match="delta"):
        await world.port.publish_delta(
            world.ada.caller, digest_of(before), digest_of(after), len(after), chunked(pieces[:-1])
        )
    with pytest.raises(InvalidInputError, match="as its parent has"):
        await world.port.publish_delta(
            world.ada.caller, digest_of(before), digest_of(after), len(after) + 1, chunked(pieces)
        )
    with pytest.raises(NotFoundError):
        await world.port.publish_delta(
            world.ada.caller, digest_of(b"none"), digest_of(after), len(after), chunked(pieces)
        )
    assert not world.files.has(digest_of(after))


async def test_a_registry_that_lies_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = bytes(300_000), bytes(299_999) + b"\x01"
    cache = cached(world, "cache")
    base = DeltaParent(blob=cache.put(before), width=4)

    async def lies(digest: Digest, parent: Digest, width: int, caller: Caller) -> AsyncIterator[bytes]:
        for piece in delta_pieces(b"\x02" * 300_000, before, width):
            yield piece

    monkeypatch.setattr(world.port, "fetch_delta", lies)
    assert not await DeltaClient(world.connection, cache).fetch_into(digest_of(after), len(after), base)
    assert not cache.has(digest_of(after))


async def test_a_delta_that_breaks_off_is_left_and_the_blob_comes_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, packed = versions()
    made = await linked(world, made[:2])
    cache = cached(world, "bobs", packed[0])
    real = world.port.fetch_delta

    async def broken_off(digest: Digest, parent: Digest, width: int, caller: Caller) -> AsyncIterator[bytes]:
        async for piece in real(digest, parent, width, caller):
            yield piece[: len(piece) // 2]
            raise UnreachableError("registry", found="a broken line")

    for each in made:
        await world.publish(each, cached(world, "adas", *packed[:2]))
    monkeypatch.setattr(world.port, "fetch_delta", broken_off)
    told: list[int] = []
    async with world.bob(cache) as registry:
        fetched = await registry.blobs(made[1], lambda total: told.append)
    assert fetched.delta_bytes == 0 and fetched.came_bytes == sum(told)
    assert not cache.missing(made[1].blobs())


async def test_nobody_gets_at_weights_that_are_kept_by_asking_for_a_delta(world: World) -> None:
    kept, packed = versions("serve-only")
    cache = cached(world, "ada-cache", *packed)
    await world.publish(kept[0], cache)
    hidden = large(packed[0])
    public = bytes(len(packed[0][hidden]))
    await world.client.publish_blob(digest_of(public), public)
    for digest, parent in ((digest_of(public), hidden), (hidden, digest_of(public))):
        request = registry_pb2.DeltaRequest(digest=digest, parent=parent, width=4)
        with pytest.raises(NotAuthorisedError, match="serve-only"):
            async for _ in world.connection.stream(m.FETCH_DELTA, request):
                pass
