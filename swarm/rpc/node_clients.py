"""Typed clients of a node: its experts (direct listener or unix socket) and its agent (unix socket)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import uuid4

from swarm.domain.agent import AgentState, TrainOrder, TrainStep
from swarm.domain.combination import TrialOption
from swarm.domain.growth import Survey
from swarm.domain.ids import ExpertId
from swarm.domain.inference import ExpertAnswer, ExpertRequest, GateTrial
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.channel import Connection
from swarm.rpc.convert.growth import survey_from_pb
from swarm.rpc.convert.scalars import expert_id
from swarm.rpc.failures import reply_checked
from swarm.rpc.options import UNARY_TIMEOUT_S
from swarm.rpc.pb import agent_pb2, expert_pb2

_TRIAL_TIMEOUT_S = 60.0
_LEAVE_TIMEOUT_S = 200.0
_PREDICT_ENCODED = m.EXPERT_PREDICT.passed_on()


class ExpertClient:
    """A node's experts. It is an ExpertPort itself, so that an agent can relay to its expert server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def predict(self, request: ExpertRequest, timeout_s: float = UNARY_TIMEOUT_S) -> list[ExpertAnswer]:
        """Return one answer per task, in the order of the tasks."""
        message = convert.expert_request_to_pb(request)
        reply = await self.connection.unary(m.EXPERT_PREDICT, message, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.expert_answers_from_pb(reply, request)

    async def pass_on(self, query: bytes, timeout_s: float = UNARY_TIMEOUT_S) -> bytes:
        """Return the encoded reply to an encoded request of `predict`, both unread."""
        return await self.connection.unary(_PREDICT_ENCODED, query, timeout_s)

    async def try_gate(
        self,
        candidate: bytes,
        incumbent: bytes,
        options: Sequence[TrialOption],
        specification: bytes,
        timeout_s: float = _TRIAL_TIMEOUT_S,
    ) -> GateTrial:
        """Return how a candidate gate does on the node's own validation data."""
        message = expert_pb2.TryGateRequest(
            candidate=candidate,
            incumbent=incumbent,
            options=convert.trial_options_to_pb(options),
            specification=specification,
        )
        reply = await self.connection.unary(m.TRY_GATE, message, timeout_s)
        with reply_checked(self.connection.peer):
            return convert.gate_trial_from_pb(reply)

    async def survey(self, gate: bytes, specification: bytes, timeout_s: float = _TRIAL_TIMEOUT_S) -> Survey:
        """Return how each leaf of a gate does on the node's own validation data that are routed to it."""
        message = expert_pb2.SurveyRequest(gate=gate, specification=specification)
        reply = await self.connection.unary(m.SURVEY, message, timeout_s)
        with reply_checked(self.connection.peer):
            return survey_from_pb(reply)

    async def close(self) -> None:
        await self.connection.close()


class AgentClient:
    """The node agent, for the command on the same machine: `AgentClient(open_local(socket))`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        """Train as ordered; yield progress as it comes. Ending the iteration early cancels the training."""
        keyed = order if order.idempotency_key else replace(order, idempotency_key=uuid4().hex)
        message = convert.train_order_to_pb(keyed)
        async for step in self.connection.stream(m.TRAIN, message, idle_s=None):
            yield convert.train_step_from_pb(step)

    async def state(self, timeout_s: float = UNARY_TIMEOUT_S) -> AgentState:
        reply = await self.connection.unary(m.STATE, agent_pb2.AgentStateRequest(), timeout_s)
        return convert.agent_state_from_pb(reply)

    async def leave(
        self, reason: str, timeout_s: float = _LEAVE_TIMEOUT_S
    ) -> tuple[int, tuple[ExpertId, ...]]:
        """Leave the swarm for good; return the gate version without this node, and its experts."""
        request = agent_pb2.AgentLeaveRequest(reason=reason)
        reply = await self.connection.unary(m.AGENT_LEAVE, request, timeout_s)
        return reply.gate_version, tuple(map(expert_id, reply.withdrawn_experts))

    async def stop(self, timeout_s: float = UNARY_TIMEOUT_S) -> None:
        """Let the agent and its children end."""
        await self.connection.unary(m.STOP, agent_pb2.AgentStopRequest(), timeout_s)

    async def close(self) -> None:
        await self.connection.close()
