"""Services and clients over real sockets: streams both ways, keys on every act, the agent's unix socket."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from swarm.digests import digest_of
from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotReadyError,
    SwarmError,
    UnauthenticatedError,
)
from swarm.domain.gates import GateHistory
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.inference import Answer, Examples, Query, SocketBytes
from swarm.domain.membership import Caller, ContributionOutcome, Event
from swarm.rpc import methods as m
from swarm.rpc.callers import CertificateGatekeeper
from swarm.rpc.channel import Connection, open_local
from swarm.rpc.clients import AgentClient, CoordinatorClient
from swarm.rpc.pb import gate_pb2
from swarm.rpc.server import RpcServer, Service, create_local_server
from swarm.rpc.servicers import (
    agent_service,
    expert_service,
    federation_service,
    gate_service,
    growth_service,
    inference_service,
    membership_service,
    registry_service,
)
from tests.support.rpc import Inference, Membership, asking, eventually, found_now, node, service

ACTS = [
    each
    for each in m.METHODS
    if each.request is not bytes and "idempotency_key" in each.request.DESCRIPTOR.fields_by_name
]

LARGEST = 2 << 20
"""The largest contribution here; the real limit would take a quarter of a gigabyte to cross."""


class Gates:
    """A gate port that keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[object, ...]] = []

    async def contribute(
        self, caller: Caller, envelope: bytes, arrays: AsyncIterator[bytes], fence: int, key: str
    ) -> ContributionOutcome:
        data = b"".join([chunk async for chunk in arrays])
        self.given.append((caller.id, envelope, data, fence, key))
        return ContributionOutcome(state="activated", gate_version=2, reason="")

    async def contribution(self, caller: Caller, digest: Digest) -> tuple[bytes, memoryview]:
        envelope, data = next((given[1], given[2]) for given in self.given if given[0] == caller.id)
        return cast(bytes, envelope), memoryview(cast(bytes, data))

    async def gate(self, version: int) -> bytes:
        raise NotReadyError("gate", found="none yet", remedy="train on a node: swarm train DATA")

    async def history(self, before: int, limit: int) -> GateHistory:
        """Pages of two of seven versions."""
        newest = before - 1 if before else 7
        oldest = max(1, newest - min(limit or 2, 2) + 1)
        gates = tuple(f"g{version}".encode() for version in range(oldest, newest + 1))
        return GateHistory(envelopes=gates, oldest=oldest, current=7)

    async def rollback(self, version: int, key: str) -> bytes:
        return b"g3"

    async def fit(self, key: str) -> ContributionOutcome:
        return ContributionOutcome(state="duplicate", gate_version=2, reason="same contributions")


class Agent:
    """An agent port whose training goes on until it is cancelled."""

    def __init__(self) -> None:
        self.orders: list[TrainOrder] = []
        self.cancelled = self.stopped = False

    async def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        self.orders.append(order)
        yield TrainStep(stage="data", message="1437 samples", fraction=0.1)
        try:
            await asyncio.sleep(3600 if order.steps == 1 else 0)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        yield TrainStep(stage="done", message="", fraction=1.0, figures={"experts": 2.0})

    async def state(self) -> AgentState:
        return AgentState(
            node="ada",
            swarm="plants",
            connected=True,
            fence=1,
            gate_version=2,
            activity="idle",
            outbox=0,
            certificate_days=0.5,
            experts=("ada.e0",),
            socket_bytes=SocketBytes(),
            disk_free_bytes=5,
            clock_skew_s=0.0,
            expert_server_pid=77,
        )

    async def leave(self, reason: str) -> tuple[int, tuple[ExpertId, ...]]:
        return 3, (ExpertId("ada.e0"),)

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    private = tmp_path / "run"
    private.mkdir(mode=0o700)
    return private


async def _local(folder: Path, *services: Service) -> tuple[RpcServer, Connection]:
    server = create_local_server(Caller(role="operator", id=NodeId("operator")), services)
    server.add_socket(folder / "s")
    await server.start()
    return server, open_local(folder / "s")


async def test_a_contribution_of_several_messages_arrives_whole_with_its_sender(tmp_path: Path) -> None:
    swarm = found_now(tmp_path)
    port, arrays = Gates(), os.urandom((5 << 20) + 3)
    async with asking(swarm.coordinator, node(swarm, "ada"), gate_service(port)) as client:
        outcome = await client.contribute(b"envelope", arrays, fence=7, key="k")
        assert outcome == ContributionOutcome(state="activated", gate_version=2, reason="")
        assert port.given == [("ada", b"envelope", arrays, 7, "k")]
        assert await client.contribution(digest_of(b"it"), tmp_path / "back") == b"envelope"
        assert (tmp_path / "back").read_bytes() == arrays
        (tmp_path / "arrays").write_bytes(arrays)
        await client.contribute(b"envelope", tmp_path / "arrays", fence=7, key="k")
        assert port.given[1] == port.given[0]
        with pytest.raises(NotReadyError, match="swarm train DATA"):
            await client.gate()
        every = tuple(f"g{version}".encode() for version in range(1, 8))
        assert await client.history() == GateHistory(envelopes=every, oldest=1, current=7)
        found = await client.history(newest=3)
        assert found == GateHistory(envelopes=every[-3:], oldest=5, current=7)


async def test_a_contribution_out_of_form_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("swarm.rpc.clients", "swarm.rpc.servicers.coordinator"):
        monkeypatch.setattr(f"{module}.MAX_CONTRIBUTION_BYTES", LARGEST)
    swarm = found_now(tmp_path)
    port = Gates()
    data = gate_pb2.ContributeChunk(data=b"x")
    head = gate_pb2.ContributeChunk(header=gate_pb2.ContributeHeader(envelope=b"e", idempotency_key="k"))
    full = gate_pb2.ContributeChunk(data=bytes(LARGEST // 2))

    async def messages(*parts: gate_pb2.ContributeChunk) -> AsyncIterator[gate_pb2.ContributeChunk]:
        for part in parts:
            yield part

    async with asking(swarm.coordinator, node(swarm, "ada"), gate_service(port)) as client:
        for parts in ((), (data,), (head, head), (head, data, head)):
            with pytest.raises(InvalidInputError, match="contribution"):
                await client.connection.upload(m.CONTRIBUTE, messages(*parts))
        with pytest.raises(ExhaustedError, match="contribution"):
            await client.connection.upload(m.CONTRIBUTE, messages(head, full, full, data))
        with pytest.raises(ExhaustedError, match="at most 256 MiB"):
            await client.contribute(b"e", bytes(LARGEST + 1), fence=1)
    assert not port.given


@pytest.mark.parametrize("method", ACTS, ids=lambda method: method.path)
async def test_every_act_without_an_idempotency_key_is_refused(folder: Path, method: m.AnyMethod) -> None:
    nobody: object = object()
    server, connection = await _local(
        folder,
        agent_service(nobody),  # type: ignore[arg-type]
        expert_service(nobody),  # type: ignore[arg-type]
        federation_service(nobody),  # type: ignore[arg-type]
        gate_service(nobody),  # type: ignore[arg-type]
        growth_service(nobody),  # type: ignore[arg-type]
        inference_service(nobody),  # type: ignore[arg-type]
        membership_service(nobody),  # type: ignore[arg-type]
        registry_service(nobody),  # type: ignore[arg-type]
    )
    needed = {
        m.TRAIN: {"data": "digits", "share": "borrow", "sums": "auto", "sums_mb": 4.0},
        m.RUN_FEDERATION: {"app": "sums"},
    }
    request = method.request(**needed.get(method, {}))
    async with connection:
        with pytest.raises(InvalidInputError, match="idempotency_key"):
            if method.streams_out:
                async for _ in connection.stream(method, request):
                    pass
            else:
                await connection.unary(method, request)
    await server.stop(0)


def test_all_that_changes_the_swarm_takes_a_key() -> None:
    names = {f"{each.service}.{each.name}" for each in ACTS}
    assert names == {
        "Membership.RenewCertificate",
        "Membership.Leave",
        "Membership.RevokeNode",
        "Membership.CreateToken",
        "Membership.CreateBearer",
        "Membership.RevokeToken",
        "Gate.Rollback",
        "Gate.Fit",
        "Growth.Propose",
        "Growth.Report",
        "Growth.Cancel",
        "Growth.Policy",
        "Inference.MakeProfile",
        "Federation.Run",
        "Registry.Commit",
        "Registry.Announce",
        "Registry.Withdraw",
        "Agent.Train",
    }


class GaveUp(Inference):
    """An inference port that waits for work of its own that something else cancels."""

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        work = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(work.cancel)
        await work
        raise AssertionError


async def test_a_call_whose_own_work_was_cancelled_ends_with_an_error(tmp_path: Path) -> None:
    swarm = found_now(tmp_path)
    asker = asking(swarm.coordinator, node(swarm, "ada"), inference_service(GaveUp()))
    async with asker as client:
        with pytest.raises(SwarmError, match=r"an internal error \(CancelledError\)"):
            await client.predict(Query(inputs=np.zeros((1, 4), np.float32)), timeout_s=20)


async def test_an_askers_examples_become_a_profile_that_queries_can_name(tmp_path: Path) -> None:
    swarm = found_now(tmp_path)
    examples = Examples(inputs=np.ones((3, 4), np.float32), labels=("x", "y", "x"))
    async with asking(swarm.coordinator, node(swarm, "ada"), inference_service(Inference())) as client:
        profile = await client.make_profile(examples)
        assert (profile.owners, profile.examples, profile.accuracy) == (("ada",), 3, 0.75)
        query = Query(inputs=examples.inputs, combination="root", profile=profile.id)
        assert (await client.predict(query)).combination == "root"
        with pytest.raises(InvalidInputError, match="combination: found 'best'"):
            await client.predict(replace(query, combination="best"))
        with pytest.raises(InvalidInputError, match="examples: found 3 inputs, 2 labels"):
            await client.make_profile(replace(examples, labels=("x", "y")))


async def test_events_are_followed_as_they_happen(tmp_path: Path) -> None:
    swarm = found_now(tmp_path)
    port = Membership()
    async with asking(swarm.coordinator, service(swarm, "operator"), membership_service(port)) as client:
        assert [event.kind async for event in client.events()] == ["node.joined"]
        async with aclosing(client.events(follow=True)) as events:  # type: ignore[type-var]
            await anext(events)
            port.appended.put_nowait(
                Event(id="2-0", kind="gate.activated", at=2.0, fields=(("version", "3"),))
            )
            assert (await anext(events)).fields == (("version", "3"),)
        line, token = await client.create_token(uses=2)
        assert line.endswith("@host:7070") and token.uses_left == 2
        bearer, held = await client.create_bearer(NodeId("app"), 60.0)
        assert bearer.startswith("swb1.") and (held.bearer, held.expires_at) == ("app", 60.0)


async def test_the_command_trains_through_its_agent_and_giving_up_cancels(folder: Path) -> None:
    port = Agent()
    server, connection = await _local(folder, agent_service(port))
    async with connection:
        client = AgentClient(connection)
        steps = [step async for step in client.train(TrainOrder(data="digits"))]
        assert [step.stage for step in steps] == ["data", "done"] and steps[1].figures == {"experts": 2.0}
        assert port.orders[0].idempotency_key
        async with aclosing(client.train(TrainOrder(data="digits", steps=1))) as endless:  # type: ignore[type-var]
            await anext(endless)
        await eventually(lambda: port.cancelled)
        assert (await client.state()).expert_server_pid == 77
        assert await client.leave("done") == (3, ("ada.e0",))
        await client.stop()
        assert port.stopped
    await server.stop(0)


async def test_a_certificate_of_another_swarm_or_none_at_all_proves_nobody(tmp_path: Path) -> None:
    stranger = node(found_now(tmp_path), "ada")
    gatekeeper = CertificateGatekeeper(NodeId("animals"), lambda _: False, lambda: 0.0)  # type: ignore[arg-type]

    class Context:
        def __init__(self, **shown: list[bytes]) -> None:
            self.shown = shown

        def auth_context(self) -> dict[str, list[bytes]]:
            return self.shown

    with pytest.raises(UnauthenticatedError, match="found no client certificate"):
        gatekeeper.admit(m.STATUS.path, Context())
    with pytest.raises(UnauthenticatedError, match="swarm plants; expected swarm animals"):
        gatekeeper.admit(m.STATUS.path, Context(x509_pem_cert=[stranger.certificate_pem]))


async def test_a_coordinator_client_is_of_its_connections_peer(folder: Path) -> None:
    server, connection = await _local(folder, membership_service(Membership()))
    client = CoordinatorClient(connection)
    assert (await client.status()).swarm == "plants" and await client.revocations() == b""
    await client.close()
    with pytest.raises(Exception, match="a connection that was closed here"):
        await client.status()
    await server.stop(0)
