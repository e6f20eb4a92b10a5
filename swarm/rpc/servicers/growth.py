"""Growth: the coordinator's proposals, and what carries them out on a node."""

from swarm.domain.growth import checked_options
from swarm.domain.ids import node_id
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.callers import current_caller
from swarm.rpc.convert import growth
from swarm.rpc.interceptors import Behaviour, Context
from swarm.rpc.pb import growth_pb2
from swarm.rpc.ports import GrowerPort, GrowthPort
from swarm.rpc.server import Service


class _Growth:
    def __init__(self, port: GrowthPort) -> None:
        self._port = port

    async def propose(self, request: growth_pb2.ProposeRequest, context: Context) -> growth_pb2.Proposal:
        key = convert.idempotency_key(request.idempotency_key)
        kind = growth.proposal_kind(request.kind)
        proposal = await self._port.propose(
            current_caller(),
            kind,
            growth.growth_experts(request.experts),
            checked_options(kind, request.options),
            request.gate_version,
            key,
            owner=node_id(request.owner) if request.owner else None,
            regions=growth.regions_of(kind, request.regions),
        )
        return growth.proposal_to_pb(proposal)

    async def proposals(
        self, request: growth_pb2.ProposalsRequest, context: Context
    ) -> growth_pb2.ProposalsReply:
        wanted = growth.proposal_id(request.proposal) if request.proposal else ""
        found = await self._port.proposals(wanted)
        return growth_pb2.ProposalsReply(proposals=map(growth.proposal_to_pb, found))

    async def report(self, request: growth_pb2.ReportRequest, context: Context) -> growth_pb2.Proposal:
        key = convert.idempotency_key(request.idempotency_key)
        report = growth.growth_report_from_pb(request)
        return growth.proposal_to_pb(await self._port.report(current_caller(), report, key))

    async def cancel(self, request: growth_pb2.CancelRequest, context: Context) -> growth_pb2.Proposal:
        key = convert.idempotency_key(request.idempotency_key)
        proposal = growth.proposal_id(request.proposal)
        return growth.proposal_to_pb(await self._port.cancel(current_caller(), proposal, key))

    async def policy(self, request: growth_pb2.PolicyRequest, context: Context) -> growth_pb2.PolicyReply:
        key = convert.idempotency_key(request.idempotency_key)
        wanted = growth.growth_policy(request.policy) if request.policy else ""
        return growth_pb2.PolicyReply(policy=await self._port.policy(wanted, key))


class _Grower:
    def __init__(self, port: GrowerPort) -> None:
        self._port = port

    async def carry_out(self, request: growth_pb2.GrowthOrder, context: Context) -> growth_pb2.CarryOutReply:
        await self._port.carry_out(growth.growth_order_from_pb(request))
        return growth_pb2.CarryOutReply()


def growth_service(port: GrowthPort) -> Service:
    """Return `swarm.v1.Growth` over port."""
    on = _Growth(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.PROPOSE: on.propose,
        m.PROPOSALS: on.proposals,
        m.REPORT_GROWTH: on.report,
        m.CANCEL_GROWTH: on.cancel,
        m.GROWTH_POLICY: on.policy,
    }
    return Service("swarm.v1.Growth", behaviours)


def grower_service(port: GrowerPort) -> Service:
    """Return `swarm.v1.Grower` over port."""
    return Service("swarm.v1.Grower", {m.CARRY_OUT: _Grower(port).carry_out})
