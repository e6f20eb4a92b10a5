"""Every forgery there is, by the call that it comes in: refused, and in the audit log with its reason."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from swarm.digests import digest_of
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.modules.deltas import delta_pieces
from swarm.modules.packing import pack_module
from swarm.rpc.methods import METHODS
from swarm.rpc.open_inference.methods import OPEN_INFERENCE_METHODS, SERVICE
from swarm.rpc.options import DELTA_PARENT_KEY, DIGEST_KEY, SIZE_KEY
from swarm.rpc.pb import gate_pb2, registry_pb2
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.statements import read_statement, sign_statement
from tests.support.coordinator import BackEnd, SmallNode, back_end, refusal
from tests.support.rpc import Membership, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
AT_COORDINATOR = ("Membership", "NodeStream", "Gate", "Growth", "Inference", "Federation", SERVICE)
SERVED = (*METHODS, *OPEN_INFERENCE_METHODS)


@dataclass
class Garden:
    """A swarm with an honest owner and `eve`, a member who forges; `gone` was revoked."""

    swarm: BackEnd
    ada: SmallNode
    eve: SmallNode
    gone: Identity
    asker: Identity
    operator: Identity
    channels: contextlib.AsyncExitStack

    async def call(self, who: Identity, service: str, method: str, *parts: bytes, metadata: Any = ()) -> str:
        """Return the name of the status with which a server answers."""
        called = next(each for each in SERVED if (each.service, each.name) == (service, method))
        role = "registry" if service == "Registry" else "coordinator"
        port = self.swarm.registry_port if role == "registry" else self.swarm.endpoints.port
        async with _channel(who, port, f"{role}.plants") as channel:
            kind = "_".join("stream" if s else "unary" for s in (called.streams_in, called.streams_out))
            given = iter(parts or (b"",)) if called.streams_in else (parts or (b"",))[0]
            made = getattr(channel, kind)(called.path)(given, metadata=metadata, timeout=20)
            try:
                if called.streams_out:
                    await made.read()
                    code = await made.code()
                    return str(code.name)
                await made
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
        return "OK"

    async def commit(self, envelope: bytes, who: SmallNode | None = None) -> str:
        node = who or self.eve
        request = registry_pb2.CommitRequest(envelope=envelope, fence=node.fence, idempotency_key=_key())
        return await self.call(node.identity, "Registry", "Commit", request.SerializeToString())

    async def announce(self, envelope: bytes) -> str:
        request = registry_pb2.AnnounceRequest(
            envelopes=[envelope], fence=self.eve.fence, idempotency_key=_key()
        )
        return await self.call(self.eve.identity, "Registry", "Announce", request.SerializeToString())

    async def bring_back(self, envelope: bytes) -> str:
        request = registry_pb2.BringBackRequest(envelopes=[envelope], fence=self.eve.fence)
        return await self.call(self.eve.identity, "Registry", "BringBack", request.SerializeToString())

    async def withdraw(self, envelope: bytes) -> str:
        request = registry_pb2.WithdrawRequest(
            tombstone=envelope, fence=self.eve.fence, idempotency_key=_key()
        )
        return await self.call(self.eve.identity, "Registry", "Withdraw", request.SerializeToString())

    async def contribute(self, envelope: bytes, arrays: bytes) -> str:
        header = gate_pb2.ContributeHeader(envelope=envelope, fence=self.eve.fence, idempotency_key=_key())
        parts = gate_pb2.ContributeChunk(header=header), gate_pb2.ContributeChunk(data=arrays)
        return await self.call(
            self.eve.identity, "Gate", "Contribute", *(part.SerializeToString() for part in parts)
        )

    async def publish(self, digest: str, data: bytes) -> str:
        metadata = ((DIGEST_KEY, digest), (SIZE_KEY, str(len(data))))
        return await self.call(self.eve.identity, "Registry", "Publish", data, metadata=metadata)

    async def publish_delta(self, digest: str, data: bytes, parent: bytes) -> str:
        metadata = (
            (DIGEST_KEY, digest),
            (SIZE_KEY, str(len(data))),
            (DELTA_PARENT_KEY, digest_of(parent)),
        )
        pieces = delta_pieces(data, parent, 4)
        return await self.call(self.eve.identity, "Registry", "PublishDelta", *pieces, metadata=metadata)

    async def manifest_of(self, node: SmallNode, **changes: Any) -> Manifest:
        value = read_statement(await node.registry.manifest(expert=node.expert), Manifest).value
        return replace(value, **({"version": value.version + 1, "parent_version": value.version} | changes))

    def signed(self, value: object, node: SmallNode | None = None) -> bytes:
        return sign_statement(value, (node or self.eve).identity.required_signer())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def garden(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Garden]:
    folder = tmp_path_factory.mktemp("forgeries")
    async with back_end(folder) as swarm, contextlib.AsyncExitStack() as stack:
        ada, eve = await swarm.node("ada", "ab"), await swarm.node("eve", "cd")
        for node in (ada, eve):
            for _ in range(2):
                await node.publish()
        gone = await swarm.join("gone")
        await (await swarm.operator()).revoke_node(NodeId("gone"), "stolen")
        ca = CertificateAuthority.load(swarm.home.ca)
        asker = create_service_identity(
            ca, folder / "asker", role="client", member=NodeId("asker"), now=datetime.now(UTC),
            coordinator_record=eve.identity.coordinator_record,
        )  # fmt: skip
        found = Garden(
            swarm=swarm, ada=ada, eve=eve, gone=gone, asker=asker, channels=stack,
            operator=Identity.load(swarm.home.operator / "identity"),
        )  # fmt: skip
        async with asyncio.timeout(20):  # until the registry has heard of the revocation
            while await found.call(gone, "Registry", "Heads") != "UNAUTHENTICATED":
                await asyncio.sleep(0.05)
        yield found


Forge = Callable[[Garden], Awaitable[str]]


def _tampered(envelope: bytes) -> bytes:
    """The same signature over other bytes: one bit of a date."""
    import base64

    plain = json.loads(envelope)
    payload = bytearray(base64.b64decode(plain["payload"]))
    place = payload.index(b'"created_at":') + len(b'"created_at":') + 2
    payload[place] ^= 1
    plain["payload"] = base64.b64encode(payload).decode()
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def _tombstone(target: str) -> Tombstone:
    return Tombstone(swarm=SwarmId("plants"), kind="expert", id=target, reason="", created_at=1.0)


async def _others_manifest(on: Garden) -> str:
    return await on.commit(await on.ada.registry.manifest(expert=on.ada.expert))


async def _others_manifest_announced(on: Garden) -> str:
    return await on.announce(await on.ada.registry.manifest(expert=on.ada.expert))


async def _others_name(on: Garden) -> str:
    return await on.commit(on.signed(await on.manifest_of(on.ada)))


async def _others_contribution(on: Garden) -> str:
    return await on.contribute(*await on.ada.contribution())


async def _others_tombstone(on: Garden) -> str:
    return await on.withdraw(on.signed(_tombstone(on.ada.expert), on.ada))


async def _tombstone_for_another(on: Garden) -> str:
    return await on.withdraw(on.signed(_tombstone(on.ada.expert)))


async def _signed_by_a_revoked_member(on: Garden) -> str:
    value = await on.manifest_of(on.eve, owner=NodeId("gone"), expert="gone.e0", leaf="gone.l0")
    return await on.commit(sign_statement(value, on.gone.required_signer()))


async def _rolled_back(on: Garden) -> str:
    return await on.commit(
        on.signed(await on.manifest_of(on.eve, version=1, parent_version=0, created_at=9.0))
    )


async def _second_child(on: Garden) -> str:
    return await on.commit(
        on.signed(await on.manifest_of(on.eve, version=2, parent_version=1, created_at=9.0))
    )


async def _of_an_old_fence(on: Garden) -> str:
    value = await on.manifest_of(on.eve)
    request = registry_pb2.CommitRequest(envelope=on.signed(value), fence=0, idempotency_key=_key())
    return await on.call(on.eve.identity, "Registry", "Commit", request.SerializeToString())


async def _other_bytes_published(on: Garden) -> str:
    return await on.publish(digest_of(b"promised"), b"replaced")


async def _other_bytes_as_a_delta(on: Garden) -> str:
    parent = bytes(64)
    await on.publish(digest_of(parent), parent)
    return await on.publish_delta(digest_of(b"promised"), b"replaced" * 8, parent)


async def _swapped_blob(on: Garden) -> str:
    """A manifest whose tensors point into a blob that is there, and is another."""
    module, blobs = pack_module("means", {"means": np.full((2, 6), 7.0, np.float32)})
    for blob, data in blobs.items():
        await on.publish(blob, data)
    value = await on.manifest_of(on.eve)
    kept = value.modules[0]
    swapped = replace(kept, tensors=(replace(kept.tensors[0], blob=module.tensors[0].blob),))
    return await on.commit(on.signed(replace(value, modules=(swapped,))))


async def _bytes_that_another_sent(on: Garden) -> str:
    """A manifest that fits in every way, over bytes that ada has sent and eve has not."""
    module, blobs = pack_module("means", {"means": np.full((2, 6), 11.0, np.float32)})
    for data in blobs.values():
        await on.ada.registry.publish_blob(digest_of(data), data)
    return await on.commit(on.signed(replace(await on.manifest_of(on.eve), modules=(module,))))


async def _bytes_that_another_sent_announced(on: Garden) -> str:
    module, blobs = pack_module("means", {"means": np.full((2, 6), 12.0, np.float32)})
    for data in blobs.values():
        await on.ada.registry.publish_blob(digest_of(data), data)
    return await on.announce(on.signed(replace(await on.manifest_of(on.eve), modules=(module,))))


async def _a_delta_to_bytes_that_another_sent(on: Garden) -> str:
    parent = b"ada's own" * 8
    await on.ada.registry.publish_blob(digest_of(parent), parent)
    return await on.publish_delta(digest_of(b"promised"), bytes(len(parent)), parent)


async def _bytes_that_another_sent_fetched(on: Garden) -> str:
    data = b"nothing names these"
    await on.ada.registry.publish_blob(digest_of(data), data)
    request = registry_pb2.BlobRequest(digest=digest_of(data))
    return await on.call(on.eve.identity, "Registry", "Fetch", request.SerializeToString())


async def _swapped_arrays(on: Garden) -> str:
    envelope, arrays = await on.eve.contribution()
    return await on.contribute(envelope, arrays[:-1] + bytes([arrays[-1] ^ 1]))


async def _other_bytes_committed(on: Garden) -> str:
    return await on.commit(_tampered(on.signed(await on.manifest_of(on.eve))))


async def _other_bytes_announced(on: Garden) -> str:
    return await on.announce(_tampered(on.signed(await on.manifest_of(on.eve))))


async def _others_manifest_brought_back(on: Garden) -> str:
    return await on.bring_back(await on.ada.registry.manifest(expert=on.ada.expert))


async def _another_version_two_brought_back(on: Garden) -> str:
    value = await on.manifest_of(on.eve, version=2, parent_version=1, created_at=9.0)
    return await on.bring_back(on.signed(value))


async def _other_bytes_brought_back(on: Garden) -> str:
    return await on.bring_back(_tampered(on.signed(await on.manifest_of(on.eve))))


async def _other_bytes_withdrawn(on: Garden) -> str:
    return await on.withdraw(_tampered(on.signed(_tombstone(on.eve.expert))))


async def _other_bytes_contributed(on: Garden) -> str:
    envelope, arrays = await on.eve.contribution()
    return await on.contribute(_tampered(envelope), arrays)


FORGERIES: list[tuple[str, Forge, str, str, str]] = [
    ("Commit", _others_manifest, "PERMISSION_DENIED", "not_authorised", "ada"),
    ("Announce", _others_manifest_announced, "OK", "not_authorised", "ada"),
    ("Commit", _others_name, "DATA_LOSS", "verification", "signature"),
    ("Contribute", _others_contribution, "PERMISSION_DENIED", "not_authorised", "ada"),
    ("Withdraw", _others_tombstone, "PERMISSION_DENIED", "not_authorised", "ada"),
    ("Withdraw", _tombstone_for_another, "DATA_LOSS", "verification", "sign"),
    ("Commit", _signed_by_a_revoked_member, "DATA_LOSS", "verification", "revoked"),
    ("Commit", _rolled_back, "ABORTED", "stale_parent", "parent 0"),
    ("Commit", _second_child, "ABORTED", "stale_parent", "parent 1"),
    ("Commit", _of_an_old_fence, "ABORTED", "stale_fence", "fence 0"),
    ("Publish", _other_bytes_published, "DATA_LOSS", "verification", "digest"),
    ("PublishDelta", _other_bytes_as_a_delta, "DATA_LOSS", "verification", "digest"),
    ("Commit", _swapped_blob, "DATA_LOSS", "verification", "digest"),
    ("Commit", _bytes_that_another_sent, "NOT_FOUND", "not_found", "1 of 1 blobs missing"),
    ("Announce", _bytes_that_another_sent_announced, "OK", "not_found", "1 of 1 blobs missing"),
    ("PublishDelta", _a_delta_to_bytes_that_another_sent, "NOT_FOUND", "not_found", "nothing under"),
    ("Fetch", _bytes_that_another_sent_fetched, "NOT_FOUND", "not_found", "nothing under"),
    ("Contribute", _swapped_arrays, "DATA_LOSS", "verification", "digest"),
    ("Commit", _other_bytes_committed, "DATA_LOSS", "verification", "does not verify"),
    ("Announce", _other_bytes_announced, "OK", "verification", "does not verify"),
    ("BringBack", _others_manifest_brought_back, "OK", "not_authorised", "ada"),
    ("BringBack", _another_version_two_brought_back, "OK", "conflict", "which has this version"),
    ("BringBack", _other_bytes_brought_back, "OK", "verification", "does not verify"),
    ("Withdraw", _other_bytes_withdrawn, "DATA_LOSS", "verification", "canonical"),
    ("Contribute", _other_bytes_contributed, "DATA_LOSS", "verification", "does not verify"),
]


@pytest.mark.parametrize(
    ("method", "forge", "status", "code", "words"), FORGERIES, ids=lambda v: getattr(v, "__name__", None)
)
async def test_every_forgery_of_a_member_is_refused_and_logged_by_name(
    garden: Garden, method: str, forge: Forge, status: str, code: str, words: str
) -> None:
    heads = await garden.ada.registry.heads()
    with capture_logs() as events:
        assert await forge(garden) == status
    (event,) = [each for each in events if each["event"] == "refused" and each["method"].endswith(method)]
    assert (event["caller"], event["code"]) == ("node/eve", code)
    assert words in event["reason"], event
    assert event["subject"] and len(event["reason"]) <= 300
    assert await garden.ada.registry.heads() == heads


async def test_a_role_that_may_not_call_is_refused_at_every_method_and_logged(garden: Garden) -> None:
    callers = (garden.eve.identity, garden.operator, garden.asker)
    tried = 0
    for method in SERVED:
        if method.service not in (*AT_COORDINATOR, "Registry"):
            continue
        for who in callers:
            if who.role in method.roles:
                continue
            with capture_logs() as events:
                found = await garden.call(who, method.service, method.name)
            assert found == "PERMISSION_DENIED", (method, who.role, found)
            (event,) = [each for each in events if each["event"] == "refused"]
            assert (event["method"], event["caller"]) == (method.path, f"{who.role}/{who.id}")
            assert event["code"] == "not_authorised" and method.name in event["reason"]
            tried += 1
    assert tried > 30


async def test_a_revoked_member_is_refused_at_every_method_and_logged(garden: Garden) -> None:
    tried = 0
    for method in SERVED:
        if method.service not in (*AT_COORDINATOR, "Registry"):
            continue
        with capture_logs() as events:
            assert await garden.call(garden.gone, method.service, method.name) == "UNAUTHENTICATED"
        told = [
            each for each in events if each["event"].startswith("refused") and each["caller"] == "node/gone"
        ]
        assert told and told[-1]["method"] == method.path and told[-1]["code"] == "unauthenticated"
        tried += 1
    assert tried > 35


async def test_an_expired_certificate_is_refused_and_logged(garden: Garden) -> None:
    """TLS refuses one at its start; this one expires while its connection is open."""
    from swarm.rpc.clients import CoordinatorClient
    from swarm.rpc.servicers import membership_service
    from tests.support.rpc import coordinator_client

    clock = [time.time()]
    coordinator = Identity.load(garden.swarm.home.coordinator / "identity")
    async with (
        serving(coordinator, [membership_service(Membership())], now=lambda: clock[0]) as (_, address),
        coordinator_client(garden.eve.identity, address) as client,
    ):
        assert isinstance(client, CoordinatorClient)
        await client.status()
        clock[0] += timedelta(days=2).total_seconds()
        with capture_logs() as events:
            error = await refusal(client.status())
    assert error.code == "unauthenticated"
    (event,) = [each for each in events if each["event"] == "refused"]
    assert event["caller"] == "node/eve" and "expired" in event["reason"]


async def test_a_certificate_of_another_ca_gets_no_connection(garden: Garden, tmp_path: Path) -> None:
    """What the services' logs say of it: test_node_in_swarm.py."""
    twin = CertificateAuthority.create(tmp_path / "ca", SwarmId("plants"), now=datetime.now(UTC))
    forged = create_service_identity(twin, tmp_path / "twin", role="coordinator", now=datetime.now(UTC))
    mixed = replace(forged, ca_pem=garden.swarm.ca_pem)
    for service, method in (("Membership", "Status"), ("Registry", "Heads")):
        assert await garden.call(mixed, service, method) == "UNAVAILABLE"


async def test_a_token_that_comes_again_is_refused_and_logged_without_its_secret(garden: Garden) -> None:
    token = await garden.swarm.new_token()
    await garden.swarm.join("first", token)
    body = garden.swarm.request("second", token.text)
    with capture_logs() as events:
        error = await refusal(asyncio.to_thread(garden.swarm.door(garden.swarm.ca_pem).join, body))
    assert error.code == "unauthenticated"
    (event,) = [each for each in events if each["event"] == "refused"]
    assert event["method"] == "/v1/join" and event["peer"] == "127.0.0.1"
    assert "used already" in event["reason"] and token.id in event["subject"]
    assert token.secret not in str(events)


def _channel(who: Identity, port: int, name: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(who.ca_pem, who.key_pem, who.certificate_pem)
    options = (("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


def _key() -> str:
    import uuid

    return uuid.uuid4().hex
