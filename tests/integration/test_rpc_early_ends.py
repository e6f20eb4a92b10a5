"""Calls that end while their caller is still writing: the caller learns what they ended with."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from swarm.domain.errors import ConflictError, NotAuthorisedError
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection, open_local
from swarm.rpc.pb import node_stream_pb2

CALLS = 200
"""Of so many, some write at the very moment when the refusal comes."""


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    async def refuse(messages: AsyncIterator[Any], context: Any) -> None:
        read = 0
        async for _ in messages:
            read += 1
            if read == 3:
                await context.abort(grpc.StatusCode.ABORTED, "another upload of it is under way")

    async def revoke(messages: AsyncIterator[Any], context: Any) -> None:
        await anext(messages)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "revoked")

    server = grpc.aio.server()
    for method, handler in (
        (m.PUBLISH, grpc.stream_unary_rpc_method_handler(refuse)),
        (m.CONNECT, grpc.stream_stream_rpc_method_handler(revoke)),
    ):
        service, name = method.path.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    made = open_local(tmp_path / "s")
    yield made
    await made.close()
    await server.stop(None)


async def test_an_upload_that_is_refused_on_its_way_always_says_why(connection: Connection) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield bytes(1 << 20)

    for _ in range(CALLS):
        with pytest.raises(ConflictError, match="another upload"):
            await connection.upload(m.PUBLISH, messages())


async def test_a_stream_that_is_ended_from_there_while_it_writes_says_why(connection: Connection) -> None:
    message = node_stream_pb2.FromNode(heartbeat=node_stream_pb2.Heartbeat())
    for _ in range(CALLS):
        with pytest.raises(NotAuthorisedError, match="revoked"):
            async with connection.duplex(m.CONNECT) as call:
                for _ in range(50):
                    await call.write(message)
                await call.read()
