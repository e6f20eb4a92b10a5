"""What an HTTP port gives whom: connections that ask nothing make room, and nobody takes all the room for
bodies."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import coordinator.http_connections as connections
from coordinator import http_server
from coordinator.http_bodies import BodyReader
from coordinator.http_server import HttpServer
from swarm.domain.errors import ExhaustedError

LONG = 8 << 20
ROOM = 80


async def page(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("here")


async def long_page(_: Request) -> Response:
    return PlainTextResponse("x" * LONG)


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    app = Starlette(
        routes=[Route("/", page, methods=["GET", "POST"]), Route("/long", long_page, methods=["GET"])]
    )
    server = HttpServer(app, None, name="HTTP port", flag="--http-port")
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop()


async def said_to(port: int, text: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.encode())
    await writer.drain()
    return reader, writer


async def status_of(port: int) -> str:
    reader, writer = await said_to(port, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    line = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return line.decode().split()[1]


async def until_the_end(reader: asyncio.StreamReader) -> int:
    """Return how many bytes come until the other side ends the connection."""
    found = 0
    with suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(1 << 16), 5):
            found += len(data)
    return found


@pytest.mark.asyncio
async def test_an_answer_does_not_wait_for_its_callers_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[asyncio.Transport] = []
    begin = connections.PatientProtocol.connection_made

    def noted(self: connections.PatientProtocol, transport: asyncio.Transport) -> None:
        begin(self, transport)
        made.append(transport)

    monkeypatch.setattr(connections.PatientProtocol, "connection_made", noted)
    async with serving() as port:
        reader, writer = await said_to(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in await asyncio.wait_for(reader.readline(), 10)
        assert made[0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


@pytest.mark.asyncio
async def test_connections_that_ask_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 8)
    async with serving() as port:
        asking = await said_to(port, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(0.1)
        strangers = [await said_to(port, text) for text in ("", "GET / HT") * 20]
        for _ in range(10):
            assert await status_of(port) == "200"
        asking[1].write(b"y")
        assert b"200" in await asyncio.wait_for(asking[0].readline(), 10)
        for _, writer in (asking, *strangers):
            writer.close()


@pytest.mark.asyncio
async def test_a_connection_that_asks_nothing_or_takes_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections.PatientProtocol, "silent_s", 0.4)
    monkeypatch.setattr(connections.PatientProtocol, "unread_s", 0.4)
    async with serving() as port:
        silent, _ = await said_to(port, "")
        dripping, drops = await said_to(port, "GET / HTTP/1.1\r\n")
        unread, _ = await said_to(port, "GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(15):
            drops.write(b"a: b\r\n")
            await asyncio.sleep(0.1)
        assert await until_the_end(silent) == await until_the_end(dripping) == 0
        assert await until_the_end(unread) < LONG
        assert await status_of(port) == "200"


@pytest.mark.asyncio
async def test_no_caller_takes_all_the_room_for_bodies() -> None:
    bodies = BodyReader(most_bytes=10, room_bytes=ROOM, timeout_s=30)
    held = asyncio.Event()

    def body(size: int, *, held_up: bool) -> Request:
        async def stream() -> AsyncIterator[bytes]:
            yield b"x" * size
            if held_up:
                await held.wait()

        return cast(Request, cast(Any, SimpleNamespace(stream=stream)))

    greedy = [asyncio.create_task(bodies.read(body(10, held_up=True), "client/greedy")) for _ in range(10)]
    await asyncio.sleep(0.05)
    refused = [each for each in greedy if each.done()]
    assert len(refused) == len(greedy) - ROOM // 10 // 2
    for each in refused:
        with pytest.raises(ExhaustedError, match="of this caller"):
            each.result()
    assert len(await bodies.read(body(10, held_up=False), "client/polite")) == 10
    held.set()
    assert all(isinstance(each, bytes) for each in await asyncio.gather(*greedy[: ROOM // 10 // 2]))
    for name in ("client/greedy", "client/polite"):
        assert len(await bodies.read(body(10, held_up=False), name)) == 10
