"""A node's services: its experts, and its agent for the command on the same machine."""

from collections.abc import AsyncIterator

from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.convert.growth import survey_to_pb
from swarm.rpc.interceptors import Behaviour, Context
from swarm.rpc.pb import agent_pb2, expert_pb2
from swarm.rpc.ports import AgentPort, ExpertPort
from swarm.rpc.server import Service


class _Expert:
    def __init__(self, port: ExpertPort) -> None:
        self._port = port

    async def predict(self, request: expert_pb2.ExpertRequest, context: Context) -> expert_pb2.ExpertReply:
        answers = await self._port.predict(convert.expert_request_from_pb(request))
        return convert.expert_answers_to_pb(answers)

    async def try_gate(self, request: expert_pb2.TryGateRequest, context: Context) -> expert_pb2.TryGateReply:
        options = convert.trial_options_from_pb(request.options)
        trial = await self._port.try_gate(
            request.candidate, request.incumbent, options, request.specification
        )
        return convert.gate_trial_to_pb(trial)

    async def survey(self, request: expert_pb2.SurveyRequest, context: Context) -> expert_pb2.SurveyReply:
        return survey_to_pb(await self._port.survey(request.gate, request.specification))


class _Agent:
    def __init__(self, port: AgentPort) -> None:
        self._port = port

    async def train(
        self, request: agent_pb2.TrainRequest, context: Context
    ) -> AsyncIterator[agent_pb2.TrainProgress]:
        order = convert.train_order_from_pb(request)
        async for step in self._port.train(order):
            yield convert.train_step_to_pb(step)

    async def state(self, _: agent_pb2.AgentStateRequest, context: Context) -> agent_pb2.AgentStateReply:
        return convert.agent_state_to_pb(await self._port.state())

    async def leave(
        self, request: agent_pb2.AgentLeaveRequest, context: Context
    ) -> agent_pb2.AgentLeaveReply:
        version, experts = await self._port.leave(request.reason)
        return agent_pb2.AgentLeaveReply(gate_version=version, withdrawn_experts=experts)

    async def stop(self, _: agent_pb2.AgentStopRequest, context: Context) -> agent_pb2.AgentStopReply:
        await self._port.stop()
        return agent_pb2.AgentStopReply()


def expert_service(port: ExpertPort) -> Service:
    """Return `swarm.v1.Expert` over port."""
    on = _Expert(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.EXPERT_PREDICT: on.predict,
        m.TRY_GATE: on.try_gate,
        m.SURVEY: on.survey,
    }
    return Service("swarm.v1.Expert", behaviours)


def agent_service(port: AgentPort) -> Service:
    """Return `swarm.v1.Agent` over port; for a unix socket."""
    on = _Agent(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.TRAIN: on.train,
        m.STATE: on.state,
        m.AGENT_LEAVE: on.leave,
        m.STOP: on.stop,
    }
    return Service("swarm.v1.Agent", behaviours)
