"""Nobody gets in, serves, calls or signs as somebody else; whoever is thrown out is out, whatever goes on."""

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Role, Tombstone
from swarm.domain.membership import Hello
from swarm.registry.redis_store import connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.pb import gate_pb2, inference_pb2, types_pb2
from swarm.rpc.server import create_server
from swarm.trust.ca import CertificateAuthority
from swarm.trust.certificates import load_certificate, new_key_and_csr, peer_caller
from swarm.trust.identity import Identity, create_service_identity
from swarm.trust.proofs import join_proof
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement
from swarm.trust.tokens import secret_hash
from tests.support.coordinator import BackEnd, back_end, held_judging, refusal, result_or_refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path_factory.mktemp("swarm")) as running:
        yield running


def join(swarm: BackEnd, body: dict[str, Any]) -> Any:
    return asyncio.to_thread(swarm.door(swarm.ca_pem).join, body)


async def test_every_bad_token_is_named_and_none_of_them_costs_a_good_one(swarm: BackEnd) -> None:
    operator = await swarm.operator()
    good = await swarm.new_token()
    used, revoked = await swarm.new_token(), await swarm.new_token()
    await swarm.join("first", used)
    await operator.revoke_token(revoked.id)
    expired = replace(good, id="expired1", secret=secrets.token_urlsafe(32))
    store = connect_redis(swarm.redis_url, SwarmId("plants"))
    await store.add_token(
        expired.id,
        secret_hash(expired.secret),
        role="node",
        uses=1,
        expires_at=time.time() - 1,
        created_at=1.0,
    )
    await store.close()
    for token, words in (
        (replace(good, secret="x" * 43), "wrong secret"),
        (replace(good, id="nobody00"), "never gave out"),
        (replace(good, pin="0" * 64), "another swarm"),
        (expired, "expired"),
        (revoked, "revoked"),
        (used, "used already"),
    ):
        error = await refusal(join(swarm, swarm.request("second", token.text)))
        assert isinstance(error, UnauthenticatedError) and words in error.found
        assert token.secret not in str(error)
    wrong_role = await refusal(join(swarm, swarm.request("second", good.text, "operator")))
    assert isinstance(wrong_role, NotAuthorisedError) and "a token for node" in wrong_role.found
    await swarm.join("second", good)


async def test_a_name_is_its_first_bearers_for_ever_also_once_it_was_revoked(swarm: BackEnd) -> None:
    signer = Signer.generate()
    await join(swarm, swarm.request("keeper", (await swarm.new_token()).text, signer=signer))
    stranger = await refusal(join(swarm, swarm.request("keeper", (await swarm.new_token()).text)))
    assert isinstance(stranger, ConflictError)
    await (await swarm.operator()).revoke_node(NodeId("keeper"), "lost")
    back = await refusal(join(swarm, swarm.request("keeper", (await swarm.new_token()).text, signer=signer)))
    assert isinstance(back, UnauthenticatedError) and "revoked" in back.found


async def test_what_a_signing_request_asks_for_does_not_matter(swarm: BackEnd) -> None:
    """The names in a certificate are the CA's choice."""
    body = swarm.request("modest", (await swarm.new_token()).text)
    signer = Signer.generate()
    _, csr = new_key_and_csr(SwarmId("plants"), "coordinator", NodeId("coordinator"))
    body |= {"csr_pem": csr.decode(), "signing_key": signer.public_hex, "proof": join_proof(signer, csr)}
    answer = await join(swarm, body)
    caller = peer_caller(answer["certificate_pem"])
    assert (caller.role, caller.id) == ("node", "modest")
    assert "coordinator" not in str(load_certificate(answer["certificate_pem"].encode()).extensions[5].value)


async def test_odd_bodies_are_refused_as_input_and_the_port_goes_on(swarm: BackEnd) -> None:
    good = swarm.request("odd", (await swarm.new_token()).text)
    for change in (
        {"csr_pem": "\ud800"}, {"proof": "zz"}, {"proof": "\u0660" * 128}, {"signing_key": "\u0661" * 64},
        {"node": "odd\n"}, {"role": "root"}, {"csr_pem": good["csr_pem"].replace("M", "N", 3)}, {"token": ""},
    ):  # fmt: skip
        error = await refusal(join(swarm, good | change))
        assert error.code in ("invalid_input", "unauthenticated", "usage"), (change, error)
    await join(swarm, good)


async def test_no_certificate_serves_as_anyone_else(swarm: BackEnd) -> None:
    node = await swarm.join("server")
    served = {
        "node server": node,
        "registry": Identity.load(swarm.home.registry / "identity"),
        "coordinator": Identity.load(swarm.home.coordinator / "identity"),
        "operator": Identity.load(swarm.home.operator / "identity"),
    }
    asker = await swarm.join("asker")
    wanted: list[tuple[Role, str]] = [
        ("coordinator", "coordinator"), ("registry", "registry"), ("node", "asker"), ("node", "server"),
    ]  # fmt: skip
    for name, identity in served.items():
        server = create_server(identity.folder, lambda _: False, [])
        port = server.add_port("127.0.0.1:0")
        await server.start()
        for role, member in wanted:
            async with open_channel(asker, f"127.0.0.1:{port}", role, NodeId(member)) as connection:
                error = await refusal(CoordinatorClient(connection).status(timeout_s=5))
            if (identity.role, identity.id) == (role, member):
                assert isinstance(error, NotFoundError)  # reached: it has no such service
            else:
                assert isinstance(error, VerificationError | UnreachableError), (name, role, error)
        await server.stop(0)


async def test_an_expired_certificate_and_one_of_a_ca_of_the_same_name_open_nothing(
    swarm: BackEnd, tmp_path: Path
) -> None:
    ca = CertificateAuthority.load(swarm.home.ca)
    record = Identity.load(swarm.home.coordinator / "identity").record
    past = datetime.now(UTC) - timedelta(days=2)
    expired = create_service_identity(
        ca, tmp_path / "old", role="operator", member=NodeId("old"), coordinator_record=record,
        lifetime=timedelta(hours=1), now=past,
    )  # fmt: skip
    twin = CertificateAuthority.create(tmp_path / "ca", SwarmId("plants"), now=datetime.now(UTC))
    forged = create_service_identity(twin, tmp_path / "twin", role="coordinator", now=datetime.now(UTC))
    for role, port in (("coordinator", swarm.endpoints.port), ("registry", swarm.registry_port)):
        async with open_channel(expired, f"127.0.0.1:{port}", role, NodeId(role)) as connection:  # type: ignore[arg-type]
            error = await refusal(CoordinatorClient(connection).status(timeout_s=5))
            assert isinstance(error, UnauthenticatedError) and "expired" in error.found
        options = (("grpc.ssl_target_name_override", f"{role}.plants"),)
        credentials = grpc.ssl_channel_credentials(swarm.ca_pem, forged.key_pem, forged.certificate_pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/swarm.v1.Membership/Status")(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_services_cannot_be_revoked_and_nodes_cannot_revoke(swarm: BackEnd) -> None:
    operator, ada = await swarm.operator(), await swarm.node("judge", "a")
    before = await operator.revocations()
    for service in ("coordinator", "registry"):
        error = await refusal(operator.revoke_node(NodeId(service), "no"))
        assert isinstance(error, NotAuthorisedError | NotFoundError) and service in error.subject
    assert isinstance(await refusal(operator.revoke_node(NodeId("nobody"), "no")), NotFoundError)
    assert isinstance(await refusal(operator.revoke_node(NodeId("judge"), "line\nbreak")), InvalidInputError)
    for work in (
        ada.coordinator.revoke_node(NodeId("asker"), "envy"), ada.coordinator.create_token("operator"),
        ada.coordinator.rollback(1), ada.coordinator.fit(), ada.coordinator.tokens(),
        ada.coordinator.revoke_token("x"),
    ):  # fmt: skip
        assert isinstance(await refusal(work), NotAuthorisedError)
    assert await operator.revocations() == before
    await ada.disconnect()


async def test_a_revoked_node_is_out_at_once_even_while_it_holds_up_the_gate(swarm: BackEnd) -> None:
    """A thief that does not answer a trial must not put off its own revocation."""
    ada, eve = await swarm.node("ada", "ab"), await swarm.node("eve", "cd")
    await ada.train()
    await eve.train()
    manifest = await ada.registry.manifest(expert=eve.expert)
    asked, _ = held_judging(eve)
    judge, judged = ada.try_gate, asyncio.Event()

    async def noted(*arguments: Any) -> Any:
        trial = await judge(*arguments)
        judged.set()
        return trial

    ada.try_gate = noted  # type: ignore[method-assign]
    held = asyncio.create_task(ada.contribute())
    await asyncio.gather(asked.wait(), judged.wait())
    assert not held.done()
    began = time.monotonic()
    revoking = asyncio.create_task((await swarm.operator()).revoke_node(NodeId("eve"), "stolen"))
    async with asyncio.timeout(5):
        while eve.stream.connected or not ada.keyring.is_revoked(NodeId("eve")):
            await asyncio.sleep(0.02)
    assert time.monotonic() - began < 4
    for work in (
        eve.coordinator.status(), eve.coordinator.gate(), eve.ask("a"), eve.coordinator.leave(""),
        eve.coordinator.renew_certificate(eve.identity.renewal_csr()),
    ):  # fmt: skip
        assert isinstance(await refusal(work), UnauthenticatedError)
    async with asyncio.timeout(5):
        while not isinstance(await result_or_refusal(eve.registry.heads()), UnauthenticatedError):
            await asyncio.sleep(0.05)
    for work in (eve.registry.manifest(expert=ada.expert), eve.registry.publish_blob(*_blob(b"more"))):
        assert isinstance(await refusal(work), UnauthenticatedError)
    await asyncio.gather(held, revoking)
    gate = read_statement(await ada.coordinator.gate(), GateStatement).value
    assert {leaf.owner for leaf in gate.leaves} == {"ada"}
    error = await refusal(ada.verified.open(manifest, Manifest))
    assert isinstance(error, VerificationError) and "revoked" in error.found
    assert (await refusal(ada.verified.manifest(eve.expert))).code in ("verification", "not_found")
    await eve.disconnect()


async def test_nobody_commits_contributes_or_withdraws_for_another(swarm: BackEnd) -> None:
    fay, gus = await swarm.node("fay", "ab"), await swarm.node("gus", "cd")
    await fay.publish()
    theirs = await fay.registry.manifest(expert=fay.expert)
    envelope, arrays = await fay.contribution()
    for work in (
        gus.registry.commit(theirs, gus.fence), gus.coordinator.contribute(envelope, arrays, gus.fence),
    ):  # fmt: skip
        assert isinstance(await refusal(work), NotAuthorisedError)
    restored, refused = await gus.registry.announce([theirs], gus.fence)
    assert restored == [] and "fay" in refused[0]
    value = Tombstone(swarm=SwarmId("plants"), kind="expert", id=fay.expert, reason="", created_at=1.0)
    forged = sign_statement(value, gus.identity.required_signer())
    error = await refusal(gus.registry.withdraw(forged, gus.fence))
    assert isinstance(error, VerificationError | NotAuthorisedError)
    assert [h.expert for h in await fay.registry.heads("fay")] == [fay.expert]
    for node in (fay, gus):
        await node.disconnect()


async def test_an_expert_that_the_registry_never_accepted_enters_no_gate(swarm: BackEnd) -> None:
    """Its owner may say in its greeting that it has one; nobody could check the weights, or judge it."""
    hal = await swarm.node("hal", "ab")
    await hal.publish()
    signed = await hal.registry.manifest(expert=hal.expert)
    value = read_statement(signed, Manifest).value
    ghost = replace(value, version=2, parent_version=1)
    other = replace(value, expert="hal.e7", leaf="hal.l7")
    await hal.disconnect()
    offered = tuple(hal._signed(each) for each in (ghost, other))
    plain = hal._hello

    async def hello() -> Hello:
        return replace(await plain(), manifests=offered)

    hal._hello = hello  # type: ignore[method-assign]
    await swarm.connect(hal)
    envelope, _ = await hal.contribution()
    claim = read_statement(envelope, Contribution).value
    leaf = replace(claim.leaves[0], leaf="hal.l7", expert="hal.e7")
    error = await refusal(hal.contribute(leaves=(leaf,)))
    assert isinstance(error, NotFoundError) and "hal.e7" in error.subject
    assert (await hal.contribute()).state == "activated"
    found = await hal.ask("a", owners=(NodeId("hal"),))
    assert {source.version for source in found.sources[0]} == {1}
    await hal.disconnect()


async def test_garbage_on_every_port_stops_nothing(swarm: BackEnd) -> None:
    ports = (swarm.endpoints.join_port, swarm.endpoints.port, swarm.registry_port)
    rng = np.random.default_rng(0)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def attack(port: int) -> None:
        for payload in (
            rng.bytes(5000),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + rng.bytes(300),
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                plain.sendall(payload)
        try:
            plain = socket.create_connection(("127.0.0.1", port), 5)
            with plain, context.wrap_socket(plain) as sealed:
                sealed.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.bytes(5000))
                sealed.settimeout(2)
                sealed.recv(100)
        except OSError:
            pass

    await asyncio.gather(*(asyncio.to_thread(attack, port) for port in ports))
    assert (await (await swarm.operator()).status()).swarm == "plants"
    await swarm.join("after-the-storm")


async def test_lying_tensors_malformed_and_enormous_messages_are_refused_and_the_servers_go_on(
    swarm: BackEnd,
) -> None:
    node = await swarm.node("liar", "ab")
    own = node.identity
    credentials = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.certificate_pem)

    def channel(role: str, port: int) -> grpc.aio.Channel:
        options = (("grpc.ssl_target_name_override", f"{role}.plants"), ("grpc.max_send_message_length", -1))
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)

    def query(dtype: str, shape: list[int], data: bytes) -> bytes:
        tensor = types_pb2.Tensor(dtype=dtype, shape=shape, data=data)
        return inference_pb2.PredictRequest(inputs=tensor).SerializeToString()

    big = np.zeros((5000, 6), np.float32)
    header = gate_pb2.ContributeChunk(
        header=gate_pb2.ContributeHeader(envelope=b"{}", fence=1, idempotency_key="k")
    ).SerializeToString()
    nan = np.full(6, np.nan, "<f4").tobytes()
    lies = [
        query("float32", [1 << 40, 6], b"1234"), query("float32", [-1, 6], b""),
        query("float32", [0, 6], b""), query("float32", [0, 1 << 62], b""),
        query("object", [1, 6], bytes(48)), query("float32", [1, 7], bytes(28)),
        query("float32", [1, 6], nan), query("float32", [5000, 6], big.tobytes()),
        query("float64", [1, 6], bytes(48)), b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f",
        bytes(65 << 20) + b"x", bytes(70 << 20),
    ]  # fmt: skip
    refused = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    async with channel("coordinator", swarm.endpoints.port) as open_one:
        for lie in lies:
            code = await _code(open_one.unary_unary("/swarm.v1.Inference/Predict")(lie, timeout=20))
            assert code in refused, (code, lie[:40])
        for parts in ([], [b"\xff\xff"], [header, header], [header]):
            call = open_one.stream_unary("/swarm.v1.Gate/Contribute")(iter(parts), timeout=20)
            assert await _code(call) in {"INVALID_ARGUMENT", "DATA_LOSS"}
        assert (
            await _code(open_one.unary_unary("/swarm.v1.Membership/Nothing")(b"", timeout=5))
            == "UNIMPLEMENTED"
        )
        assert (
            await _code(open_one.unary_unary("/swarm.v1.Registry/Heads")(b"", timeout=5)) == "UNIMPLEMENTED"
        )
    async with channel("registry", swarm.registry_port) as open_one:
        publish = open_one.stream_unary("/swarm.v1.Registry/Publish")
        digest = "0" * 64
        for metadata, parts in (
            ((), [b"x"]), ((("swarm-digest", "../../etc"), ("swarm-size", "1")), [b"x"]),
            ((("swarm-digest", digest), ("swarm-size", "9" * 30)), [b"x"]),
            ((("swarm-digest", digest), ("swarm-size", "1")), [b"xx"]),
            ((("swarm-digest", digest), ("swarm-size", "5")), [b"x"]),
            ((), []),
        ):  # fmt: skip
            code = await _code(publish(iter(parts), metadata=metadata, timeout=10))
            assert code in {"INVALID_ARGUMENT", "DATA_LOSS", "RESOURCE_EXHAUSTED"}, (code, metadata)
    for after in ("99999999999999999999-0", "x", "1-2-3", "\u0663-0", "-1", "1-"):
        with pytest.raises(InvalidInputError):
            _ = [event async for event in node.coordinator.events(after)]
    assert (await node.coordinator.status()).swarm == "plants"
    assert (await node.registry.health()).redis == "ok"
    await node.disconnect()


async def _code(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def _blob(data: bytes) -> tuple[Any, bytes]:
    return digest_of(data), data
