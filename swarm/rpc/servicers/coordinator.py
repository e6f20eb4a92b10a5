"""The coordinator's services: membership, gate, inference."""

from collections.abc import AsyncIterator, Callable

from swarm.domain.errors import ExhaustedError, InvalidInputError
from swarm.domain.ids import digest, node_id
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.callers import current_caller
from swarm.rpc.convert.scalars import finite, role
from swarm.rpc.interceptors import Admission, Behaviour, Context, time_left
from swarm.rpc.options import CHUNK_BYTES, MAX_CONTRIBUTION_BYTES
from swarm.rpc.pb import gate_pb2, inference_pb2, membership_pb2, types_pb2
from swarm.rpc.ports import GatePort, InferencePort, MembershipPort
from swarm.rpc.server import Service


class _Membership:
    def __init__(self, port: MembershipPort) -> None:
        self._port = port

    async def status(self, _: membership_pb2.StatusRequest, context: Context) -> membership_pb2.StatusReply:
        return convert.status_to_pb(await self._port.status())

    async def placement(
        self, request: membership_pb2.GetPlacementRequest, context: Context
    ) -> membership_pb2.GetPlacementReply:
        return convert.placed_to_pb(await self._port.placement(), request.known)

    async def record(self, request: membership_pb2.GetRecordRequest, context: Context) -> types_pb2.Signed:
        return types_pb2.Signed(envelope=await self._port.record(node_id(request.id)))

    async def specification(
        self, request: membership_pb2.GetSpecificationRequest, context: Context
    ) -> types_pb2.Signed:
        return types_pb2.Signed(envelope=await self._port.specification(request.version))

    async def revocations(
        self, _: membership_pb2.GetRevocationsRequest, context: Context
    ) -> types_pb2.Signed:
        return types_pb2.Signed(envelope=await self._port.revocations())

    async def renew(
        self, request: membership_pb2.RenewCertificateRequest, context: Context
    ) -> membership_pb2.RenewCertificateReply:
        key = convert.idempotency_key(request.idempotency_key)
        pem = await self._port.renew_certificate(current_caller(), request.csr_pem, key)
        return membership_pb2.RenewCertificateReply(certificate_pem=pem)

    async def leave(
        self, request: membership_pb2.LeaveRequest, context: Context
    ) -> membership_pb2.LeaveReply:
        key = convert.idempotency_key(request.idempotency_key)
        version, experts = await self._port.leave(current_caller().id, request.reason, key)
        return membership_pb2.LeaveReply(gate_version=version, withdrawn_experts=experts)

    async def revoke_node(
        self, request: membership_pb2.RevokeNodeRequest, context: Context
    ) -> membership_pb2.LeaveReply:
        key = convert.idempotency_key(request.idempotency_key)
        version, experts = await self._port.revoke(node_id(request.node), request.reason, key)
        return membership_pb2.LeaveReply(gate_version=version, withdrawn_experts=experts)

    async def create_token(
        self, request: membership_pb2.CreateTokenRequest, context: Context
    ) -> membership_pb2.CreateTokenReply:
        key = convert.idempotency_key(request.idempotency_key)
        lifetime_s = finite(request.lifetime_s, "lifetime_s")
        if request.uses < 1 or lifetime_s <= 0:
            raise InvalidInputError(
                "token", found=f"{request.uses} uses for {lifetime_s:g} s", expected="at least one, above 0 s"
            )
        line, token = await self._port.create_token(role(request.role), request.uses, lifetime_s, key)
        return membership_pb2.CreateTokenReply(join_line=line, token=convert.token_to_pb(token))

    async def create_bearer(
        self, request: membership_pb2.CreateBearerRequest, context: Context
    ) -> membership_pb2.CreateBearerReply:
        key = convert.idempotency_key(request.idempotency_key)
        lifetime_s = finite(request.lifetime_s, "lifetime_s")
        token, view = await self._port.create_bearer(node_id(request.holder), lifetime_s, key)
        return membership_pb2.CreateBearerReply(token=token, view=convert.token_to_pb(view))

    async def tokens(
        self, _: membership_pb2.ListTokensRequest, context: Context
    ) -> membership_pb2.ListTokensReply:
        tokens = await self._port.tokens()
        return membership_pb2.ListTokensReply(tokens=[convert.token_to_pb(token) for token in tokens])

    async def revoke_token(
        self, request: membership_pb2.RevokeTokenRequest, context: Context
    ) -> membership_pb2.RevokeTokenReply:
        key = convert.idempotency_key(request.idempotency_key)
        await self._port.revoke_token(request.id, key)
        return membership_pb2.RevokeTokenReply()

    async def events(
        self, request: membership_pb2.EventsRequest, context: Context
    ) -> AsyncIterator[types_pb2.Event]:
        async for event in self._port.events(request.after, request.follow, request.limit):
            yield convert.event_to_pb(event)


class _Gate:
    def __init__(self, port: GatePort) -> None:
        self._port = port

    async def contribute(
        self, chunks: AsyncIterator[gate_pb2.ContributeChunk], context: Context
    ) -> gate_pb2.ContributeReply:
        first = await anext(aiter(chunks), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInputError("contribution", found="no header", expected="the header first")
        header = first.header
        key = convert.idempotency_key(header.idempotency_key)
        outcome = await self._port.contribute(
            current_caller(), header.envelope, _data_of(chunks), header.fence, key
        )
        return convert.outcome_to_pb(outcome)

    async def contribution(
        self, request: gate_pb2.GetContributionRequest, context: Context
    ) -> AsyncIterator[gate_pb2.ContributionChunk]:
        envelope, arrays = await self._port.contribution(current_caller(), digest(request.digest))
        yield gate_pb2.ContributionChunk(envelope=envelope)
        for start in range(0, len(arrays), CHUNK_BYTES):
            yield gate_pb2.ContributionChunk(data=bytes(arrays[start : start + CHUNK_BYTES]))

    async def gate(self, request: gate_pb2.GetGateRequest, context: Context) -> types_pb2.Signed:
        return types_pb2.Signed(envelope=await self._port.gate(request.version))

    async def history(
        self, request: gate_pb2.GateHistoryRequest, context: Context
    ) -> gate_pb2.GateHistoryReply:
        found = await self._port.history(request.before, request.limit)
        signed = [types_pb2.Signed(envelope=envelope) for envelope in found.envelopes]
        return gate_pb2.GateHistoryReply(gates=signed, current=found.current, oldest=found.oldest)

    async def rollback(self, request: gate_pb2.RollbackRequest, context: Context) -> types_pb2.Signed:
        key = convert.idempotency_key(request.idempotency_key)
        return types_pb2.Signed(envelope=await self._port.rollback(request.version, key))

    async def fit(self, request: gate_pb2.FitRequest, context: Context) -> gate_pb2.ContributeReply:
        key = convert.idempotency_key(request.idempotency_key)
        return convert.outcome_to_pb(await self._port.fit(key))


class _Inference:
    def __init__(self, port: InferencePort) -> None:
        self._port = port

    async def predict(
        self, request: inference_pb2.PredictRequest, context: Context
    ) -> inference_pb2.PredictReply:
        query = convert.query_from_pb(request)
        return convert.answer_to_pb(await self._port.predict(query, time_left(context)))

    async def make_profile(
        self, request: inference_pb2.ProfileRequest, context: Context
    ) -> inference_pb2.ProfileReply:
        convert.idempotency_key(request.idempotency_key)
        examples = convert.examples_from_pb(request)
        profile = await self._port.make_profile(current_caller(), examples, time_left(context))
        return convert.profile_to_pb(profile)


async def _data_of(chunks: AsyncIterator[gate_pb2.ContributeChunk]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        if chunk.WhichOneof("part") != "data":
            raise InvalidInputError("contribution", found="a second header", expected="data")
        size += len(chunk.data)
        if size > MAX_CONTRIBUTION_BYTES:
            raise ExhaustedError(
                "contribution", found="more than 256 MiB", expected="fewer leaves or compact sums"
            )
        yield chunk.data


def membership_service(port: MembershipPort) -> Service:
    """Return `swarm.v1.Membership` over port."""
    on = _Membership(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.STATUS: on.status,
        m.GET_PLACEMENT: on.placement,
        m.GET_RECORD: on.record,
        m.GET_SPECIFICATION: on.specification,
        m.GET_REVOCATIONS: on.revocations,
        m.RENEW_CERTIFICATE: on.renew,
        m.LEAVE: on.leave,
        m.REVOKE_NODE: on.revoke_node,
        m.CREATE_TOKEN: on.create_token,
        m.CREATE_BEARER: on.create_bearer,
        m.LIST_TOKENS: on.tokens,
        m.REVOKE_TOKEN: on.revoke_token,
        m.EVENTS: on.events,
    }
    return Service("swarm.v1.Membership", behaviours)


def gate_service(port: GatePort) -> Service:
    """Return `swarm.v1.Gate` over port."""
    on = _Gate(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {
        m.CONTRIBUTE: on.contribute,
        m.GET_CONTRIBUTION: on.contribution,
        m.GET_GATE: on.gate,
        m.HISTORY: on.history,
        m.ROLLBACK: on.rollback,
        m.FIT: on.fit,
    }
    return Service("swarm.v1.Gate", behaviours)


def inference_service(
    port: InferencePort,
    admission: Admission | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> Service:
    """Return `swarm.v1.Inference` over port; `admission` may refuse a caller before its query is read, and
    `is_ready` is what health says of it."""
    on = _Inference(port)
    behaviours: dict[m.AnyMethod, Behaviour] = {m.PREDICT: on.predict, m.MAKE_PROFILE: on.make_profile}
    admissions = dict.fromkeys(behaviours, admission) if admission is not None else {}
    return Service("swarm.v1.Inference", behaviours, admissions, is_ready)
