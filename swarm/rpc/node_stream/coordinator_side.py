"""The coordinator's end: admits a node, keeps its lease alive by its heartbeats, and calls its experts.

A stream ends when the node goes, when it is silent for a lease's length, when it loses its standing (the
interceptor re-checks every second), or when the membership closes it.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog

from swarm.domain.combination import TrialOption
from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    InvalidInputError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
)
from swarm.domain.federation import FederationPart
from swarm.domain.growth import GrowthOrder, Survey
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import ExpertAnswer, ExpertRequest, GateTrial
from swarm.domain.membership import LEASE_SECONDS, Event, Heartbeat, Hello
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.callers import current_caller
from swarm.rpc.convert.federation import federation_part_from_pb, federation_part_to_pb
from swarm.rpc.convert.growth import growth_order_to_pb, survey_from_pb
from swarm.rpc.failures import reply_checked
from swarm.rpc.interceptors import Context
from swarm.rpc.methods import Method, Reply, Request
from swarm.rpc.options import MAX_MESSAGE_BYTES
from swarm.rpc.pb import expert_pb2, node_stream_pb2, types_pb2
from swarm.rpc.ports import MembershipPort
from swarm.rpc.server import Service

_MAX_QUEUED = 4096
_MAX_CALLS = 256
_log = structlog.get_logger(__name__)


class Link:
    """One node's open stream (a `NodeLink`): calls that wait for their replies, and announcements."""

    def __init__(self, node: NodeId, hello: Hello) -> None:
        self.node = node
        self.hello = hello
        self.parted = False
        self._outgoing: asyncio.Queue[node_stream_pb2.ToNode] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)
        self._ended: asyncio.Future[SwarmError] = asyncio.get_running_loop().create_future()

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        """Ask the node's experts; DeadlineError or UnreachableError when it does not answer."""
        reply = await self._call(m.EXPERT_PREDICT, convert.expert_request_to_pb(request), timeout_s)
        with reply_checked(f"node {self.node}"):
            return convert.expert_answers_from_pb(reply, request)

    async def try_gate(
        self,
        candidate: bytes,
        incumbent: bytes,
        options: Sequence[TrialOption],
        specification: bytes,
        timeout_s: float,
    ) -> GateTrial:
        """Let the node judge a candidate gate on its own validation data."""
        request = expert_pb2.TryGateRequest(
            candidate=candidate,
            incumbent=incumbent,
            options=convert.trial_options_to_pb(options),
            specification=specification,
        )
        reply = await self._call(m.TRY_GATE, request, timeout_s)
        with reply_checked(f"node {self.node}"):
            return convert.gate_trial_from_pb(reply)

    async def survey(self, gate: bytes, specification: bytes, timeout_s: float) -> Survey:
        """Ask how each leaf of a gate does on the node's own validation data that are routed to it."""
        request = expert_pb2.SurveyRequest(gate=gate, specification=specification)
        reply = await self._call(m.SURVEY, request, timeout_s)
        with reply_checked(f"node {self.node}"):
            return survey_from_pb(reply)

    async def carry_out(self, order: GrowthOrder, timeout_s: float) -> None:
        """Let the node carry out a proposal; its refusal comes by name, its work is reported later."""
        await self._call(m.CARRY_OUT, growth_order_to_pb(order), timeout_s)

    async def federate(self, part: FederationPart, timeout_s: float) -> FederationPart:
        """Hand the node a part of a federated run's message, or ask for a part of its reply."""
        reply = await self._call(m.FEDERATION_DELIVER, federation_part_to_pb(part), timeout_s)
        with reply_checked(f"node {self.node}"):
            return federation_part_from_pb(reply)

    def announce(
        self,
        *,
        gate: bytes = b"",
        specification: bytes = b"",
        revocations: bytes = b"",
        event: Event | None = None,
        placement: Sequence[Digest] | None = None,
    ) -> None:
        """Queue what is new for the node; never blocks. A node that does not keep up is disconnected."""
        if specification:
            self._send(node_stream_pb2.ToNode(specification=types_pb2.Signed(envelope=specification)))
        if revocations:
            self._send(node_stream_pb2.ToNode(revocations=types_pb2.Signed(envelope=revocations)))
        if gate:
            self._send(node_stream_pb2.ToNode(gate=types_pb2.Signed(envelope=gate)))
        if event is not None:
            self._send(node_stream_pb2.ToNode(event=convert.event_to_pb(event)))
        if placement is not None:
            self._send(node_stream_pb2.ToNode(placement=convert.placement_to_pb(placement)))

    def close(self, reason: str) -> None:
        """End the stream with UNAUTHENTICATED and the reason."""
        self.end(
            UnauthenticatedError(f"node {self.node}", found=reason, expected="a member in good standing")
        )

    def end(self, error: SwarmError) -> None:
        """End the stream with an error; whoever waits for the node gets UnreachableError at once."""
        if not self._ended.done():
            self._ended.set_result(error)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._gone())
        self._waiting.clear()

    async def ended(self) -> SwarmError:
        """Return the error that the stream ends with, once it does."""
        return await asyncio.shield(self._ended)

    async def next_message(self) -> node_stream_pb2.ToNode:
        """Return the next message for the node."""
        return await self._outgoing.get()

    def heartbeat_noted(self, fence: int, server_time: float) -> None:
        """Queue the answer to a heartbeat."""
        reply = node_stream_pb2.HeartbeatReply(fence=fence, server_time=server_time)
        self._send(node_stream_pb2.ToNode(heartbeat=reply))

    def reply_came(self, reply: node_stream_pb2.CallReply) -> None:
        """Hand a reply to whoever waits for it; nobody does after a timeout."""
        waiting = self._waiting.pop(reply.call_id, None)
        if waiting is None or waiting.done():
            return
        if reply.WhichOneof("outcome") == "payload":
            waiting.set_result(reply.payload)
        else:
            waiting.set_exception(convert.problem_from_pb(reply.problem))

    async def _call(self, method: Method[Request, Reply], request: Any, timeout_s: float) -> Reply:
        if self._ended.done():
            raise self._gone()
        if len(self._waiting) >= _MAX_CALLS:
            raise ExhaustedError(
                f"node {self.node}",
                found=f"{_MAX_CALLS} calls that wait",
                expected="fewer",
                remedy="ask again",
            )
        payload = request.SerializeToString()
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ExhaustedError(
                f"call of node {self.node}",
                found=f"{len(payload)} bytes",
                expected="at most 64 MiB",
                remedy="ask in smaller batches",
            )
        call_id = str(next(self._numbers))
        waiting = self._waiting[call_id] = asyncio.get_running_loop().create_future()
        message = node_stream_pb2.ToNode()
        call = message.call  # filled in place: a message that is given to another's constructor is copied
        call.call_id, call.method = call_id, method.path.lstrip("/")
        call.payload, call.timeout_s = payload, timeout_s
        self._send(message)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await waiting
        except TimeoutError:
            self._cancel_call(call_id)
            raise DeadlineError(
                f"node {self.node}",
                found=f"no answer within {timeout_s:g} s",
                remedy="see what it does: swarm status",
            ) from None
        except asyncio.CancelledError:
            self._cancel_call(call_id)
            raise
        finally:
            self._waiting.pop(call_id, None)
        with reply_checked(f"node {self.node}"):
            return method.read_reply(answer)

    def _cancel_call(self, call_id: str) -> None:
        if not self._ended.done():
            self._send(node_stream_pb2.ToNode(cancel=node_stream_pb2.CancelCall(call_id=call_id)))

    def _send(self, message: node_stream_pb2.ToNode) -> None:
        if self._outgoing.qsize() >= _MAX_QUEUED:
            self.end(
                ExhaustedError(
                    f"node {self.node}",
                    found=f"{_MAX_QUEUED} messages that it has not taken",
                    expected="a node that keeps up",
                    remedy="it connects again by itself",
                )
            )
        elif not self._ended.done():
            self._outgoing.put_nowait(message)

    def _gone(self) -> UnreachableError:
        return UnreachableError(f"node {self.node}", found="its stream has ended", remedy="run: swarm status")


class NodeStreamServicer:
    """`swarm.v1.NodeStream`: each connection becomes a Link that the membership is told about."""

    def __init__(
        self,
        port: MembershipPort,
        *,
        lease_s: float = LEASE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._port, self._lease_s, self._now = port, lease_s, now
        self._farewells: set[asyncio.Task[None]] = set()

    def service(self) -> Service:
        """Return the service for a server."""
        return Service("swarm.v1.NodeStream", {m.CONNECT: self.connect})

    async def connect(
        self, messages: AsyncIterator[node_stream_pb2.FromNode], context: Context
    ) -> AsyncIterator[node_stream_pb2.ToNode]:
        """Serve one node until its stream ends."""
        incoming = aiter(messages)
        link = Link(current_caller().id, await self._hello(incoming))
        tasks: set[asyncio.Task[Any]] = set()
        try:
            welcome = await self._port.node_connected(link)
            _log.info("node.connected", node=link.node, fence=welcome.fence)
            yield node_stream_pb2.ToNode(welcome=convert.welcome_to_pb(welcome))
            listening = asyncio.create_task(self._listen(link, incoming))
            # At once, even while a write waits for a peer that takes nothing any more.
            listening.add_done_callback(lambda _: self._part(link))
            ended = asyncio.create_task(link.ended())
            tasks |= {listening, ended}
            while True:
                upcoming = asyncio.create_task(link.next_message())
                tasks.add(upcoming)
                await asyncio.wait({listening, ended, upcoming}, return_when=asyncio.FIRST_COMPLETED)
                # Its node's end of the stream parts the link too, and why it ended is the better reason.
                if ended.done() and not (listening.done() and isinstance(ended.result(), UnreachableError)):
                    raise ended.result()
                if listening.done():
                    listening.result()
                    return
                tasks.discard(upcoming)
                yield upcoming.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._part(link)

    async def _hello(self, incoming: AsyncIterator[node_stream_pb2.FromNode]) -> Hello:
        try:
            async with asyncio.timeout(self._lease_s):
                first = await anext(incoming, None)
        except TimeoutError:
            raise DeadlineError("node stream", found="no hello", expected="a hello first") from None
        if first is None or first.WhichOneof("kind") != "hello":
            raise InvalidInputError("node stream", found="another message", expected="a hello first")
        return convert.hello_from_pb(first.hello)

    async def _listen(self, link: Link, incoming: AsyncIterator[node_stream_pb2.FromNode]) -> None:
        """Take the node's messages until it ends the stream; DeadlineError when its heartbeats stop."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._lease_s) as lease:
                async for message in incoming:
                    match message.WhichOneof("kind"):
                        case "heartbeat":
                            lease.reschedule(loop.time() + self._lease_s)
                            await self._heartbeat(link, convert.heartbeat_from_pb(message.heartbeat))
                        case "reply":
                            link.reply_came(message.reply)
                        case _:
                            raise InvalidInputError(
                                "node stream", found="another message", expected="heartbeats and replies"
                            )
        except TimeoutError:
            raise DeadlineError(
                f"node {link.node}",
                found=f"no heartbeat for {self._lease_s:g} s",
                expected="one every 3 s",
                remedy="its lease is over; it connects again by itself",
            ) from None

    async def _heartbeat(self, link: Link, beat: Heartbeat) -> None:
        try:
            await self._port.node_heartbeat(link, beat)
        except UnreachableError as error:
            # The store is away, the node is not: it stays connected and is asked on.
            _log.warning("node.heartbeat_unnoted", node=link.node, reason=str(error))
        link.heartbeat_noted(beat.fence, self._now())

    def _part(self, link: Link) -> None:
        """Fail whoever waits for the node and tell the membership; once, and also when cancelled."""
        if link.parted:
            return
        link.parted = True
        link.end(UnreachableError(f"node {link.node}", found="its stream has ended"))
        farewell = asyncio.create_task(self._farewell(link))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _farewell(self, link: Link) -> None:
        try:
            await self._port.node_disconnected(link)
        except SwarmError as error:
            _log.warning("node.disconnect_unnoted", node=link.node, reason=str(error))
        _log.info("node.disconnected", node=link.node)
