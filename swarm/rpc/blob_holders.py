"""Members of the swarm as holders of blobs, over their connections."""

from collections.abc import AsyncIterator

from swarm.domain.ids import Digest
from swarm.modules.outlines import Outline
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.failures import reply_checked
from swarm.rpc.options import IDLE_TIMEOUT_S
from swarm.rpc.pb import registry_pb2


class RpcHolder:
    """Implements `swarm.transfer.Holder` over a connection: to the registry, unless methods say otherwise."""

    def __init__(
        self, connection: Connection, fetch: m.AnyMethod = m.FETCH, outline: m.AnyMethod = m.OUTLINE
    ) -> None:
        self._connection, self._fetch, self._outline = connection, fetch, outline

    @property
    def name(self) -> str:
        """For people: `registry at host:port`."""
        return self._connection.peer

    async def outline(self, blob: Digest) -> Outline:
        """Return what it says are the blob's blocks; VerificationError for an answer that is no outline."""
        request = registry_pb2.OutlineRequest(digest=blob)
        reply = await self._connection.unary(self._outline, request, IDLE_TIMEOUT_S)
        with reply_checked(self.name):
            return convert.outline_from_pb(reply)

    def read(self, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]:
        """Yield so many of the blob's bytes from offset on; all of them where both are 0."""
        request = registry_pb2.BlobRequest(digest=blob, offset=offset, length=length)
        return self._connection.stream(self._fetch, request)


def node_holder(connection: Connection) -> RpcHolder:
    """Return a node with a direct listener as a holder of what is in its cache."""
    return RpcHolder(connection, m.HOLDER_FETCH, m.HOLDER_OUTLINE)
