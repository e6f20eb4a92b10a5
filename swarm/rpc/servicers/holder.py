"""A node that gives blobs of its cache to others. They travel as the registry's do."""

from collections.abc import AsyncIterator

from swarm.domain.ids import digest
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.callers import current_caller
from swarm.rpc.interceptors import Behaviour, Context
from swarm.rpc.pb import registry_pb2
from swarm.rpc.ports import HolderPort
from swarm.rpc.server import Service


class _Holder:
    def __init__(self, port: HolderPort) -> None:
        self._port = port

    async def fetch(self, request: registry_pb2.BlobRequest, context: Context) -> AsyncIterator[bytes]:
        blob = digest(request.digest)
        async for part in self._port.fetch(current_caller(), blob, request.offset, request.length):
            yield part

    async def outline(
        self, request: registry_pb2.OutlineRequest, context: Context
    ) -> registry_pb2.OutlineReply:
        return convert.outline_to_pb(await self._port.outline(current_caller(), digest(request.digest)))


def holder_service(port: HolderPort) -> Service:
    """Return `swarm.v1.Holder` over port."""
    on = _Holder(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {m.HOLDER_FETCH: on.fetch, m.HOLDER_OUTLINE: on.outline}
    return Service("swarm.v1.Holder", behaviours)
