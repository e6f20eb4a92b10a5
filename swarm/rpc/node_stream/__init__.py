"""The one stream that every node holds to the coordinator: both ends of it."""

from swarm.rpc.node_stream.coordinator_side import Link, NodeStreamServicer
from swarm.rpc.node_stream.node_side import NodeStreamClient, StreamListener

__all__ = ["Link", "NodeStreamClient", "NodeStreamServicer", "StreamListener"]
