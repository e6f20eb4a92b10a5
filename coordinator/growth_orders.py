"""The order by which a proposal's owner is to carry it out, on its way over the owner's stream."""

from coordinator.live_nodes import LiveNodes
from swarm.domain.errors import UnreachableError
from swarm.domain.growth import GrowthOrder, Proposal

ORDER_TIMEOUT_S = 20.0


async def give_order(proposal: Proposal, regions: bytes, live: LiveNodes) -> None:
    """Give a proposal to its owner, an add with its regions (empty: its own samples').

    Raises what the owner refuses it with, and UnreachableError where it is not connected any more.
    """
    node = live.get(proposal.owner)
    if node is None:
        raise UnreachableError(f"node {proposal.owner}", found="no stream")
    order = GrowthOrder(
        proposal=proposal.id,
        kind=proposal.kind,
        experts=proposal.experts,
        gate_version=proposal.gate_version,
        before=proposal.before,
        options=proposal.options,
        regions=regions,
    )
    await node.link.carry_out(order, ORDER_TIMEOUT_S)
