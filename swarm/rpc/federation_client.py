"""Federated runs, as the operator orders them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

from swarm.domain.federation import FederationOrder, FederationStep
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.convert import federation as convert
from swarm.rpc.failures import reply_checked

_IDLE_S = 300.0
"""The coordinator says at least every minute that a run goes on."""


class FederationClient:
    """The coordinator's federation service, on a CoordinatorClient's connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def run_federation(self, order: FederationOrder) -> AsyncIterator[FederationStep]:
        """Run an app over the connected nodes; yield progress, last the result with stage `done`.

        Ending the iteration early ends the run.
        """
        keyed = order if order.idempotency_key else replace(order, idempotency_key=uuid4().hex)
        message = convert.federation_order_to_pb(keyed)
        async for step in self.connection.stream(m.RUN_FEDERATION, message, idle_s=_IDLE_S):
            with reply_checked(self.connection.peer):
                found = convert.federation_step_from_pb(step)
            yield found
