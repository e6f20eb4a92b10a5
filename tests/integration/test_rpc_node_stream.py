"""The node's stream over real mutual TLS: leases, calls, announcements, and every way that it ends."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.domain.errors import (
    DeadlineError,
    InvalidInputError,
    SwarmError,
    TrunkMismatchError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import ExpertForm, SocketBytes
from swarm.domain.membership import Caller, Event, Heartbeat, Hello, Welcome
from swarm.gating.combinations import ridge_options
from swarm.rpc import methods as m
from swarm.rpc.callers import set_current_caller
from swarm.rpc.channel import open_channel
from swarm.rpc.convert import hello_to_pb
from swarm.rpc.node_stream import NodeStreamClient, NodeStreamServicer
from swarm.rpc.node_stream.calls import MAX_CONCURRENT, Calls
from swarm.rpc.pb import node_stream_pb2
from swarm.rpc.ports import NodeLink
from swarm.trust.identity import LIFETIMES, Identity, replace_certificate
from tests.support.rpc import (
    GATE,
    Experts,
    Membership,
    connected,
    eventually,
    expert_request,
    found_now,
    hello,
    node,
    serving,
    trial,
)
from tests.support.trust import Founded


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found_now(tmp_path_factory.mktemp("swarm"))


@pytest.fixture(scope="module")
def ada(swarm: Founded) -> Identity:
    return node(swarm, "ada")


class Heard:
    """A listener that keeps what it heard; told so, it refuses gates."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []
        self.ends: list[SwarmError] = []
        self.refuses_gates = self.disk_is_full = False

    async def on_welcome(self, welcome: Welcome) -> None:
        self.heard.append(("welcome", welcome.gate))

    async def on_gate(self, envelope: bytes) -> None:
        if self.refuses_gates:
            raise VerificationError("gate", found="a bad signature")
        if self.disk_is_full:
            raise OSError(28, "No space left on device")
        self.heard.append(("gate", envelope))

    async def on_specification(self, envelope: bytes) -> None:
        self.heard.append(("specification", envelope))

    async def on_revocations(self, envelope: bytes) -> None:
        self.heard.append(("revocations", envelope))

    async def on_event(self, event: Event) -> None:
        self.heard.append(("event", event.kind))

    async def on_placement(self, manifests: Sequence[Digest]) -> None:
        self.heard.append(("placement", tuple(manifests)))

    async def on_disconnect(self, error: SwarmError) -> None:
        self.ends.append(error)


class Node:
    """A node's end of a stream, running."""

    def __init__(self, identity: Identity, address: str, heartbeat_s: float, silence_s: float) -> None:
        self.experts, self.listener = Experts(), Heard()
        self.trouble: OSError | None = None
        self.connection = open_channel(identity, address, "coordinator", NodeId("coordinator"))
        self.client = NodeStreamClient(
            self.connection,
            experts=self.experts,
            listener=self.listener,
            hello=self._hello,
            beat=_beat,
            heartbeat_s=heartbeat_s,
            silence_s=silence_s,
            jitter=random.Random(0),
        )

    async def _hello(self) -> Hello:
        if self.trouble is not None:
            raise self.trouble
        return hello()


@asynccontextmanager
async def running(
    identity: Identity, address: str, heartbeat_s: float = 0.1, silence_s: float = 10.0
) -> AsyncIterator[Node]:
    agent = Node(identity, address, heartbeat_s, silence_s)
    task = asyncio.create_task(agent.client.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.connection.close()


@asynccontextmanager
async def linked(
    swarm: Founded, identity: Identity, lease_s: float = 10.0
) -> AsyncIterator[tuple[Membership, NodeLink, Node]]:
    """A coordinator and a node with an open stream between them."""
    port = Membership()
    services = [NodeStreamServicer(port, lease_s=lease_s).service()]
    async with serving(swarm.coordinator, services) as (_, address), running(identity, address) as agent:
        await eventually(lambda: identity.id in port.links)
        yield port, port.links[identity.id], agent


async def test_a_node_is_welcomed_with_a_lease_and_its_heartbeats_arrive(
    swarm: Founded, ada: Identity
) -> None:
    async with linked(swarm, ada) as (port, link, agent):
        await eventually(lambda: len(port.beats) > 2)
        assert link.hello == hello() and agent.client.fence == 1 and agent.client.connected
        assert port.beats[0].fence == 1 and port.beats[0].activity == "idle"
        assert agent.listener.heard[0] == ("welcome", GATE)
        assert abs(agent.client.clock_skew_s) < 1


async def test_calls_run_concurrently_but_never_more_than_sixteen_at_once(
    swarm: Founded, ada: Identity
) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.experts.wait_s = 0.1
        answers = await asyncio.gather(*(link.predict(expert_request(rows), 5.0) for rows in range(1, 41)))
        assert [len(answer[0].values) for answer in answers] == list(range(1, 41))
        assert 1 < agent.experts.most_running <= MAX_CONCURRENT


async def test_a_gate_trial_travels_over_the_stream(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, _agent):
        assert await link.try_gate(b"new", b"old", ridge_options(3), b"spec", 5.0) == trial(3)


@pytest.mark.parametrize("form", ["probabilities", "corrections"])
async def test_an_expert_is_asked_in_the_form_that_the_combination_needs(
    swarm: Founded, ada: Identity, form: ExpertForm
) -> None:
    async with linked(swarm, ada) as (_, link, _agent):
        (answer,) = await link.predict(expert_request(form=form), 5.0)
        assert answer.form == form and answer.values.sum() == (3 if form == "probabilities" else 0)


async def test_an_experts_refusal_reaches_the_coordinator_whole(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.experts.refusal = TrunkMismatchError("ada.e0", found="trunk a", expected="trunk b")
        with pytest.raises(TrunkMismatchError, match=r"ada\.e0: found trunk a; expected trunk b"):
            await link.predict(expert_request(), 5.0)
        agent.experts.refusal = ValueError("secret-detail")
        with pytest.raises(SwarmError, match="internal error") as raised:
            await link.predict(expert_request(), 5.0)
        assert "secret-detail" not in str(raised.value)


async def test_a_call_that_takes_too_long_ends_on_both_sides(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.experts.wait_s = 30
        with pytest.raises(DeadlineError, match=r"ada: found no answer within 0\.2 s"):
            await link.predict(expert_request(), 0.2)
        await eventually(lambda: agent.experts.running == 0)
        agent.experts.wait_s = 0
        assert await link.predict(expert_request(), 5.0)


async def test_a_call_that_is_given_up_is_cancelled_at_the_node(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.experts.wait_s = 30
        asking = asyncio.create_task(link.predict(expert_request(), 60.0))
        await eventually(lambda: agent.experts.running == 1)
        asking.cancel()
        await eventually(lambda: agent.experts.cancelled == 1)


async def test_giving_up_a_call_while_its_reply_is_written_leaves_the_stream_alone() -> None:
    writing, written = asyncio.Event(), asyncio.Event()

    async def send(message: node_stream_pb2.FromNode) -> None:
        writing.set()
        await asyncio.sleep(0.05)
        written.set()

    calls = Calls(Experts(), send)
    calls.start(node_stream_pb2.Call(call_id="1", method="swarm.v1.Expert/Unknown", timeout_s=5.0))
    await writing.wait()
    calls.cancel("1")
    await eventually(lambda: calls.running == 0)
    assert written.is_set()


async def test_a_big_answer_fits(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.experts.columns = 10_000
        answer = await link.predict(expert_request(1500), 30.0)
        assert answer[0].values.nbytes == 60_000_000


async def test_announcements_arrive_in_order_and_one_that_is_refused_stops_nothing(
    swarm: Founded, ada: Identity
) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.listener.refuses_gates = True
        link.announce(gate=b"forged")
        link.announce(specification=b"s2", revocations=b"r2")
        link.announce(event=Event(id="7-0", kind="gate.activated", at=1.0, fields=()))
        await eventually(lambda: len(agent.listener.heard) == 4)
        assert agent.listener.heard[1:] == [
            ("specification", b"s2"),
            ("revocations", b"r2"),
            ("event", "gate.activated"),
        ]
        assert agent.client.connected


async def test_a_disk_that_takes_nothing_costs_no_stream(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):
        agent.listener.disk_is_full = True
        link.announce(gate=b"g2")
        link.announce(specification=b"s2")
        await eventually(lambda: len(agent.listener.heard) == 2)
        assert agent.listener.heard[1:] == [("specification", b"s2")]
        assert agent.client.connected


async def test_a_greeting_that_cannot_be_read_from_the_disk_is_tried_again(
    swarm: Founded, ada: Identity
) -> None:
    port = Membership()
    services = [NodeStreamServicer(port, lease_s=10.0).service()]
    async with serving(swarm.coordinator, services) as (_, address):
        agent = Node(ada, address, 0.1, 10.0)
        agent.trouble = OSError(5, "Input/output error")
        task = asyncio.create_task(agent.client.run())
        await eventually(lambda: bool(agent.listener.ends))
        assert "Input/output error" in str(agent.listener.ends[0])
        agent.trouble = None
        await eventually(lambda: ada.id in port.links)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.connection.close()


async def test_a_silent_node_loses_its_stream_within_a_lease(swarm: Founded, ada: Identity) -> None:
    port = Membership()
    services = [NodeStreamServicer(port, lease_s=0.5).service()]
    async with (
        serving(swarm.coordinator, services) as (_, address),
        running(ada, address, heartbeat_s=60) as agent,
    ):
        await eventually(lambda: agent.listener.ends)
        assert "no heartbeat for 0.5 s" in str(agent.listener.ends[0])
        await eventually(lambda: port.parted)


async def test_a_node_gives_up_a_coordinator_that_does_not_answer_heartbeats(
    swarm: Founded, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = Membership()

    async def stuck(link: NodeLink, beat: Heartbeat) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(port, "node_heartbeat", stuck)
    async with (
        serving(swarm.coordinator, [NodeStreamServicer(port).service()]) as (_, address),
        running(ada, address, silence_s=0.4) as agent,
    ):
        await eventually(lambda: port.fence > 1)
        assert isinstance(agent.listener.ends[0], DeadlineError)


async def test_a_store_that_is_away_does_not_disconnect_nodes(
    swarm: Founded, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(swarm, ada) as (port, link, agent):

        async def away(link: NodeLink, beat: Heartbeat) -> None:
            port.beats.append(beat)
            raise UnreachableError("Redis")

        monkeypatch.setattr(port, "node_heartbeat", away)
        noted = len(port.beats)
        await eventually(lambda: len(port.beats) > noted + 2)
        assert await link.predict(expert_request(), 5.0) and agent.client.connected


async def test_a_closed_link_ends_with_its_reason_and_waiting_calls_fail_at_once(
    swarm: Founded, ada: Identity
) -> None:
    async with linked(swarm, ada) as (port, link, agent):
        agent.experts.wait_s = 30
        asking = asyncio.create_task(link.predict(expert_request(), 60.0))
        await eventually(lambda: agent.experts.running == 1)
        link.close("superseded by a newer stream")
        with pytest.raises(UnreachableError, match="node ada: found its stream has ended"):
            await asking
        await eventually(lambda: agent.listener.ends)
        assert isinstance(agent.listener.ends[0], UnauthenticatedError)
        assert "superseded by a newer stream" in str(agent.listener.ends[0])
        with pytest.raises(UnreachableError):
            await link.predict(expert_request(), 1.0)
        await eventually(lambda: port.parted == ["ada"])


async def test_a_revoked_nodes_stream_ends_within_a_second_and_a_half(swarm: Founded, ada: Identity) -> None:
    revoked: set[NodeId] = set()
    port = Membership()
    services = [NodeStreamServicer(port).service()]
    async with (
        serving(swarm.coordinator, services, revoked.__contains__) as (_, address),
        running(ada, address) as agent,
    ):
        await eventually(lambda: agent.client.connected)
        revoked.add(NodeId("ada"))
        started = time.monotonic()
        await eventually(lambda: agent.listener.ends, within_s=1.5)
        assert time.monotonic() - started < 1.5 and "revoked" in str(agent.listener.ends[0])
        await eventually(lambda: port.parted == ["ada"])


async def test_a_node_reconnects_by_itself_after_the_coordinator_restarts(
    swarm: Founded, ada: Identity
) -> None:
    before, after = Membership(), Membership()
    after.fence = 10
    async with (
        serving(swarm.coordinator, [NodeStreamServicer(before).service()]) as (server, address),
        running(ada, address) as agent,
    ):
        await eventually(lambda: agent.client.connected)
        await server.stop(0)
        await eventually(lambda: not agent.client.connected)
        services = [NodeStreamServicer(after).service()]
        async with serving(swarm.coordinator, services, address=address):
            await eventually(lambda: agent.client.fence == 11, within_s=8)
            assert await after.links["ada"].predict(expert_request(), 5.0)


async def test_a_renewed_certificate_moves_the_stream_to_itself(tmp_path: Path) -> None:
    own = found_now(tmp_path)
    ida = node(own, "ida")
    async with linked(own, ida) as (_, _, agent):
        certificate = own.ca.issue(
            ida.renewal_csr(),
            role="node",
            member=ida.id,
            lifetime=LIFETIMES["node"],
            now=datetime.now(UTC),
        )
        replace_certificate(ida.folder, certificate)
        await eventually(lambda: agent.client.fence == 2)
        assert not agent.listener.ends


async def test_an_answer_that_does_not_fit_its_task_is_refused(swarm: Founded, ada: Identity) -> None:
    async with linked(swarm, ada) as (_, link, agent):

        async def nothing(request: object) -> list[object]:
            return []

        agent.experts.predict = nothing  # type: ignore[assignment,method-assign]
        with pytest.raises(VerificationError, match="answer of node ada: answers"):
            await link.predict(expert_request(), 5.0)


async def test_a_node_that_errs_while_it_is_written_to_hears_of_its_error() -> None:
    port, erring = Membership(), asyncio.Event()

    async def sent() -> AsyncIterator[node_stream_pb2.FromNode]:
        yield node_stream_pb2.FromNode(hello=hello_to_pb(hello()))
        await erring.wait()
        yield node_stream_pb2.FromNode(hello=hello_to_pb(hello()))

    set_current_caller(Caller(role="node", id=NodeId("ada")))
    stream = NodeStreamServicer(port).connect(sent(), None)  # type: ignore[arg-type]
    assert (await anext(stream)).WhichOneof("kind") == "welcome"
    port.links["ada"].announce(gate=GATE)
    assert (await anext(stream)).gate.envelope == GATE
    erring.set()
    await eventually(lambda: port.parted == ["ada"])
    with pytest.raises(InvalidInputError, match="expected heartbeats and replies"):
        await anext(stream)


async def test_whoever_does_not_greet_first_is_refused(swarm: Founded, ada: Identity) -> None:
    port = Membership()
    async with (
        serving(swarm.coordinator, [NodeStreamServicer(port).service()]) as (_, address),
        connected(ada, address, "coordinator", "coordinator") as connection,
    ):
        with pytest.raises(InvalidInputError, match="expected a hello first"):
            async with connection.duplex(m.CONNECT) as call:
                await call.write(node_stream_pb2.FromNode(heartbeat=node_stream_pb2.Heartbeat()))
                await call.read()
        with pytest.raises(InvalidInputError, match="digest"):
            async with connection.duplex(m.CONNECT) as call:
                greeting = hello_to_pb(hello())
                greeting.served.append("not a digest")
                await call.write(node_stream_pb2.FromNode(hello=greeting))
                await call.read()
    assert not port.links


def _beat(fence: int) -> Heartbeat:
    return Heartbeat(fence=fence, socket_bytes=SocketBytes(), activity="idle", served=(), gate_version=0)
