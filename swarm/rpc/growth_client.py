"""Growth, as whoever proposes, carries out or watches a change of the gate asks the coordinator."""

import uuid
from collections.abc import Mapping, Sequence

from swarm.domain.growth import GrowthPolicy, GrowthReport, Proposal, ProposalKind
from swarm.domain.ids import ExpertId, NodeId
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.convert import growth as convert
from swarm.rpc.failures import reply_checked
from swarm.rpc.options import UNARY_TIMEOUT_S
from swarm.rpc.pb import growth_pb2

_ACT_TIMEOUT_S = 60.0
"""A proposal is recorded once its owner has taken the order; a gate may be on its way meanwhile."""
_CANCEL_TIMEOUT_S = 300.0
"""What a proposal changed is rolled back: one more gate."""


class GrowthCalls:
    """The coordinator's growth service, on a connection to it. A CoordinatorClient has these calls."""

    connection: Connection

    async def propose(
        self,
        kind: ProposalKind,
        experts: Sequence[ExpertId],
        options: Mapping[str, str] | None = None,
        gate_version: int = 0,
        key: str = "",
        timeout_s: float = _ACT_TIMEOUT_S,
        *,
        owner: NodeId | str = "",
        regions: bytes = b"",
    ) -> Proposal:
        """Propose a change; return its record. `gate_version`: that it was made against, 0: the present one.
        Of an add, `owner` is whose it is (empty: the caller's), `regions` what `packed_regions` packed.

        Raises ConflictError, which changes nothing, for another gate version and for a leaf that has an open
        proposal (operator, or the experts' owner).
        """
        request = growth_pb2.ProposeRequest(
            kind=kind,
            experts=experts,
            options=dict(options or {}),
            gate_version=gate_version,
            idempotency_key=key or uuid.uuid4().hex,
            owner=owner,
            regions=regions,
        )
        return self._proposal(await self.connection.unary(m.PROPOSE, request, timeout_s))

    async def proposals(self, proposal: str = "", timeout_s: float = UNARY_TIMEOUT_S) -> list[Proposal]:
        """Return all proposals, newest first, or the one of that id; NotFoundError where there is none."""
        request = growth_pb2.ProposalsRequest(proposal=proposal)
        reply = await self.connection.unary(m.PROPOSALS, request, timeout_s)
        with reply_checked(self.connection.peer):
            return [convert.proposal_from_pb(each) for each in reply.proposals]

    async def report_growth(
        self, report: GrowthReport, key: str = "", timeout_s: float = _ACT_TIMEOUT_S
    ) -> Proposal:
        """Say how a proposal goes that the caller carries out; return its record (node)."""
        message = convert.growth_report_to_pb(report, key or uuid.uuid4().hex)
        return self._proposal(await self.connection.unary(m.REPORT_GROWTH, message, timeout_s))

    async def cancel(self, proposal: str, key: str = "", timeout_s: float = _CANCEL_TIMEOUT_S) -> Proposal:
        """End a proposal; what it changed is rolled back (operator, or its owner)."""
        request = growth_pb2.CancelRequest(proposal=proposal, idempotency_key=key or uuid.uuid4().hex)
        return self._proposal(await self.connection.unary(m.CANCEL_GROWTH, request, timeout_s))

    async def growth_policy(
        self, policy: GrowthPolicy | str = "", key: str = "", timeout_s: float = UNARY_TIMEOUT_S
    ) -> GrowthPolicy:
        """Return the policy of growth, after changing it; empty: as it is (operator)."""
        request = growth_pb2.PolicyRequest(policy=policy, idempotency_key=key or uuid.uuid4().hex)
        reply = await self.connection.unary(m.GROWTH_POLICY, request, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.growth_policy(reply.policy)

    def _proposal(self, message: growth_pb2.Proposal) -> Proposal:
        with reply_checked(self.connection.peer):
            return convert.proposal_from_pb(message)
