"""Who may name which blob, over real TLS sockets: no way in computes over others' bytes or sets them free."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.collection import RetentionPolicy
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    VerificationError,
)
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest, Parent
from swarm.domain.members import Tombstone
from swarm.domain.tensors import ModuleEntry, TensorEntry
from swarm.modules import BlobFiles, pack_module
from swarm.modules.deltas import delta_pieces
from swarm.registry.claims import Claims
from swarm.registry.commit_journal import CommitJournal
from swarm.registry.memory_store import MemoryStore
from swarm.registry.service import RegistryService
from swarm.rpc import methods as m
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.options import DELTA_PARENT_KEY, DIGEST_KEY, SIZE_KEY
from swarm.rpc.pb import registry_pb2
from swarm.rpc.servicers import registry_service
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.registry import expert, head_weights
from tests.support.rpc import found_now, node, service, serving
from tests.support.trust import Founded, gate, specification, tombstone

TWO_BYTES = TensorEntry(name="x", dtype="uint8", shape=(2,), blob=Digest("0" * 64), offset=0, size_bytes=2)


@dataclass
class Member:
    """A node with its connection to the registry and its lease."""

    identity: Identity
    client: RegistryClient
    fence: int

    def signed(self, value: Manifest | Tombstone) -> bytes:
        return sign_statement(value, self.identity.required_signer())

    async def send(self, blobs: dict[Digest, bytes]) -> list[Digest]:
        """Send what the registry says is missing, as nodes do; return it."""
        missing = await self.client.missing(list(blobs))
        for blob in missing:
            await self.client.publish_blob(blob, blobs[blob])
        return missing

    async def publish(self, made: Manifest, blobs: dict[Digest, bytes]) -> list[Digest]:
        sent = await self.send(blobs)
        await self.client.commit(self.signed(made), self.fence)
        return sent

    async def withdraw(self, target: str) -> None:
        request = registry_pb2.WithdrawRequest(
            tombstone=self.signed(tombstone(target)), fence=self.fence, idempotency_key=target
        )
        await self.client.connection.unary(m.WITHDRAW, request, 30)


@dataclass
class World:
    """A registry over TLS with the owners ada and bob; `serve` starts it anew, over whatever is left."""

    swarm: Founded
    folder: Path
    registry: Identity
    stack: AsyncExitStack
    files: BlobFiles
    store: MemoryStore = field(default_factory=MemoryStore)
    quota: int = 0
    address: str = ""
    port: RegistryService = field(init=False)
    members: dict[str, Member] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)

    @property
    def ada(self) -> Member:
        return self.members["ada"]

    @property
    def bob(self) -> Member:
        return self.members["bob"]

    async def serve(self) -> None:
        await self.stack.aclose()
        for name, identity in self.identities.items():
            await self.store.put_record(NodeId(name), identity.record)
        if await self.store.specification() is None:
            await self.store.put_specification(
                1, sign_statement(specification(), self.swarm.coordinator_signer)
            )
        self.port = RegistryService(
            store=self.store,
            blobs=self.files,
            keyring=self.registry.keyring(),
            certificate_days=lambda: 7.0,
            claims=Claims(self.folder / "claims.jsonl"),
            journal=CommitJournal(self.folder / "commits.jsonl"),
            retention=RetentionPolicy(keep_versions=1),
            node_quota_bytes=self.quota,
        )
        _, self.address = await self.stack.enter_async_context(
            serving(self.registry, [registry_service(self.port)])
        )
        for name, identity in self.identities.items():
            connection = await self.stack.enter_async_context(
                open_channel(identity, self.address, "registry", NodeId("registry"))
            )
            fence = (await self.store.grant_lease(NodeId(name), 60.0)).fence
            self.members[name] = Member(identity, RegistryClient(connection), fence)

    async def lose_the_store(self, *also: str) -> None:
        self.store = MemoryStore()
        for name in also:
            (self.folder / name).unlink(missing_ok=True)
        await self.serve()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    swarm = found_now(tmp_path / "swarm")
    async with AsyncExitStack() as stack:
        made = World(swarm, tmp_path, service(swarm, "registry"), stack, BlobFiles(tmp_path / "blobs"))
        made.identities = {name: node(swarm, name) for name in ("ada", "bob")}
        await made.serve()
        yield made


def kept(number: int = 1, seed: int = 0, version: int = 1) -> tuple[Manifest, dict[Digest, bytes]]:
    made, blobs = expert("ada", number, version, seed=seed)
    return replace(made, share="serve-only"), blobs


def large(blobs: dict[Digest, bytes]) -> Digest:
    return max(blobs, key=lambda blob: len(blobs[blob]))


def over(blob: Digest, offset: int, module: Digest) -> Manifest:
    """A manifest of bob's over two bytes of a blob, under a module digest."""
    tensor = replace(TWO_BYTES, blob=blob, offset=offset)
    entry = ModuleEntry(name="m", digest=module, tensors=(tensor,))
    return replace(expert("bob")[0], modules=(entry,))


async def offered(member: Member, way: str, made: Manifest) -> str:
    """Offer a manifest in one way; return the reason of its refusal, empty if it was accepted."""
    envelope = member.signed(made)
    try:
        if way == "commit":
            await member.client.commit(envelope, member.fence)
        elif way == "announce":
            _, refused = await member.client.announce([envelope], member.fence)
            return "".join(refused)
        else:
            found = await member.client.bring_back([envelope], member.fence)
            return "".join([*found.refused, *(f"missing {blob}" for blob in found.missing_blobs)])
    except NotFoundError as error:
        return str(error)
    return ""


WAYS = ("commit", "announce", "bring_back")


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_computed_over_bytes_that_a_member_may_not_have(world: World, way: str) -> None:
    made, blobs = kept()
    await world.ada.publish(made, blobs)
    hidden = large(blobs)
    right, _ = pack_module("m", {"x": np.frombuffer(blobs[hidden][:2], np.uint8)})
    reasons = {
        await offered(world.bob, way, over(hidden, offset, digest))
        for offset in (0, 2)
        for digest in (right.digest, digest_of(b"guessed"))
    }
    (reason,) = reasons  # whether a guess is right makes no difference
    assert hidden[:12] in reason and "digest" not in reason
    absent = digest_of(b"not here at all")
    assert reason.replace(hidden, absent).replace(hidden[:12], absent[:12]) == await offered(
        world.bob, way, over(absent, 0, right.digest)
    )
    assert await world.bob.client.heads("bob") == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_copied_manifest_is_refused_until_its_bytes_were_sent(world: World, way: str) -> None:
    made, blobs = kept()
    await world.ada.publish(made, blobs)
    copied = replace(expert("bob", 1)[0], share="public")
    assert await offered(world.bob, way, copied)
    with pytest.raises(NotAuthorisedError, match="serve-only"):
        await world.bob.client.fetch_blob(large(blobs))
    assert await world.bob.send(blobs) == list(blobs)  # equal bytes of its own
    assert not await offered(world.bob, way, copied)
    assert [head.expert for head in await world.bob.client.heads("bob")] == ["bob.e1"]


async def test_a_delta_to_bytes_that_a_member_may_not_have_is_one_to_a_blob_that_is_not_here(
    world: World,
) -> None:
    made, blobs = kept()
    await world.ada.publish(made, blobs)
    hidden = large(blobs)
    size = len(blobs[hidden])
    mine = bytes(size)

    async def unchanged() -> AsyncIterator[bytes]:
        for piece in delta_pieces(memoryview(mine), memoryview(mine), 4):
            yield piece

    for parent in (hidden, digest_of(b"not here at all")):
        for size_bytes in (size, size - 1):
            metadata = (
                (DIGEST_KEY, digest_of(mine)),
                (SIZE_KEY, str(size_bytes)),
                (DELTA_PARENT_KEY, parent),
            )
            with pytest.raises(NotFoundError) as refused:
                await world.bob.client.connection.upload(m.PUBLISH_DELTA, unchanged(), metadata=metadata)
            assert "nothing under this digest" in str(refused.value)


async def test_the_state_of_others_blobs_is_told_to_nobody(world: World) -> None:
    made, blobs = kept()
    await world.ada.send(blobs)
    asked = [*blobs, digest_of(b"x")]
    assert await world.bob.client.missing(asked) == asked
    assert await world.bob.client.missing(asked, claim=False) == asked
    assert await world.ada.client.missing(asked) == [digest_of(b"x")]
    for blob in (*blobs, digest_of(b"x")):
        with pytest.raises(NotFoundError):
            await world.bob.client.fetch_blob(blob)
    assert await world.ada.client.fetch_blob(large(blobs)) == blobs[large(blobs)]
    await world.ada.publish(made, blobs)
    assert await world.bob.client.missing(list(blobs)) == list(blobs)
    assert await world.ada.client.missing(list(blobs)) == []


async def test_what_a_member_only_says_to_send_is_not_its_own(world: World) -> None:
    made, blobs = kept()
    await world.ada.publish(made, blobs)
    hidden = large(blobs)

    with pytest.raises(VerificationError, match=hidden[:12]):
        await world.bob.client.publish_blob(hidden, bytes(len(blobs[hidden])))
    assert await offered(world.bob, "commit", expert("bob", 1)[0])
    assert await world.bob.client.missing([hidden]) == [hidden]


async def test_withdrawn_weights_are_set_free_by_nobody_who_has_not_sent_them(world: World) -> None:
    made, blobs = expert("ada", 2)
    await world.ada.publish(made, blobs)
    early, _ = expert("bob", 1)
    assert await world.bob.publish(early, blobs) == []  # borrowed: nothing has to travel
    await world.ada.withdraw("ada.e2")
    for change in ({}, {"share": "public"}):
        late = replace(expert("bob", 2)[0], **change)
        assert await offered(world.bob, "commit", late)
    await world.serve()
    for blob in blobs:
        with pytest.raises(NotAuthorisedError, match="withdrawn"):
            await world.bob.client.fetch_blob(blob)
    # Who has the bytes goes on: they are asked for with its next version, and are its own from then on.
    later = replace(expert("bob", 1, 2)[0], modules=early.modules)
    assert await world.bob.publish(later, blobs) == list(blobs)
    for blob in blobs:
        assert await world.ada.client.fetch_blob(blob) == blobs[blob]


async def test_a_fine_tuned_child_moves_its_own_bytes_alone(world: World) -> None:
    trunk = head_weights(seed=3)
    lent, blobs = pack_module("hidden", {"weight": trunk["weight"]})
    first, own = pack_module("head", {"bias": trunk["bias"]})
    made = replace(expert("ada")[0], modules=(lent, first))
    await world.ada.publish(made, {**blobs, **own})
    changed, more = pack_module("head", {"bias": trunk["bias"] + 1})
    child = replace(expert("bob")[0], modules=(lent, changed))
    assert await world.bob.publish(child, {**blobs, **more}) == list(more)
    for blob, data in {**blobs, **more}.items():
        assert await world.ada.client.fetch_blob(blob) == data


async def test_a_lost_store_sets_nothing_free(world: World) -> None:
    made, blobs = kept()
    await world.ada.publish(made, blobs)
    gone, others = expert("ada", 2, seed=1)
    await world.ada.publish(gone, others)
    await world.ada.withdraw("ada.e2")
    loose = b"sent, and named by nothing"
    await world.ada.client.publish_blob(digest_of(loose), loose)
    await world.lose_the_store()
    for blob in (*blobs, *others):
        with pytest.raises(NotAuthorisedError):
            await world.bob.client.fetch_blob(blob)
    with pytest.raises(NotFoundError):
        await world.bob.client.fetch_blob(digest_of(loose))
    # Who comes first decides nothing.
    mine = replace(expert("bob")[0], share="public")
    assert await offered(world.bob, "bring_back", mine)
    await world.port.reconciler.reconcile()
    await world.serve()
    for blob in blobs:
        with pytest.raises(NotAuthorisedError, match=r"ada\.e1"):
            await world.bob.client.fetch_blob(blob)


@pytest.mark.parametrize("lost", [(), ("claims.jsonl",), ("claims.jsonl", "commits.jsonl")])
async def test_an_owner_brings_its_versions_back_whatever_was_lost(
    world: World, lost: tuple[str, ...]
) -> None:
    versions = [kept(seed=version, version=version) for version in (1, 2)]
    blobs: dict[Digest, bytes] = {}
    for made, theirs in versions:
        await world.ada.publish(made, theirs)
        blobs |= theirs
    before = await world.ada.client.heads()
    await world.lose_the_store(*lost)
    # A rival is there first, with older versions that name the same blobs.
    rival = [
        world.bob.signed(replace(expert("bob", 1, number, seed=number)[0], share="public"))
        for number in (1, 2)
    ]
    assert (await world.bob.client.bring_back(rival, world.bob.fence)).missing_blobs
    envelopes = [world.ada.signed(made) for made, _ in versions]
    found = await world.ada.client.bring_back(envelopes, world.ada.fence)
    assert bool(found.missing_blobs) == ("commits.jsonl" in lost)
    for blob in found.missing_blobs:
        await world.ada.client.publish_blob(blob, blobs[blob])
    found = await world.ada.client.bring_back(envelopes, world.ada.fence)
    assert not found.missing_blobs and not found.refused
    assert [each for each in await world.ada.client.heads() if each.expert == "ada.e1"] == before
    for blob in blobs:
        with pytest.raises((NotAuthorisedError, NotFoundError)):
            await world.bob.client.fetch_blob(blob)
    assert await offered(world.bob, "commit", replace(expert("bob", 3, seed=1)[0], share="public"))


async def test_the_swarms_own_blobs_leave_whoever_names_them(world: World) -> None:
    arrays = b"arrays of a gate"
    blob = digest_of(arrays)
    async with open_channel(
        world.swarm.coordinator, world.address, "registry", NodeId("registry")
    ) as connection:
        await RegistryClient(connection).publish_blob(blob, arrays)
    assert await world.bob.client.fetch_blob(blob) == arrays  # of a candidate that nodes judge
    (world.folder / "claims.jsonl").unlink()
    await world.serve()
    with pytest.raises(NotFoundError):
        await world.bob.client.fetch_blob(blob)
    entry = TensorEntry(
        name="log_prior", dtype="int8", shape=(len(arrays),), blob=blob, offset=0, size_bytes=len(arrays)
    )
    forged, true = (replace(gate(version), arrays=(entry,)) for version in (1, 2))
    await world.store.put_gate(1, sign_statement(forged, world.bob.identity.required_signer()))
    with pytest.raises(NotFoundError):
        await world.bob.client.fetch_blob(blob)
    await world.store.put_gate(2, sign_statement(true, world.swarm.coordinator_signer))
    assert await world.bob.client.fetch_blob(blob) == arrays


FULL = sum(map(len, kept()[1].values()))


@pytest.mark.parametrize("way", ["claims", "parents", "blobs"])
async def test_what_others_keep_of_an_owners_versions_fills_their_quota(world: World, way: str) -> None:
    world.quota = 3 * FULL
    await world.serve()
    mine, more = expert("bob", seed=99)
    pinned = 0
    for version in range(1, 9):
        made, blobs = expert("ada", 1, version, seed=version)
        await world.ada.publish(made, blobs)
        digest = statement_digest(world.ada.signed(made))
        try:
            if way == "claims":
                assert await world.bob.client.missing(list(blobs)) == []
            elif way == "parents":
                edge = Parent(kind="borrowed-from", manifest=digest)
                child = expert("bob", version)[0]
                await world.bob.publish(replace(child, modules=mine.modules, parents=(edge,)), more)
            elif version == 1:
                assert await world.bob.publish(replace(expert("bob")[0], modules=made.modules), blobs) == []
            pinned += 1
        except ExhaustedError as refused:
            assert way != "blobs" and "bytes of bob" in str(refused)
        await world.port.collect()
        filled = {each.owner: each.size_bytes for each in (await world.port.health()).owners}
        assert filled["ada"] == FULL
    assert pinned == {"claims": 4, "parents": 3, "blobs": 8}[way]
    with pytest.raises(ExhaustedError, match="bytes of bob"):
        for seed in range(200, 204):
            await world.bob.send(expert("bob", seed=seed)[1])


async def test_lineage_of_serve_only_versions_pins_nothing_and_has_an_end(world: World) -> None:
    mine, more = expert("bob", seed=99)
    parents = []
    for version in (1, 2):
        made, blobs = kept(seed=version, version=version)
        await world.ada.publish(made, blobs)
        parents.append(Parent(kind="borrowed-from", manifest=statement_digest(world.ada.signed(made))))
    await world.bob.publish(replace(mine, parents=tuple(parents)), more)
    found = await world.port.collect()
    assert {each.blob for each in found.gone} == set(kept(seed=1)[1])
    many = replace(expert("bob", 2)[0], modules=mine.modules, parents=tuple(parents[:1] * 65))
    with pytest.raises(InvalidInputError, match="parents: found 65"):
        await world.bob.publish(many, more)
