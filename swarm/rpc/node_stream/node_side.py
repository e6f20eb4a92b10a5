"""The node's end: holds the stream open for as long as the agent runs, and answers what comes over it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import grpc
import structlog

from swarm.domain.errors import (
    NotReadyError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.domain.membership import LEASE_SECONDS, Event, Heartbeat, Hello, Welcome
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.failures import DOCTOR, reply_checked
from swarm.rpc.node_stream.calls import Calls
from swarm.rpc.pb import node_stream_pb2
from swarm.rpc.ports import ExpertPort, FederationClientPort, GrowerPort

HEARTBEAT_S = 3.0
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 3.0
_LONGEST_REFUSED_DELAY_S = 15.0
_log = structlog.get_logger(__name__)


class StreamListener(Protocol):
    """What the agent does with what the coordinator announces. Called one at a time, in order.

    A SwarmError raised here is logged and the stream goes on: an announcement that does not verify is
    not used. The payloads are unverified envelopes.
    """

    async def on_welcome(self, welcome: Welcome) -> None: ...
    async def on_gate(self, envelope: bytes) -> None: ...
    async def on_specification(self, envelope: bytes) -> None: ...
    async def on_revocations(self, envelope: bytes) -> None: ...
    async def on_event(self, event: Event) -> None: ...
    async def on_placement(self, manifests: Sequence[Digest]) -> None: ...

    async def on_disconnect(self, error: SwarmError) -> None:
        """Called after each stream that ended and each attempt that failed, before the next attempt.

        A good place to renew an expired certificate: the next attempt uses it.
        """


class NodeStreamClient:
    """Connects, greets, beats, and answers calls through its ports; reconnects with jittered delays."""

    def __init__(
        self,
        connection: Connection,
        *,
        experts: ExpertPort,
        federation: FederationClientPort | None = None,
        grower: GrowerPort | None = None,
        listener: StreamListener,
        hello: Callable[[], Awaitable[Hello]],
        beat: Callable[[int], Heartbeat],
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = LEASE_SECONDS,
        jitter: random.Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """hello is asked at every connection; beat gets the fence. silence_s: how long the coordinator may
        leave heartbeats unanswered before the stream is given up."""
        self._connection, self._experts, self._listener = connection, experts, listener
        self._federation, self._grower = federation, grower
        self._hello, self._beat = hello, beat
        self._heartbeat_s, self._silence_s = heartbeat_s, silence_s
        self._jitter, self._now = jitter or random.Random(), now  # noqa: S311 (no secret)
        self.fence = 0
        """The fence of the newest lease; 0 before the first."""
        self.connected = False
        self.clock_skew_s = 0.0
        """The coordinator's clock minus ours, at its last message with a time in it."""

    async def run(self) -> None:
        """Hold the stream until cancelled."""
        failures = 0
        while True:
            error: SwarmError = UnreachableError(
                self._connection.peer, found="a stream that it ended", remedy=DOCTOR
            )
            try:
                await self._session()
            except SwarmError as raised:
                error = raised
            except OSError as raised:  # this node's own files, or its disk
                error = NotReadyError("stream", found=str(raised), expected="a disk that can be read")
            failures = 0 if self.connected else failures + 1
            self.connected = False
            renewed = self._connection.is_renewed()
            if not renewed:
                _log.info("stream.ended", peer=self._connection.peer, reason=str(error))
                await self._notify(self._listener.on_disconnect(error))
            if not (renewed or self._connection.is_renewed()):
                await asyncio.sleep(self._delay_s(failures, error))

    async def _session(self) -> None:
        """Open one stream and serve it until it ends."""
        async with self._connection.duplex(m.CONNECT) as call:
            greeting = await self._hello()
            async with asyncio.timeout(self._silence_s):
                await call.write(node_stream_pb2.FromNode(hello=convert.hello_to_pb(greeting)))
                first = await call.read()
            with reply_checked(self._connection.peer):
                welcome = self._welcome(first)
            self.fence, self.connected = welcome.fence, True
            self._note_time(welcome.server_time)
            _log.info("stream.open", peer=self._connection.peer, fence=welcome.fence)
            await self._hold(call, welcome)

    async def _hold(self, call: Any, welcome: Welcome) -> None:
        writing = asyncio.Lock()

        async def send(message: node_stream_pb2.FromNode) -> None:
            async with writing:
                await call.write(message)

        async def answer(message: node_stream_pb2.FromNode) -> None:
            # Whose stream has broken asks again on the next; the reader notices and ends this one.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await send(message)

        calls = Calls(self._experts, answer, self._federation, self._grower)
        notices: asyncio.Queue[Awaitable[None]] = asyncio.Queue()
        notices.put_nowait(self._listener.on_welcome(welcome))
        tasks = {
            asyncio.create_task(self._listen(call, calls, notices)),
            asyncio.create_task(self._beats(send, calls)),
            asyncio.create_task(self._notices(notices)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await calls.end()
            while not notices.empty():
                _forget(notices.get_nowait())

    def _welcome(self, first: Any) -> Welcome:
        if first is grpc.aio.EOF or first.WhichOneof("kind") != "welcome":  # type: ignore[attr-defined]
            raise VerificationError(self._connection.peer, found="no welcome", expected="a welcome first")
        return convert.welcome_from_pb(first.welcome)

    async def _listen(self, call: Any, calls: Calls, notices: asyncio.Queue[Awaitable[None]]) -> None:
        while True:
            async with asyncio.timeout(self._silence_s):
                message = await call.read()
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            on = self._listener
            match message.WhichOneof("kind"):
                case "call":
                    calls.start(message.call)
                case "cancel":
                    calls.cancel(message.cancel.call_id)
                case "heartbeat":
                    self._note_time(message.heartbeat.server_time)
                case "gate":
                    notices.put_nowait(on.on_gate(message.gate.envelope))
                case "specification":
                    notices.put_nowait(on.on_specification(message.specification.envelope))
                case "revocations":
                    notices.put_nowait(on.on_revocations(message.revocations.envelope))
                case "event":
                    notices.put_nowait(on.on_event(convert.event_from_pb(message.event)))
                case "placement":
                    notices.put_nowait(on.on_placement(convert.placement_from_pb(message.placement)))
                case kind:
                    _log.warning("stream.unknown_message", peer=self._connection.peer, kind=str(kind))

    async def _beats(self, send: Callable[[node_stream_pb2.FromNode], Awaitable[None]], calls: Calls) -> None:
        """Send heartbeats; end the stream in a quiet moment once the certificate is renewed."""
        while calls.running or not self._connection.is_renewed():
            beat = convert.heartbeat_to_pb(self._beat(self.fence))
            await send(node_stream_pb2.FromNode(heartbeat=beat))
            await asyncio.sleep(self._heartbeat_s)

    async def _notices(self, notices: asyncio.Queue[Awaitable[None]]) -> None:
        while True:
            await self._notify(await notices.get())

    async def _notify(self, notice: Awaitable[None]) -> None:
        try:
            await notice
        except SwarmError as error:
            _log.warning("stream.notice_refused", code=error.code, reason=str(error))
        except OSError as error:  # a full disk is not the end
            _log.error("stream.notice_failed", reason=str(error))

    def _note_time(self, server_time: float) -> None:
        self.clock_skew_s = server_time - self._now()

    def _delay_s(self, failures: int, error: SwarmError) -> float:
        refused = isinstance(error, UnauthenticatedError | VerificationError)
        longest = _LONGEST_REFUSED_DELAY_S if refused else _LONGEST_DELAY_S
        return min(longest, _FIRST_DELAY_S * 2.0 ** min(failures, 10)) * self._jitter.uniform(0.5, 1.0)


def _forget(notice: Awaitable[None]) -> None:
    """Drop a notice that nobody will hear, without the warning of a coroutine that was never awaited."""
    close = getattr(notice, "close", None)
    if close is not None:
        close()
