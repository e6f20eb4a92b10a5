"""What one member opens at a server ends nothing for others: streams, calls, bytes that it leaves unread."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from swarm.domain.errors import DeadlineError, ExhaustedError
from swarm.domain.ids import Digest, NodeId
from swarm.domain.membership import Caller, Event
from swarm.modules.outlines import Outline
from swarm.rpc import methods as m
from swarm.rpc.allowances import Limits
from swarm.rpc.channel import Connection, open_channel
from swarm.rpc.clients import RegistryClient
from swarm.rpc.pb import membership_pb2, registry_pb2
from swarm.rpc.server import create_server
from swarm.rpc.servicers import membership_service, registry_service
from swarm.rpc.servicers.holder import holder_service
from swarm.trust.identity import Identity
from tests.support.rpc import Membership, eventually, found_now, node

MIB = 1 << 20
BLOB = Digest("a" * 64)
EVENT = Event(id="1-0", kind="node.joined", at=1.0, fields=())


class Endless:
    """A holder whose blob never ends. It remembers what is open."""

    def __init__(self) -> None:
        self.open = 0
        self.trouble: OSError | None = None

    async def fetch(
        self, caller: Caller, blob: Digest, offset: int = 0, length: int = 0
    ) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            while True:
                if self.trouble is not None:
                    raise self.trouble
                yield bytes(MIB)
        finally:
            self.open -= 1

    async def outline(self, caller: Caller, blob: Digest) -> Outline:
        await asyncio.Event().wait()
        raise AssertionError


class Receiving:
    """Takes in one message of each upload and goes on when told."""

    def __init__(self) -> None:
        self.open = 0
        self.go_on = asyncio.Event()

    async def publish(
        self, caller: Caller, blob: Digest, size_bytes: int, chunks: AsyncIterator[bytes], offset: int = 0
    ) -> None:
        self.open += 1
        await anext(chunks)
        await self.go_on.wait()
        async for _ in chunks:
            pass

    async def upload_state(self, caller: Caller, blob: Digest) -> int:
        return 0


class World:
    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.swarm, self.holder, self.membership = found_now(folder), Endless(), Membership()
        self.receiving = Receiving()
        self.address, self._stack = "", stack

    async def connect(self, identity: Identity) -> Connection:
        made = open_channel(identity, self.address, "coordinator", NodeId("coordinator"))
        return await self._stack.enter_async_context(made)

    async def admitted(self, connection: Connection) -> None:
        """Return once a stream is admitted, which an earlier one may delay that is just ending."""
        async with asyncio.timeout(20):
            while True:
                with suppress(ExhaustedError):
                    await begun(connection)
                    return


@asynccontextmanager
async def serving(folder: Path, limits: Limits) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(folder, stack)
        services = [
            holder_service(world.holder),
            membership_service(world.membership),
            registry_service(world.receiving),  # type: ignore[arg-type]
        ]
        server = create_server(world.swarm.coordinator.folder, lambda _: False, services, limits=limits)
        world.address = f"127.0.0.1:{server.add_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, 0)
        yield world


def fetch(connection: Connection) -> AsyncIterator[bytes]:
    """Ask for the endless blob; only what is read is taken from the connection."""
    return connection.stream(m.HOLDER_FETCH, registry_pb2.BlobRequest(digest=BLOB), idle_s=None)


async def begun(connection: Connection) -> AsyncIterator[bytes]:
    """Return a stream that was admitted; nothing more of it is read."""
    stream = fetch(connection)
    assert await anext(stream)
    return stream


async def test_a_caller_that_reads_nothing_frees_what_it_is_sent_and_hears_why_once_it_reads(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, Limits(unread_s=0.2, streams=1)) as world:
        connection = await world.connect(node(world.swarm, "ada"))
        stream = await begun(connection)
        await eventually(lambda: not world.holder.open)
        with pytest.raises(ExhaustedError, match=r"found 1 open; expected at most 1 at once"):
            await begun(connection)
        with pytest.raises(DeadlineError, match="read nothing for"):
            async for _ in stream:
                pass
        await world.admitted(connection)


async def test_a_member_with_too_many_streams_is_refused_and_nobody_else_is(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(streams=3)) as world:
        ada = node(world.swarm, "ada")
        connections = [await world.connect(ada), await world.connect(ada)]
        streams = [await begun(connections[row % 2]) for row in range(3)]
        for connection in connections:
            with pytest.raises(ExhaustedError, match=r"Holder/Fetch of node/ada: found 3 open"):
                await begun(connection)
        events = connections[0].stream(m.EVENTS, membership_pb2.EventsRequest(), idle_s=None)
        waiting = asyncio.ensure_future(anext(events))
        await world.membership.appended.put(EVENT)
        assert (await waiting).kind == EVENT.kind
        await begun(await world.connect(node(world.swarm, "bob")))
        assert await connections[0].unary(m.GET_SPECIFICATION, membership_pb2.GetSpecificationRequest())
        await streams[0].aclose()  # type: ignore[attr-defined]
        await world.admitted(connections[0])


async def test_the_coordinator_is_not_limited(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(streams=1)) as world:
        connection = await world.connect(world.swarm.coordinator)
        for _ in range(3):
            await begun(connection)


async def test_calls_that_were_begun_and_say_nothing_count_too(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(calls=2, uploads=1)) as world:
        connection = await world.connect(node(world.swarm, "ada"))
        request = membership_pb2.GetSpecificationRequest()
        async with AsyncExitStack() as silent:
            for _ in range(8):
                await silent.enter_async_context(connection.duplex(m.GET_SPECIFICATION))
            with pytest.raises(ExhaustedError, match="calls of node/ada: found 2 open"):
                async with asyncio.timeout(20):
                    while True:
                        await connection.unary(m.GET_SPECIFICATION, request)
        async with asyncio.timeout(20):
            while True:
                with suppress(ExhaustedError):
                    assert await connection.unary(m.GET_SPECIFICATION, request)
                    break


async def test_an_upload_too_many_is_refused_by_name_while_it_is_being_sent(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(uploads=2)) as world:
        client = RegistryClient(await world.connect(node(world.swarm, "ada")))
        data = bytes(40 * MIB)
        running = [asyncio.create_task(client.publish_blob(BLOB, data)) for _ in range(2)]
        await eventually(lambda: world.receiving.open == 2, within_s=20)
        with pytest.raises(ExhaustedError, match=r"Registry/Publish of node/ada: found 2 open"):
            await client.publish_blob(BLOB, data)
        world.receiving.go_on.set()
        await asyncio.gather(*running)
        await client.publish_blob(BLOB, data)


async def test_a_server_that_may_open_no_more_files_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits()) as world:
        world.holder.trouble = OSError(errno.EMFILE, "Too many open files")
        connection = await world.connect(node(world.swarm, "ada"))
        with pytest.raises(ExhaustedError, match=r"open files of the server: found Too many open files"):
            await begun(connection)
