"""The one call of the Open Inference Protocol that this house makes itself: a probe's."""

from swarm.rpc.channel import Connection
from swarm.rpc.failures import reply_checked
from swarm.rpc.open_inference.methods import SERVER_READY
from swarm.rpc.pb import open_inference_pb2


async def server_ready(connection: Connection, timeout_s: float) -> bool:
    """Return whether the coordinator has a gate to answer by."""
    reply = await connection.unary(SERVER_READY, open_inference_pb2.ServerReadyRequest(), timeout_s)
    with reply_checked(connection.peer):
        return reply.ready
