"""Blobs, manifests and gates from a real registry over mutual TLS, and what a damaged or lying one does."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    InvalidInputError,
    NotFoundError,
    SwarmError,
    UnknownMemberError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Correction
from swarm.domain.tensors import MAX_ASKED_BLOBS
from swarm.modules.packing import pack_arrays, pack_module, pack_single
from swarm.registry.memory_store import MemoryStore
from swarm.rpc import methods as m
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.servicers import membership_service
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement
from tests.support.published import World, published_world, weights_of
from tests.support.rpc import Membership, found_now, node, serving
from tests.support.trust import gate, manifest


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with published_world(tmp_path) as running:
        yield running


class Records(Membership):
    """A coordinator that knows one member's record."""

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self.known = identity

    async def record(self, member: NodeId) -> bytes:
        if member != self.known.id:
            raise NotFoundError(f"member {member}")
        return self.known.record


async def test_a_blob_of_several_messages_comes_back_whole(world: World) -> None:
    data = os.urandom(3 * (1 << 20) + 17)
    blob = digest_of(data)
    assert await world.client.missing([blob]) == [blob]
    await world.client.publish_blob(blob, data)
    await world.client.publish_blob(blob, data)
    assert await world.client.missing([blob]) == []
    assert await world.client.fetch_blob(blob) == data
    await world.client.fetch_into(blob, world.cache, len(data))
    assert bytes(world.cache.open_verified(blob)) == data
    empty = digest_of(b"")
    await world.client.publish_blob(empty, b"")
    assert await world.client.fetch_blob(empty) == b""


async def test_more_blobs_than_may_be_asked_for_at_once_are_asked_for_in_turns(world: World) -> None:
    blob = digest_of(b"here")
    await world.client.publish_blob(blob, b"here")
    absent = [digest_of(b"%d" % row) for row in range(MAX_ASKED_BLOBS + 1)]
    assert await world.client.missing([*absent, blob, absent[0]]) == absent


async def test_bytes_that_are_not_what_was_promised_are_refused_on_arrival(world: World) -> None:
    promised = digest_of(b"promised")
    with pytest.raises(VerificationError, match=promised[:12]):
        await world.client.publish_blob(promised, b"else....")
    assert await world.client.missing([promised]) == [promised]
    with pytest.raises(InvalidInputError, match="swarm-size"):
        await world.connection.upload(m.PUBLISH, _chunks(b"x"), metadata=(("swarm-digest", promised),))
    with pytest.raises(InvalidInputError, match="digest"):
        await world.client.fetch_blob(Digest("../../etc/passwd"))


async def test_a_blob_that_was_damaged_in_the_registry_is_refused_by_name(world: World) -> None:
    data = os.urandom(1000)
    blob = digest_of(data)
    await world.client.publish_blob(blob, data)
    _flip(world.files.path(blob))
    with pytest.raises(VerificationError, match=blob[:12]):
        await world.client.fetch_blob(blob)


async def test_a_registry_that_lies_about_a_blob_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, _, _ = await world.publish()

    async def lie(blob: Digest, *_: object) -> AsyncIterator[bytes]:
        honest = bytes(world.files.open_verified(blob))
        yield bytes([honest[0] ^ 1]) + honest[1:]

    monkeypatch.setattr(world.port, "fetch", lie)
    blob = value.blobs()[0]
    with pytest.raises(VerificationError, match=f"blob from registry at 127.*{blob[:12]}"):
        await world.client.fetch_blob(blob)
    with pytest.raises(VerificationError, match=blob[:12]):
        await world.client.fetch_into(blob, world.cache, world.files.size(blob))
    with pytest.raises(VerificationError, match=r"ada\.e1@1: blob"):
        await world.verified().blobs(value)
    assert world.cache.stats() == (0, 0)


async def test_a_blob_that_the_registry_lost_is_named_with_its_version_and_what_to_do(world: World) -> None:
    value, _, _ = await world.publish()
    world.files.remove(value.blobs()[0])
    with pytest.raises(NotFoundError, match=rf"ada\.e1@1: blob {value.blobs()[0][:12]}.*registry rebuild"):
        await world.verified().blobs(value)


async def test_a_manifest_is_opened_with_a_record_from_the_coordinator(world: World) -> None:
    value, digest, _ = await world.publish()
    with pytest.raises(UnknownMemberError, match="member ada"):
        await world.verified().manifest(digest)
    async with _coordinator(world, Records(world.ada)) as coordinator:
        verified = world.verified(coordinator)
        assert (await verified.manifest(digest)).value == value
        assert (await verified.manifest(value.expert)).digest == digest
        await verified.blobs(value)
        assert world.cache.missing(value.blobs()) == []
        with pytest.raises(NotFoundError):
            await verified.manifest(digest_of(b"no such manifest"))


async def test_a_coordinators_forged_record_does_not_help_a_forged_manifest(
    world: World, tmp_path: Path
) -> None:
    forger = node(found_now(tmp_path / "elsewhere"), "ada")
    _, digest, _ = await world.publish()
    async with _coordinator(world, Records(forger)) as coordinator:
        with pytest.raises(VerificationError):
            await world.verified(coordinator).manifest(digest)


async def test_a_registry_that_answers_with_another_manifest_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, digest, _ = await world.publish()
    other = replace(value, metrics={"validation_accuracy": 0.5})
    envelope = sign_statement(other, world.ada.required_signer())

    async def lie(digest: str, expert: str, version: int) -> bytes:
        return envelope

    monkeypatch.setattr(world.port, "manifest", lie)
    verified = world.verified()
    verified.keyring.add_record(world.ada.record)
    with pytest.raises(VerificationError, match=f"manifest {digest[:12]}: found a statement with digest"):
        await verified.manifest(digest)
    with pytest.raises(VerificationError, match=r"manifest of bob\.e1@head"):
        await verified.manifest("bob.e1")


@pytest.mark.parametrize("position", [10, -10])
async def test_one_flipped_byte_in_a_manifest_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    _, digest, envelope = await world.publish()
    flipped = bytearray(envelope)
    flipped[position] ^= 1

    async def lie(digest: str, expert: str, version: int) -> bytes:
        return bytes(flipped)

    monkeypatch.setattr(world.port, "manifest", lie)
    verified = world.verified()
    verified.keyring.add_record(world.ada.record)
    with pytest.raises(VerificationError, match="manifest"):
        await verified.manifest(digest)


async def test_a_gates_arrays_are_used_only_as_they_were_signed(world: World) -> None:
    statement, data = gate_of()
    blob = statement.arrays[0].blob
    await world.client.publish_blob(blob, data)
    verified = world.verified()
    arrays = await verified.gate_arrays(statement)
    assert arrays["prototypes"].shape == (2, 4) and not arrays["prototypes"].flags.writeable
    _flip(world.cache.path(blob))
    healed = await verified.gate_arrays(statement)
    assert np.array_equal(healed["prototypes"], np.arange(8, dtype=np.float32).reshape(2, 4))
    _flip(world.cache.path(blob))
    _flip(world.files.path(blob))
    with pytest.raises(VerificationError, match=f"gate 1: .*{blob[:12]}"):
        await verified.gate_arrays(statement)


async def test_only_the_named_arrays_of_a_gate_are_fetched(world: World) -> None:
    entries, blobs = pack_arrays(
        {name: np.full((100, 200), value, np.float32) for value, name in enumerate(("weights", "root.0"))}
    )
    statement = replace(gate(), arrays=entries)
    for blob, data in blobs.items():
        await world.client.publish_blob(blob, data)
    verified = world.verified()
    assert list(await verified.gate_arrays(statement, ["root.0"])) == ["root.0"]
    assert set(world.cache.digests()) == {entries[1].blob}
    assert await verified.gate_arrays(statement, []) == {}
    with pytest.raises(
        NotFoundError, match=r"gate 1: found no array 'root\.1'; expected one of weights, root"
    ):
        await verified.gate_arrays(statement, ["root.1"])
    _flip(world.files.path(entries[0].blob))
    with pytest.raises(VerificationError, match="gate 1"):
        await verified.gate_arrays(statement, ["weights"])


async def test_an_array_that_shares_its_blob_may_be_the_only_one_that_is_wanted(world: World) -> None:
    entries, blobs = pack_arrays({name: np.arange(6, dtype=np.float32) for name in ("a", "b", "c")})
    assert len(blobs) == 1
    statement = replace(gate(), arrays=entries)
    for blob, data in blobs.items():
        await world.client.publish_blob(blob, data)
    for each in entries:
        (only,) = (await world.verified().gate_arrays(statement, [each.name])).values()
        assert only.tolist() == [0, 1, 2, 3, 4, 5]
        world.cache.remove(each.blob)


async def test_a_correction_is_fetched_and_checked_with_its_expert(world: World) -> None:
    value, blobs = weights_of(manifest())
    module, data = pack_module("head", {"weight": np.full((3, 2), 7, np.float32)})
    correction = Correction(
        modules=(module,), base=digest_of(b"gate"), class_temperature=0.2, metrics={}, cost=value.cost
    )
    refined = replace(value, correction=correction)
    for blob in (*blobs.values(), *data.values()):
        await world.client.publish_blob(digest_of(blob), blob)
    verified = world.verified()
    await verified.blobs(refined)
    assert set(world.cache.digests()) == set(refined.blobs()) > set(value.blobs())
    lying = replace(correction, modules=(replace(module, digest=digest_of(b"other")),))
    with pytest.raises(VerificationError, match=r"ada\.e1@1: module head"):
        await verified.blobs(replace(value, correction=lying))


async def test_every_act_repeated_with_its_key_changes_nothing(world: World) -> None:
    _, digest, envelope = await world.publish()
    before = await _dumped(world.store)
    again = await world.client.commit(envelope, world.lease.fence, key="publish-1")
    assert again.manifest == digest and await _dumped(world.store) == before
    restored = await world.client.announce([envelope], world.lease.fence, key="announce-1")
    after = await _dumped(world.store)
    assert await world.client.announce([envelope], world.lease.fence, key="announce-1") == restored
    assert await _dumped(world.store) == after
    health = await world.client.health()
    assert health.redis == "ok" and health.blobs > 0
    assert [head.manifest for head in await world.client.heads("ada")] == [digest]
    assert (await world.client.lineage(expert="ada.e1")).nodes[0].manifest == digest


async def test_a_failed_port_does_not_leave_a_half_sent_blob(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(blob: Digest, offset: int = 0, length: int = 0) -> AsyncIterator[bytes]:
        yield b"half"
        raise OSError("disk trouble")

    monkeypatch.setattr(world.port, "fetch", breaks)
    with pytest.raises(SwarmError, match="internal error"):
        await world.client.fetch_into(digest_of(b"half and half"), world.cache, 13)
    assert world.cache.stats() == (0, 0)


def gate_of() -> tuple[GateStatement, bytes]:
    arrays = {
        "prototypes": np.arange(8, dtype=np.float32).reshape(2, 4),
        "log_prior": np.zeros(2, np.float32),
    }
    entries, _, data = pack_single(arrays)
    return replace(gate(), arrays=entries), data


@asynccontextmanager
async def _coordinator(world: World, port: Membership) -> AsyncIterator[CoordinatorClient]:
    services = [membership_service(port)]
    async with (
        serving(world.swarm.coordinator, services) as (_, address),
        open_channel(world.ada, address, "coordinator", NodeId("coordinator")) as connection,
    ):
        yield CoordinatorClient(connection)


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _dumped(store: MemoryStore) -> list[tuple[bytes, bytes, int]]:
    return sorted([row async for row in store.dump()])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
