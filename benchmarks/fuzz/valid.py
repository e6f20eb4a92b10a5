"""A valid request of every method, made anew for each message, so that what is mutated would be accepted."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from google.protobuf.message import Message

from benchmarks.fuzz.world import World
from swarm.digests import digest_of
from swarm.domain.agent import TrainOrder
from swarm.domain.gates import GateStatement
from swarm.domain.ids import SwarmId, leaf_of
from swarm.domain.inference import ExpertRequest, ExpertTask
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.modules.deltas import delta_pieces
from swarm.rpc import convert
from swarm.rpc import methods as m
from swarm.rpc.convert.agent import train_order_to_pb
from swarm.rpc.convert.tensors import set_tensor
from swarm.rpc.methods import METHODS, AnyMethod
from swarm.rpc.open_inference import methods as public
from swarm.rpc.open_inference.methods import OPEN_INFERENCE_METHODS
from swarm.rpc.options import DELTA_PARENT_KEY, DIGEST_KEY, OFFSET_KEY, SIZE_KEY
from swarm.rpc.pb import (
    agent_pb2,
    expert_pb2,
    federation_pb2,
    gate_pb2,
    growth_pb2,
    inference_pb2,
    membership_pb2,
    node_stream_pb2,
    registry_pb2,
    types_pb2,
)
from swarm.rpc.pb import open_inference_pb2 as pb
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement
from tests.support.coordinator import samples

COMPUTING: Final = frozenset(
    {m.FIT, m.ROLLBACK, m.CONTRIBUTE, m.MAKE_PROFILE, m.COLLECT, m.REBUILD, m.RUN_FEDERATION}
)
"""One call of these at a time: each may take seconds, and the others go on meanwhile."""
Metadata = tuple[tuple[str, str], ...]

SELDOM: Final[dict[AnyMethod, float]] = {
    m.FIT: 0.002, m.ROLLBACK: 0.01, m.CONTRIBUTE: 0.1, m.COLLECT: 0.005, m.REBUILD: 0.005,
    m.RUN_FEDERATION: 0.05, m.MAKE_PROFILE: 0.1, m.PREDICT: 0.3, m.CREATE_TOKEN: 0.05, m.LIST_TOKENS: 0.1,
    m.CONNECT: 0.2, m.EVENTS: 0.2, m.RENEW_CERTIFICATE: 0.1, m.PROPOSE: 0.5, m.TRY_GATE: 0.3, m.SURVEY: 0.3,
    m.STATUS: 0.3, m.HEALTH: 0.3, m.LEAVE: 0.05, m.REVOKE_NODE: 0.3, m.STOP: 0.1, m.STATE: 0.1,
}  # fmt: skip
"""How often a method is called beside the others: what computes for long, or changes the swarm, less."""


@dataclass(frozen=True, slots=True)
class Made:
    """A call's messages (protobuf, or bytes), its metadata, and where a statement may be forged."""

    parts: list[Any]
    metadata: Metadata = ()
    envelope: Callable[[], tuple[bytes, Callable[[bytes], None], Signer]] | None = None


class Requests:
    """Makes requests; `version` is the head of the attacker's expert."""

    def __init__(self, world: World, base: Manifest, contribution: tuple[bytes, bytes], gate: bytes) -> None:
        self.world, self._base, self._contribution, self._gate = world, base, contribution, gate
        self.version = base.version
        self.gate_version = read_statement(gate, GateStatement).value.version
        self._specification = b""
        self._makers = _makers(self)

    @classmethod
    async def of(cls, world: World) -> "Requests":
        mal = world.mal
        base = read_statement(await mal.registry.manifest(expert=mal.expert), Manifest).value
        found = cls(world, base, await mal.contribution(), await mal.coordinator.gate())
        found._specification = await mal.coordinator.specification()
        return found

    @property
    def methods(self) -> tuple[AnyMethod, ...]:
        everything = (*METHODS, *OPEN_INFERENCE_METHODS)
        return tuple(method for method in everything if method in self._makers)

    def make(self, method: AnyMethod) -> Made:
        made = self._makers[method]()
        for part in made.parts:
            if isinstance(part, Message) and "idempotency_key" in part.DESCRIPTOR.fields_by_name:
                part.idempotency_key = uuid.uuid4().hex  # type: ignore[attr-defined]
        return made

    async def follow_head(self) -> None:
        """Look where the attacker's head is now."""
        head = await self.world.mal.registry.heads("mal")
        self.version = max(
            (each.version for each in head if each.expert == self._base.expert), default=self.version
        )

    def _next(self) -> bytes:
        value = replace(self._base, version=self.version + 1, parent_version=self.version)
        return sign_statement(value, self.world.mal.identity.required_signer())

    def _forgeable(self, message: Any, name: str, signer: Signer) -> Callable[[], Any]:
        def found() -> tuple[bytes, Callable[[bytes], None], Signer]:
            return getattr(message, name), lambda data: setattr(message, name, data), signer

        return found

    def commit(self) -> Made:
        message = registry_pb2.CommitRequest(envelope=self._next(), fence=self.world.mal.fence)
        signer = self.world.mal.identity.required_signer()
        return Made([message], envelope=self._forgeable(message, "envelope", signer))

    def announce(self) -> Made:
        message = registry_pb2.AnnounceRequest(envelopes=[self._next()], fence=self.world.mal.fence)

        def put(data: bytes) -> None:
            message.envelopes[0] = data

        signer = self.world.mal.identity.required_signer()
        return Made([message], envelope=lambda: (message.envelopes[0], put, signer))

    def withdraw(self) -> Made:
        quitter = self.world.quitter
        value = Tombstone(
            swarm=SwarmId("plants"), kind="expert", id=quitter.expert, reason="old", created_at=1.0
        )
        signer = quitter.identity.required_signer()
        message = registry_pb2.WithdrawRequest(tombstone=sign_statement(value, signer), fence=quitter.fence)
        return Made([message], envelope=self._forgeable(message, "tombstone", signer))

    def contribute(self) -> Made:
        envelope, arrays = self._contribution
        header = gate_pb2.ContributeHeader(
            envelope=envelope, fence=self.world.mal.fence, idempotency_key=uuid.uuid4().hex
        )
        first = gate_pb2.ContributeChunk(header=header)
        signer = self.world.mal.identity.required_signer()
        found = self._forgeable(first.header, "envelope", signer)
        return Made([first, gate_pb2.ContributeChunk(data=arrays)], envelope=found)

    def publish(self) -> Made:
        data = uuid.uuid4().bytes * 4
        return Made([data], metadata=(*_announced(data), (OFFSET_KEY, "0")))

    def publish_delta(self) -> Made:
        parent = self.world.blob
        data = uuid.uuid4().bytes + parent[16:]
        metadata = (*_announced(data), (DELTA_PARENT_KEY, digest_of(parent)))
        return Made(list(delta_pieces(data, parent, 4)), metadata=metadata)

    def bring_back(self) -> Made:
        message = registry_pb2.BringBackRequest(envelopes=[self._next()], fence=self.world.mal.fence)

        def put(data: bytes) -> None:
            message.envelopes[0] = data

        signer = self.world.mal.identity.required_signer()
        return Made([message], envelope=lambda: (message.envelopes[0], put, signer))

    def connect(self) -> Made:
        signer = self.world.streamer.required_signer()
        value = replace(
            self._base,
            owner=self.world.streamer.id,
            expert="streamer.e0",
            leaf=leaf_of(self.world.streamer.id, 0),  # type: ignore[arg-type]
        )
        hello = node_stream_pb2.Hello(
            can_build=["linear"], manifests=[sign_statement(value, signer)], served=[self.world.manifest],
            software="0",
        )  # fmt: skip
        first = node_stream_pb2.FromNode(hello=hello)
        beat = node_stream_pb2.Heartbeat(fence=1, activity="idle", served=[self.world.manifest])
        problem = types_pb2.Problem(code="not_found", subject="x")

        def put(data: bytes) -> None:
            first.hello.manifests[0] = data

        parts = [
            first,
            node_stream_pb2.FromNode(heartbeat=beat),
            node_stream_pb2.FromNode(reply=node_stream_pb2.CallReply(call_id="1", problem=problem)),
        ]
        return Made(parts, envelope=lambda: (first.hello.manifests[0], put, signer))

    def predict(self) -> Made:
        inputs = np.concatenate([samples("a", 1, 9), samples("c", 1, 9)])
        message = inference_pb2.PredictRequest(explain=True, top_k=2)
        set_tensor(message.inputs, inputs, "inputs")
        return Made([message])

    def profile(self) -> Made:
        inputs = np.concatenate([samples("a", 2, 9), samples("b", 2, 9)])
        message = inference_pb2.ProfileRequest(labels=["a", "a", "b", "b"])
        set_tensor(message.inputs, inputs, "inputs")
        return Made([message])

    def ask_expert(self) -> Made:
        world = self.world
        request = ExpertRequest(
            inputs=samples("a", 3, 1),
            tasks=(
                ExpertTask(
                    expert=world.expert.expert,
                    manifest=world.manifest,
                    rows=np.arange(3),
                    form="probabilities",
                ),
            ),
            trunk=world.expert.trunk,
            gate_version=1,
        )
        return Made([convert.expert_request_to_pb(request)])

    def try_gate(self) -> Made:
        option = expert_pb2.TrialOption(
            combination=expert_pb2.Combination(
                name="root", temperature=1.0, top_k=1, strength=1.0, class_temperature=0.1
            )
        )
        message = expert_pb2.TryGateRequest(
            candidate=self._gate, incumbent=self._gate, options=[option], specification=self._specification
        )
        signer = self.world.coordinator_identity.required_signer()
        return Made([message], envelope=self._forgeable(message, "candidate", signer))

    def survey(self) -> Made:
        message = expert_pb2.SurveyRequest(gate=self._gate, specification=self._specification)
        signer = self.world.coordinator_identity.required_signer()
        return Made([message], envelope=self._forgeable(message, "specification", signer))

    def renew(self) -> Made:
        return Made([membership_pb2.RenewCertificateRequest(csr_pem=self.world.mal.identity.renewal_csr())])


def _announced(data: bytes) -> Metadata:
    return (DIGEST_KEY, digest_of(data)), (SIZE_KEY, str(len(data)))


def _makers(on: Requests) -> dict[AnyMethod, Callable[[], Made]]:
    blob, stored, held = digest_of(b"nothing"), digest_of(on.world.blob), on.world.expert.blobs()[0]

    def plain(make: Callable[[], Message]) -> Callable[[], Made]:
        return lambda: Made([make()])

    return {
        m.STATUS: plain(membership_pb2.StatusRequest),
        m.GET_PLACEMENT: plain(membership_pb2.GetPlacementRequest),
        m.GET_RECORD: plain(lambda: membership_pb2.GetRecordRequest(id="ada")),
        m.GET_SPECIFICATION: plain(lambda: membership_pb2.GetSpecificationRequest(version=1)),
        m.GET_REVOCATIONS: plain(membership_pb2.GetRevocationsRequest),
        m.RENEW_CERTIFICATE: on.renew,
        m.LEAVE: plain(lambda: membership_pb2.LeaveRequest(reason="moves")),
        m.REVOKE_NODE: plain(lambda: membership_pb2.RevokeNodeRequest(node="nobody", reason="lost")),
        m.CREATE_TOKEN: plain(lambda: membership_pb2.CreateTokenRequest(role="node", uses=1, lifetime_s=60)),
        m.CREATE_BEARER: plain(lambda: membership_pb2.CreateBearerRequest(holder="app", lifetime_s=60)),
        m.LIST_TOKENS: plain(membership_pb2.ListTokensRequest),
        m.REVOKE_TOKEN: plain(lambda: membership_pb2.RevokeTokenRequest(id="t1")),
        m.EVENTS: plain(lambda: membership_pb2.EventsRequest(after="1-0", follow=True, limit=2)),
        m.CONNECT: on.connect,
        m.CONTRIBUTE: on.contribute,
        m.GET_CONTRIBUTION: plain(lambda: gate_pb2.GetContributionRequest(digest=blob)),
        m.GET_GATE: plain(lambda: gate_pb2.GetGateRequest(version=on.gate_version)),
        m.HISTORY: plain(lambda: gate_pb2.GateHistoryRequest(before=2, limit=2)),
        m.ROLLBACK: plain(lambda: gate_pb2.RollbackRequest(version=on.gate_version)),
        m.FIT: plain(gate_pb2.FitRequest),
        m.PROPOSE: plain(
            lambda: growth_pb2.ProposeRequest(
                kind="split", experts=["mal.e0"], options={"gate": "means", "steps": "5"}
            )
        ),
        m.PROPOSALS: plain(lambda: growth_pb2.ProposalsRequest(proposal="p1")),
        m.REPORT_GROWTH: plain(lambda: growth_pb2.ReportRequest(proposal="p1", stage="started", reason="r")),
        m.CANCEL_GROWTH: plain(lambda: growth_pb2.CancelRequest(proposal="p1")),
        m.GROWTH_POLICY: plain(lambda: growth_pb2.PolicyRequest(policy="manual")),
        m.CARRY_OUT: plain(
            lambda: growth_pb2.GrowthOrder(
                proposal="p1", kind="split", experts=["ada.e0"], gate_version=1, before=blob,
                options={"gate": "learned"},
            )
        ),
        m.PREDICT: on.predict,
        m.MAKE_PROFILE: on.profile,
        m.RUN_FEDERATION: plain(
            lambda: federation_pb2.RunFederationRequest(app="kmeans", options={"k": "none", "rounds": "2"})
        ),
        m.FEDERATION_DELIVER: plain(
            lambda: federation_pb2.FederationPart(
                run="r1", message="m1", part=1, parts=4, data=b"data", app="kmeans"
            )
        ),
        m.MISSING: plain(lambda: registry_pb2.MissingRequest(digests=[blob])),
        m.PUBLISH: on.publish,
        m.UPLOAD_STATE: plain(lambda: registry_pb2.UploadStateRequest(digest=blob)),
        m.FETCH: plain(lambda: registry_pb2.BlobRequest(digest=stored, offset=1, length=9)),
        m.OUTLINE: plain(lambda: registry_pb2.OutlineRequest(digest=stored)),
        m.HOLDER_FETCH: plain(lambda: registry_pb2.BlobRequest(digest=held, offset=1, length=9)),
        m.HOLDER_OUTLINE: plain(lambda: registry_pb2.OutlineRequest(digest=held)),
        m.PUBLISH_DELTA: on.publish_delta,
        m.FETCH_DELTA: plain(lambda: registry_pb2.DeltaRequest(digest=stored, parent=stored, width=4)),
        m.COMMIT: on.commit,
        m.ANNOUNCE: on.announce,
        m.HEADS: plain(lambda: registry_pb2.HeadsRequest(owner="ada")),
        m.GET_MANIFEST: plain(lambda: registry_pb2.GetManifestRequest(expert="ada.e0", version=1)),
        m.WITHDRAW: on.withdraw,
        m.LINEAGE: plain(lambda: registry_pb2.LineageRequest(expert="ada.e0")),
        m.COLLECT: plain(lambda: registry_pb2.CollectRequest(dry_run=True)),
        m.BRING_BACK: on.bring_back,
        m.REBUILD: plain(registry_pb2.RebuildRequest),
        m.HEALTH: plain(registry_pb2.RegistryHealthRequest),
        m.EXPERT_PREDICT: on.ask_expert,
        m.TRY_GATE: on.try_gate,
        m.SURVEY: on.survey,
        m.TRAIN: plain(lambda: train_order_to_pb(TrainOrder(data="digits", idempotency_key="k"))),
        m.STATE: plain(agent_pb2.AgentStateRequest),
        m.AGENT_LEAVE: plain(lambda: agent_pb2.AgentLeaveRequest(reason="moves")),
        m.STOP: plain(agent_pb2.AgentStopRequest),
        **_open_inference(),
    }  # fmt: skip


def _open_inference() -> dict[AnyMethod, Callable[[], Made]]:
    """Return a maker for each method of the public protocol."""
    by_name = {"name": "ada.e0", "version": "1"}
    plain: dict[AnyMethod, Callable[[], Message]] = {
        public.SERVER_LIVE: pb.ServerLiveRequest,
        public.SERVER_READY: pb.ServerReadyRequest,
        public.MODEL_READY: lambda: pb.ModelReadyRequest(**by_name),
        public.SERVER_METADATA: pb.ServerMetadataRequest,
        public.MODEL_METADATA: lambda: pb.ModelMetadataRequest(**by_name),
        public.MODEL_CONFIG: lambda: pb.ModelConfigRequest(**by_name),
        public.MODEL_STATISTICS: lambda: pb.ModelStatisticsRequest(**by_name),
        public.REPOSITORY_INDEX: lambda: pb.RepositoryIndexRequest(ready=True),
        public.MODEL_INFER: lambda: _infer(is_raw=True),
        public.MODEL_STREAM_INFER: lambda: _infer(is_raw=False),
    }

    def made(make: Callable[[], Message]) -> Callable[[], Made]:
        return lambda: Made([make()])

    return {method: made(make) for method, make in plain.items()}


def _infer(*, is_raw: bool) -> pb.ModelInferRequest:
    values = samples("a", 1, 3)
    message = pb.ModelInferRequest(model_name="swarm", id="1", outputs=[{"name": "probabilities"}])
    message.parameters["top_k"].int64_param = 1
    tensor = message.inputs.add(name="inputs", datatype="FP32", shape=values.shape)
    if is_raw:
        message.raw_input_contents.append(values.tobytes())
    else:
        tensor.contents.fp32_contents.extend(values.ravel().tolist())
    return message
