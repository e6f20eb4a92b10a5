"""Connections to one member of the swarm, over mutual TLS or over a unix socket on the same machine.

Connections open at the first call, keep themselves alive, and go on with the renewed certificate once it
lies in the identity folder: calls in flight end on the old channel, new calls use a new one.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc

from swarm.domain.errors import SwarmError, UnauthenticatedError, UnreachableError, VerificationError
from swarm.domain.ids import NodeId
from swarm.domain.members import Role
from swarm.rpc.credentials import IdentitySource, channel_credentials
from swarm.rpc.failures import own_status, wire_errors
from swarm.rpc.methods import Method, Reply, Request
from swarm.rpc.options import CHANNEL_OPTIONS, IDLE_TIMEOUT_S, UNARY_TIMEOUT_S
from swarm.trust.certificates import target_name
from swarm.trust.identity import Identity

Metadata = Sequence[tuple[str, str]]
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]


class _Dial(Protocol):
    """How a connection's channels are opened, and when a new one is due."""

    def key(self) -> object:
        """Return what the channel is made of: it changes when a new channel is due."""

    def open(self) -> grpc.aio.Channel: ...

    def blame(self, error: SwarmError) -> SwarmError:
        """Return error, or what is known to be its cause on our side."""


class Connection:
    """Typed calls to one member. Every failure is a `swarm.domain.errors` class that names the peer."""

    def __init__(self, peer: str, dial: _Dial) -> None:
        self.peer = peer
        """For people: `registry at host:port`."""
        self._dial = dial
        self._current: _Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def unary(
        self, method: Method[Request, Reply], request: Request, timeout_s: float = UNARY_TIMEOUT_S
    ) -> Reply:
        """Return the reply; DeadlineError after timeout_s."""
        with self._calling(timeout_s) as channel:
            call = channel.unary_unary(method.path, _writer(method), _reader(method))
            reply: Reply = await call(request, timeout=timeout_s)
            return reply

    async def stream(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        idle_s: float | None = IDLE_TIMEOUT_S,
    ) -> AsyncIterator[Reply]:
        """Yield the replies; DeadlineError when none comes for idle_s (None: waits for ever)."""
        with self._calling(idle_s) as channel:
            call: Any = channel.unary_stream(method.path, _writer(method), _reader(method))(request)
            try:
                while True:
                    async with asyncio.timeout(idle_s):
                        message = await call.read()
                    if message is _EOF:
                        return
                    yield message
            finally:
                call.cancel()

    async def upload(
        self,
        method: Method[Request, Reply],
        messages: AsyncIterable[Request],
        *,
        metadata: Metadata = (),
        idle_s: float = IDLE_TIMEOUT_S,
        timeout_s: float = UNARY_TIMEOUT_S,
    ) -> Reply:
        """Send messages and return the reply. DeadlineError when one message is not taken for idle_s, or
        the reply takes more than timeout_s after the last."""
        with self._calling(timeout_s) as channel:
            call: Any = channel.stream_unary(method.path, _writer(method), _reader(method))(
                None, metadata=metadata
            )
            async with own_status(call):
                try:
                    async for message in messages:
                        if call.done():
                            break
                        async with asyncio.timeout(idle_s):
                            await call.write(message)
                    if not call.done():
                        await call.done_writing()
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    pass  # the call ended early; its reason comes with the reply
                except BaseException:
                    call.cancel()
                    raise
                async with asyncio.timeout(timeout_s):
                    reply: Reply = await call
                    return reply

    @asynccontextmanager
    async def duplex(self, method: Method[Request, Reply]) -> AsyncIterator[Any]:
        """Yield a call that streams both ways (`read`, `write`, `done_writing`); it is cancelled after."""
        with self._calling(None) as channel:
            call: Any = channel.stream_stream(method.path, _writer(method), _reader(method))(None)
            try:
                async with own_status(call):
                    yield call
            finally:
                call.cancel()

    def is_renewed(self) -> bool:
        """Say whether new calls would use a newer certificate than the present channel does."""
        return self._current is not None and self._current.key != self._dial.key()

    async def close(self) -> None:
        """Close the connection; calls in flight end with UnreachableError."""
        self._closed = True
        if self._current is not None:
            await self._current.channel.close(None)
            self._current = None
        await asyncio.gather(*self._closing)

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextmanager
    def _calling(self, timeout_s: float | None) -> Iterator[grpc.aio.Channel]:
        used = self._channel()
        used.calls += 1
        try:
            with wire_errors(self.peer, timeout_s):
                yield used.channel
        except (UnreachableError, UnauthenticatedError, VerificationError) as error:
            cause = self._dial.blame(error)
            if cause is error:
                raise
            raise cause from error
        finally:
            used.calls -= 1
            if used is not self._current and not used.calls:
                self._discard(used)

    def _channel(self) -> "_Channel":
        if self._closed:
            raise UnreachableError(self.peer, found="a connection that was closed here")
        key = self._dial.key()
        previous = self._current
        if previous is not None and previous.key == key:
            return previous
        self._current = _Channel(key, self._dial.open())
        if previous is not None and not previous.calls:
            self._discard(previous)
        return self._current

    def _discard(self, channel: "_Channel") -> None:
        task = asyncio.ensure_future(channel.channel.close(None))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Channel:
    """One gRPC channel and the number of calls in flight on it."""

    def __init__(self, key: object, channel: grpc.aio.Channel) -> None:
        self.key, self.channel, self.calls = key, channel, 0


class _TlsDial:
    def __init__(
        self, source: IdentitySource, address: str, server_name: str, now: Callable[[], float]
    ) -> None:
        self._source, self._address, self._server_name, self._now = source, address, server_name, now

    def key(self) -> object:
        return self._source.current().certificate_pem

    def open(self) -> grpc.aio.Channel:
        name = (("grpc.ssl_target_name_override", self._server_name),)
        credentials = channel_credentials(self._source.current())
        return grpc.aio.secure_channel(self._address, credentials, options=(*CHANNEL_OPTIONS, *name))

    def blame(self, error: SwarmError) -> SwarmError:
        if not self._source.is_expired(self._now()):
            return error
        own = self._source.current()
        return UnauthenticatedError(
            f"certificate of {own.role} {own.id}",
            found="one that has expired",
            expected="a current one",
            remedy=f"renew it at the join address {own.join} (a running node does so by itself)"
            if own.join
            else "renew it; a running service does so by itself",
        )


class _SocketDial:
    def __init__(self, path: Path) -> None:
        self._path = path

    def key(self) -> object:
        return self._path

    def open(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self._path}", options=CHANNEL_OPTIONS)

    def blame(self, error: SwarmError) -> SwarmError:
        return error


def open_channel(
    identity: Identity | IdentitySource,
    address: str,
    role: Role,
    member: NodeId,
    *,
    now: Callable[[], float] = time.time,
) -> Connection:
    """Return a connection to exactly this member at `host:port`: whoever else answers there is refused."""
    source = identity if isinstance(identity, IdentitySource) else IdentitySource(identity.folder)
    name = target_name(source.current().swarm, role, member)
    who = member if role == member else f"{role} {member}"
    return Connection(f"{who} at {address}", _TlsDial(source, address, name, now))


def open_local(path: Path, who: str = "agent") -> Connection:
    """Return a connection to a process of this machine, over its unix socket."""
    return Connection(f"{who} at {path}", _SocketDial(path))


def _writer(method: Method[Any, Any]) -> Any:
    return None if method.request is bytes else method.request.SerializeToString


def _reader(method: Method[Any, Any]) -> Any:
    return None if method.reply is bytes else method.reply.FromString
