"""Who may call whom: real sockets, real certificates, mutual TLS."""

import asyncio
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from swarm.domain.errors import (
    DeadlineError,
    InvalidInputError,
    NotAuthorisedError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    UsageError,
    VerificationError,
    error_classes,
)
from swarm.domain.ids import NodeId
from swarm.domain.inference import Query
from swarm.rpc import methods as m
from swarm.rpc import status
from swarm.rpc.channel import open_channel, open_local
from swarm.rpc.clients import CoordinatorClient
from swarm.rpc.convert import expert_request_to_pb
from swarm.rpc.credentials import channel_credentials
from swarm.rpc.pb import expert_pb2, inference_pb2, membership_pb2, types_pb2
from swarm.rpc.server import Service, create_local_server
from swarm.rpc.servicers import expert_service, inference_service, membership_service
from swarm.trust.identity import LIFETIMES, Identity, replace_certificate, target_name
from tests.support.rpc import (
    Experts,
    Inference,
    Membership,
    asking,
    connected,
    coordinator_client,
    expert_request,
    found_now,
    node,
    service,
    serving,
)
from tests.support.trust import Founded


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found_now(tmp_path_factory.mktemp("swarm"))


@pytest.fixture(scope="module")
def ada(swarm: Founded) -> Identity:
    return node(swarm, "ada")


@pytest.fixture(scope="module")
def operator(swarm: Founded) -> Identity:
    return service(swarm, "operator")


@pytest.fixture(scope="module")
def registry(swarm: Founded) -> Identity:
    return service(swarm, "registry")


async def test_a_node_asks_and_gets_domain_types_back(swarm: Founded, ada: Identity) -> None:
    services = [membership_service(Membership()), inference_service(Inference())]
    async with (
        serving(swarm.coordinator, services) as (_, address),
        coordinator_client(ada, address) as client,
    ):
        seen = await client.status()
        answer = await client.predict(Query(inputs=np.zeros((2, 4), np.float32)))
    assert seen.class_names == ("beech", "élm") and seen.socket_bytes.received == 7
    assert answer.probabilities.shape == (2, 2) and answer.degraded == (False, False)


async def test_every_role_may_call_exactly_what_the_table_says(
    swarm: Founded, ada: Identity, operator: Identity, registry: Identity
) -> None:
    """Every path has a handler here, so that admission alone decides."""
    client = swarm.member("carl", role="client", now=datetime.now(UTC))
    members = [ada, operator, registry, client, swarm.coordinator]
    reached: list[str] = []

    def reachable(method: m.AnyMethod) -> object:
        async def unary(request: object, context: object) -> object:
            reached.append(method.path)
            return b"" if method.reply is bytes else method.reply()

        return unary

    names = {method.full_service for method in m.METHODS}
    plain = [m.Method(each.service, each.name, each.request, each.reply, each.roles) for each in m.METHODS]
    services = [
        Service(name, {each: reachable(each) for each in plain if each.full_service == name})  # type: ignore[misc]
        for name in names
    ]
    async with serving(swarm.coordinator, services) as (_, address):
        for member in members:
            async with connected(member, address, "coordinator", "coordinator") as connection:
                for method in plain:
                    request = b"" if method.request is bytes else method.request()
                    reached.clear()
                    if member.role in method.roles:
                        await connection.unary(method, request)
                        assert reached == [method.path]
                        continue
                    with pytest.raises(NotAuthorisedError) as refused:
                        await connection.unary(method, request)
                    assert (
                        not reached and member.id in str(refused.value) and method.name in str(refused.value)
                    )


async def test_a_nodes_certificate_cannot_serve_as_anyone_else(swarm: Founded, ada: Identity) -> None:
    eve = node(swarm, "eve")
    services = [membership_service(Membership()), expert_service(Experts())]
    async with serving(eve, services) as (_, address):
        for role, member in (("coordinator", "coordinator"), ("registry", "registry"), ("node", "bob")):
            async with connected(ada, address, role, member) as connection:  # type: ignore[arg-type]
                with pytest.raises(VerificationError, match="another certificate than its own") as refused:
                    await connection.unary(m.STATUS, membership_pb2.StatusRequest())
                assert member in str(refused.value) and address in str(refused.value)
        async with connected(ada, address, "node", "eve") as connection:
            assert await connection.unary(m.EXPERT_PREDICT, _expert_message())


async def test_an_operators_certificate_cannot_serve_at_all(
    swarm: Founded, ada: Identity, operator: Identity
) -> None:
    async with (
        serving(operator, [membership_service(Membership())]) as (_, address),
        connected(ada, address, "operator", "operator") as connection,
    ):
        with pytest.raises(VerificationError):
            await connection.unary(m.STATUS, membership_pb2.StatusRequest())


async def test_another_swarms_members_are_strangers(swarm: Founded, ada: Identity, tmp_path: Path) -> None:
    other = found_now(tmp_path)
    stranger = node(other, "ada")
    async with serving(swarm.coordinator, [membership_service(Membership())]) as (_, address):
        async with coordinator_client(stranger, address) as client:
            with pytest.raises(VerificationError, match="coordinator at 127"):
                await client.status()
        credentials = grpc.ssl_channel_credentials(
            swarm.ca.certificate_pem, stranger.key_pem, stranger.certificate_pem
        )
        name = target_name(swarm.ca.swarm, "coordinator", NodeId("coordinator"))
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            call = channel.unary_unary(m.STATUS.path, None, None)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_without_a_certificate_gets_no_connection(swarm: Founded) -> None:
    async with serving(swarm.coordinator, [membership_service(Membership())]) as (_, address):
        credentials = grpc.ssl_channel_credentials(swarm.ca.certificate_pem)
        name = target_name(swarm.ca.swarm, "coordinator", NodeId("coordinator"))
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(m.STATUS.path, None, None)(b"", timeout=5)


async def test_a_revoked_caller_is_refused_by_name_on_an_open_connection(
    swarm: Founded, ada: Identity
) -> None:
    revoked: set[NodeId] = set()
    async with asking(
        swarm.coordinator, ada, membership_service(Membership()), revoked=revoked.__contains__
    ) as client:
        await client.status()
        revoked.add(NodeId("ada"))
        with pytest.raises(UnauthenticatedError, match="node ada: found a certificate that was revoked"):
            await client.status()


async def test_a_stream_ends_soon_after_its_caller_is_revoked(swarm: Founded, ada: Identity) -> None:
    revoked: set[NodeId] = set()
    async with asking(
        swarm.coordinator, ada, membership_service(Membership()), revoked=revoked.__contains__
    ) as client:
        events = client.events(follow=True)
        assert (await anext(events)).kind == "node.joined"
        revoked.add(NodeId("ada"))
        started = time.monotonic()
        with pytest.raises(UnauthenticatedError, match="revoked"):
            await anext(events)
        assert time.monotonic() - started < 1.5


async def test_a_certificate_that_expires_is_refused_on_an_open_connection(
    swarm: Founded, ada: Identity
) -> None:
    clock = [time.time()]
    async with asking(
        swarm.coordinator, ada, membership_service(Membership()), now=lambda: clock[0]
    ) as client:
        events = client.events(follow=True)
        await anext(events)
        clock[0] += timedelta(hours=25).total_seconds()
        with pytest.raises(UnauthenticatedError, match="node ada: found a certificate that has expired"):
            await client.status()
        with pytest.raises(UnauthenticatedError, match="expired"):
            await anext(events)


async def test_a_member_whose_own_certificate_expired_is_told_so(swarm: Founded) -> None:
    slept = swarm.member("ursa", now=datetime.now(UTC) - timedelta(days=7))
    async with asking(swarm.coordinator, slept, membership_service(Membership())) as client:
        with pytest.raises(
            UnauthenticatedError, match="certificate of node ursa: found one that has expired"
        ):
            await client.status()


async def test_renewed_certificates_are_taken_up_on_both_sides_without_a_restart(
    swarm: Founded, tmp_path: Path
) -> None:
    own = found_now(tmp_path)
    ida = node(own, "ida")
    async with (
        serving(own.coordinator, [membership_service(Membership())]) as (_, address),
        coordinator_client(ida, address) as client,
    ):
        first = await _served_certificate(own, ida, address)
        await client.status()
        events = client.events(follow=True)
        await anext(events)
        _renew(own, own.coordinator)
        _renew(own, ida)
        assert client.connection.is_renewed()
        await client.status()
        assert not client.connection.is_renewed()
        assert await _served_certificate(own, ida, address) != first
        await events.aclose()  # type: ignore[attr-defined]


async def test_every_class_of_error_crosses_the_wire_whole(swarm: Founded, ada: Identity) -> None:
    port = Membership()
    async with asking(swarm.coordinator, ada, membership_service(port)) as client:
        for code, cls in error_classes().items():
            port.refusal = status.error_from_parts(code, "plants@4", "parent 2 — ü", "parent 3", "pull")
            with pytest.raises(SwarmError) as raised:
                await client.status()
            assert type(raised.value) is cls and str(raised.value) == str(port.refusal)


async def test_an_errors_text_of_any_length_still_arrives(swarm: Founded, ada: Identity) -> None:
    port = Membership()
    port.refusal = InvalidInputError("x" * 5000, found="ü" * 20000, expected="y\n" * 9000, remedy="z" * 9000)
    async with asking(swarm.coordinator, ada, membership_service(port)) as client:
        with pytest.raises(InvalidInputError) as raised:
            await client.status()
    assert raised.value.subject.startswith("xxx")


@pytest.mark.parametrize("defect", [KeyError, asyncio.CancelledError])
async def test_a_defect_leaves_as_internal_without_its_details(
    swarm: Founded, ada: Identity, monkeypatch: pytest.MonkeyPatch, defect: type[BaseException]
) -> None:
    port = Membership()

    async def broken() -> None:
        raise defect("secret-detail")

    monkeypatch.setattr(port, "status", broken)
    async with asking(swarm.coordinator, ada, membership_service(port)) as client:
        with pytest.raises(SwarmError, match="internal error") as raised:
            await client.status()
        assert "secret-detail" not in str(raised.value)
        assert (await client.specification()) == b"specification"


async def test_nobody_there_is_told_with_address_and_remedy(ada: Identity) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with coordinator_client(ada, address) as client:
        with pytest.raises(UnreachableError, match="swarm doctor") as raised:
            await client.status(timeout_s=5)
        assert address in str(raised.value)


async def test_an_unknown_host_is_named(ada: Identity) -> None:
    async with coordinator_client(ada, "no-such-host.invalid:7071") as client:
        with pytest.raises(UnreachableError, match=r"no-such-host\.invalid"):
            await client.status(timeout_s=10)


async def test_a_server_that_takes_too_long_is_a_deadline_error_with_its_address(
    swarm: Founded, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = Membership()

    async def slow() -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(port, "status", slow)
    async with asking(swarm.coordinator, ada, membership_service(port)) as client:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.3 s; run `swarm doctor`"):
            await client.status(timeout_s=0.3)


async def test_a_port_in_use_is_a_usage_error(swarm: Founded, registry: Identity) -> None:
    async with serving(swarm.coordinator, []) as (_, address):
        with pytest.raises(UsageError, match=f"listener {address}: found a port in use"):
            async with serving(registry, [], address=address):
                pass


async def test_mutating_calls_without_an_idempotency_key_are_refused(
    swarm: Founded, ada: Identity, operator: Identity
) -> None:
    port = Membership()
    async with serving(swarm.coordinator, [membership_service(port)]) as (_, address):
        async with coordinator_client(operator, address) as client:
            request = membership_pb2.RevokeNodeRequest(node="ada")
            with pytest.raises(InvalidInputError, match="idempotency_key"):
                await client.connection.unary(m.REVOKE_NODE, request)
            assert not port.acts
            assert await client.revoke_node(NodeId("ada"), "lost", key="k1") == (4, ("ada.e0",))
        async with coordinator_client(ada, address) as client:
            await client.leave("done", key="k2")
    assert port.acts == [("leave", "ada", "lost", "k1"), ("leave", "ada", "done", "k2")]


async def test_bad_tensors_are_refused_by_name_and_the_server_goes_on(swarm: Founded, ada: Identity) -> None:
    def query(dtype: str, shape: list[int], data: bytes) -> inference_pb2.PredictRequest:
        return inference_pb2.PredictRequest(inputs=types_pb2.Tensor(dtype=dtype, shape=shape, data=data))

    bad = [
        query("float32", [1, 2], np.array([1, np.nan], "<f4").tobytes()),
        query("float32", [1, 3], bytes(8)),
        query("object", [1, 1], bytes(8)),
        query("float32", [-1, -2], bytes(8)),
        query("float32", [0, 4], b""),
        query("float32", [4], bytes(16)),
        query("uint8", [5000, 1], bytes(5000)),
    ]
    async with asking(swarm.coordinator, ada, inference_service(Inference())) as client:
        for request in bad:
            with pytest.raises(InvalidInputError, match=r"^inputs: found"):
                await client.connection.unary(m.PREDICT, request)
        assert await client.connection.unary(m.PREDICT, query("uint8", [1, 4], bytes(4)))


async def test_health_and_reflection_answer_members_on_every_server(swarm: Founded, ada: Identity) -> None:
    async with (
        serving(swarm.coordinator, [inference_service(Inference())]) as (_, address),
        _raw_channel(swarm, ada, address) as channel,
    ):
        checked = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="swarm.v1.Inference")
        )
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol="swarm.v1.Inference")])
        replies = [reply async for reply in stub.ServerReflectionInfo(asked)]
        assert b"PredictRequest" in replies[0].file_descriptor_response.file_descriptor_proto[0]


async def test_watchers_of_health_hear_what_becomes_ready_and_of_the_end(
    swarm: Founded, ada: Identity
) -> None:
    served, ready = health_pb2.HealthCheckResponse, list[str]()
    service = inference_service(Inference(), is_ready=lambda: bool(ready))
    async with (
        serving(swarm.coordinator, [service]) as (server, address),
        _raw_channel(swarm, ada, address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        named = {
            name: health_pb2.HealthCheckRequest(service=name) for name in ("", "swarm.v1.Inference", "x")
        }
        watched = {name: stub.Watch(request, timeout=20) for name, request in named.items()}
        gone = stub.Watch(named["swarm.v1.Inference"], timeout=20)
        assert (await gone.read()).status == served.NOT_SERVING
        gone.cancel()  # another's end is nobody else's
        first = [(await call.read()).status for call in watched.values()]
        assert first == [served.SERVING, served.NOT_SERVING, served.SERVICE_UNKNOWN]
        ready.append("a gate")
        assert (await stub.Check(named["swarm.v1.Inference"])).status == served.SERVING
        assert (await watched["swarm.v1.Inference"].read()).status == served.SERVING
        ready.clear()
        assert (await watched["swarm.v1.Inference"].read()).status == served.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(named["x"])
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        ready.append("a gate")
        assert (await watched["swarm.v1.Inference"].read()).status == served.SERVING
        await server.say_ending()
        for name in ("", "swarm.v1.Inference"):
            assert (await watched[name].read()).status == served.NOT_SERVING
            assert (await stub.Check(named[name])).status == served.NOT_SERVING


async def test_a_unix_socket_serves_without_tls_only_in_a_private_folder(
    tmp_path: Path, ada: Identity
) -> None:
    server = create_local_server(ada.caller, [expert_service(Experts())])
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(UsageError, match="mode 0700"):
        server.add_socket(tmp_path / "open" / "s")
    (tmp_path / "own").mkdir(mode=0o700)
    server.add_socket(tmp_path / "own" / "s")
    await server.start()
    try:
        async with open_local(tmp_path / "own" / "s", "expert server") as connection:
            assert await connection.unary(m.EXPERT_PREDICT, _expert_message())
    finally:
        await server.stop(0)
    async with open_local(tmp_path / "own" / "s", "agent") as connection:
        with pytest.raises(UnreachableError, match="agent at"):
            await connection.unary(m.EXPERT_PREDICT, _expert_message())


async def test_a_restarted_server_is_found_again_on_the_same_channel(swarm: Founded, ada: Identity) -> None:
    async with serving(swarm.coordinator, [membership_service(Membership())]) as (_, address):
        connection = open_channel(ada, address, "coordinator", NodeId("coordinator"))
        client = CoordinatorClient(connection)
        await client.status()
    with pytest.raises(UnreachableError):
        await client.status(timeout_s=5)
    async with (
        serving(swarm.coordinator, [membership_service(Membership())], address=address),
        asyncio.timeout(8),
    ):
        while True:
            try:
                await client.status(timeout_s=5)
                break
            except UnreachableError:
                await asyncio.sleep(0.1)
    await client.close()


def _expert_message() -> expert_pb2.ExpertRequest:
    return expert_request_to_pb(expert_request())


def _renew(swarm: Founded, identity: Identity) -> None:
    certificate = swarm.ca.issue(
        identity.renewal_csr(),
        role=identity.role,
        member=identity.id,
        lifetime=LIFETIMES[identity.role],
        now=datetime.now(UTC),
    )
    replace_certificate(identity.folder, certificate)


def _raw_channel(swarm: Founded, identity: Identity, address: str) -> grpc.aio.Channel:
    name = target_name(swarm.ca.swarm, "coordinator", NodeId("coordinator"))
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(address, channel_credentials(identity), options)


async def _served_certificate(swarm: Founded, identity: Identity, address: str) -> bytes:
    """The certificate that the server shows in a new handshake."""
    context = ssl.create_default_context(cadata=swarm.ca.certificate_pem.decode())
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")
    name = target_name(swarm.ca.swarm, "coordinator", NodeId("coordinator"))
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown
