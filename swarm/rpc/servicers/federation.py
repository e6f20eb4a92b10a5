"""Federated runs: the coordinator's service for the operator, and a node's end of a run."""

from collections.abc import AsyncIterator

from swarm.rpc import methods as m
from swarm.rpc.convert import federation as convert
from swarm.rpc.interceptors import Context
from swarm.rpc.pb import federation_pb2
from swarm.rpc.ports import FederationClientPort, FederationPort
from swarm.rpc.server import Service


class _Federation:
    def __init__(self, port: FederationPort) -> None:
        self._port = port

    async def run(
        self, request: federation_pb2.RunFederationRequest, context: Context
    ) -> AsyncIterator[federation_pb2.FederationProgress]:
        order = convert.federation_order_from_pb(request)
        async for step in self._port.run(order):
            yield convert.federation_step_to_pb(step)


class _FederationClient:
    def __init__(self, port: FederationClientPort) -> None:
        self._port = port

    async def deliver(
        self, request: federation_pb2.FederationPart, context: Context
    ) -> federation_pb2.FederationPart:
        part = await self._port.deliver(convert.federation_part_from_pb(request))
        return convert.federation_part_to_pb(part)


def federation_service(port: FederationPort) -> Service:
    """Return `swarm.v1.Federation` over port."""
    return Service("swarm.v1.Federation", {m.RUN_FEDERATION: _Federation(port).run})


def federation_client_service(port: FederationClientPort) -> Service:
    """Return `swarm.v1.FederationClient` over port."""
    return Service("swarm.v1.FederationClient", {m.FEDERATION_DELIVER: _FederationClient(port).deliver})
