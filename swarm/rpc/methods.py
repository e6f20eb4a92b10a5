"""Every method of the wire, once: its path, its messages, whether it streams, and the roles that may call it.

A test holds this table against the descriptors of `protos/`. A message type `bytes` travels raw, without
protobuf around it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar, get_args

from google.protobuf.message import DecodeError, Message

from swarm.domain.errors import InvalidInputError
from swarm.domain.members import Role
from swarm.rpc.message_fields import check_fields
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

Request = TypeVar("Request", bound=Message | bytes)
Reply = TypeVar("Reply", bound=Message | bytes)
Parsed = TypeVar("Parsed", bound=Message | bytes)
Roles = frozenset[Role]

EVERYONE: Final[Roles] = frozenset(get_args(Role))
NODE: Final[Roles] = frozenset({"node"})
OPERATOR: Final[Roles] = frozenset({"operator"})
ASKERS: Final[Roles] = frozenset({"node", "operator", "client"})
SAME_MACHINE: Final[Roles] = frozenset()
"""Nobody over TCP: served on a unix socket in a folder of mode 0700 only."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Reply]):
    """One remote procedure, `/<package>.<service>/<name>`."""

    service: str
    name: str
    request: type[Request]
    reply: type[Reply]
    roles: Roles
    streams_in: bool = False
    streams_out: bool = False
    package: str = "swarm.v1"

    def read_request(self, data: bytes) -> Request:
        """Return the request in data; InvalidInputError where it is none or holds too many fields."""
        return _parsed(self.request, data, self.path)

    def read_reply(self, data: bytes) -> Reply:
        """Return the reply in data; InvalidInputError where it is none or holds too many fields."""
        return _parsed(self.reply, data, self.path)

    @property
    def path(self) -> str:
        return f"/{self.full_service}/{self.name}"

    def passed_on(self) -> "Method[bytes, bytes]":
        """Return this method for who passes on encoded messages without reading them."""
        return replace(self, request=bytes, reply=bytes)  # type: ignore[arg-type,return-value]

    @property
    def full_service(self) -> str:
        return f"{self.package}.{self.service}"


def _parsed(kind: type[Parsed], data: bytes, path: str) -> Parsed:
    if kind is bytes:
        return data  # type: ignore[return-value]
    message: Any = kind
    check_fields(message, data, path.lstrip("/"))
    try:
        return message.FromString(data)  # type: ignore[no-any-return]
    except DecodeError as error:
        raise InvalidInputError(
            path.lstrip("/"), found="bytes that are no message", expected=kind.__name__
        ) from error


AnyMethod = Method[Any, Any]

STATUS = Method("Membership", "Status", membership_pb2.StatusRequest, membership_pb2.StatusReply, EVERYONE)
GET_PLACEMENT = Method(
    "Membership",
    "GetPlacement",
    membership_pb2.GetPlacementRequest,
    membership_pb2.GetPlacementReply,
    EVERYONE,
)
GET_RECORD = Method("Membership", "GetRecord", membership_pb2.GetRecordRequest, types_pb2.Signed, EVERYONE)
GET_SPECIFICATION = Method(
    "Membership", "GetSpecification", membership_pb2.GetSpecificationRequest, types_pb2.Signed, EVERYONE
)
GET_REVOCATIONS = Method(
    "Membership", "GetRevocations", membership_pb2.GetRevocationsRequest, types_pb2.Signed, EVERYONE
)
RENEW_CERTIFICATE = Method(
    "Membership",
    "RenewCertificate",
    membership_pb2.RenewCertificateRequest,
    membership_pb2.RenewCertificateReply,
    EVERYONE,
)
LEAVE = Method("Membership", "Leave", membership_pb2.LeaveRequest, membership_pb2.LeaveReply, NODE)
REVOKE_NODE = Method(
    "Membership", "RevokeNode", membership_pb2.RevokeNodeRequest, membership_pb2.LeaveReply, OPERATOR
)
CREATE_TOKEN = Method(
    "Membership", "CreateToken", membership_pb2.CreateTokenRequest, membership_pb2.CreateTokenReply, OPERATOR
)
CREATE_BEARER = Method(
    "Membership",
    "CreateBearer",
    membership_pb2.CreateBearerRequest,
    membership_pb2.CreateBearerReply,
    OPERATOR,
)
LIST_TOKENS = Method(
    "Membership", "ListTokens", membership_pb2.ListTokensRequest, membership_pb2.ListTokensReply, OPERATOR
)
REVOKE_TOKEN = Method(
    "Membership", "RevokeToken", membership_pb2.RevokeTokenRequest, membership_pb2.RevokeTokenReply, OPERATOR
)
EVENTS = Method(
    "Membership", "Events", membership_pb2.EventsRequest, types_pb2.Event, EVERYONE, streams_out=True
)

CONNECT = Method(
    "NodeStream",
    "Connect",
    node_stream_pb2.FromNode,
    node_stream_pb2.ToNode,
    NODE,
    streams_in=True,
    streams_out=True,
)

CONTRIBUTE = Method(
    "Gate", "Contribute", gate_pb2.ContributeChunk, gate_pb2.ContributeReply, NODE, streams_in=True
)
GET_CONTRIBUTION = Method(
    "Gate",
    "GetContribution",
    gate_pb2.GetContributionRequest,
    gate_pb2.ContributionChunk,
    NODE,
    streams_out=True,
)
GET_GATE = Method("Gate", "GetGate", gate_pb2.GetGateRequest, types_pb2.Signed, EVERYONE)
HISTORY = Method("Gate", "History", gate_pb2.GateHistoryRequest, gate_pb2.GateHistoryReply, EVERYONE)
ROLLBACK = Method("Gate", "Rollback", gate_pb2.RollbackRequest, types_pb2.Signed, OPERATOR)
FIT = Method("Gate", "Fit", gate_pb2.FitRequest, gate_pb2.ContributeReply, OPERATOR)

PROPOSE = Method("Growth", "Propose", growth_pb2.ProposeRequest, growth_pb2.Proposal, NODE | OPERATOR)
PROPOSALS = Method("Growth", "Proposals", growth_pb2.ProposalsRequest, growth_pb2.ProposalsReply, EVERYONE)
REPORT_GROWTH = Method("Growth", "Report", growth_pb2.ReportRequest, growth_pb2.Proposal, NODE)
CANCEL_GROWTH = Method("Growth", "Cancel", growth_pb2.CancelRequest, growth_pb2.Proposal, NODE | OPERATOR)
GROWTH_POLICY = Method("Growth", "Policy", growth_pb2.PolicyRequest, growth_pb2.PolicyReply, OPERATOR)
CARRY_OUT = Method(
    "Grower", "CarryOut", growth_pb2.GrowthOrder, growth_pb2.CarryOutReply, frozenset({"coordinator"})
)

PREDICT = Method("Inference", "Predict", inference_pb2.PredictRequest, inference_pb2.PredictReply, ASKERS)
MAKE_PROFILE = Method(
    "Inference", "MakeProfile", inference_pb2.ProfileRequest, inference_pb2.ProfileReply, ASKERS
)

RUN_FEDERATION = Method(
    "Federation",
    "Run",
    federation_pb2.RunFederationRequest,
    federation_pb2.FederationProgress,
    OPERATOR,
    streams_out=True,
)
FEDERATION_DELIVER = Method(
    "FederationClient",
    "Deliver",
    federation_pb2.FederationPart,
    federation_pb2.FederationPart,
    frozenset({"coordinator"}),
)

MISSING = Method(
    "Registry",
    "Missing",
    registry_pb2.MissingRequest,
    registry_pb2.MissingReply,
    frozenset({"node", "coordinator", "operator"}),
)
PUBLISH = Method(
    "Registry",
    "Publish",
    bytes,
    registry_pb2.PublishReply,
    frozenset({"node", "coordinator", "operator"}),
    streams_in=True,
)
UPLOAD_STATE = Method(
    "Registry",
    "UploadState",
    registry_pb2.UploadStateRequest,
    registry_pb2.UploadStateReply,
    frozenset({"node", "coordinator", "operator"}),
)
FETCH = Method("Registry", "Fetch", registry_pb2.BlobRequest, bytes, EVERYONE, streams_out=True)
OUTLINE = Method("Registry", "Outline", registry_pb2.OutlineRequest, registry_pb2.OutlineReply, EVERYONE)
HOLDER_FETCH = Method("Holder", "Fetch", registry_pb2.BlobRequest, bytes, EVERYONE, streams_out=True)
HOLDER_OUTLINE = Method("Holder", "Outline", registry_pb2.OutlineRequest, registry_pb2.OutlineReply, EVERYONE)
PUBLISH_DELTA = Method(
    "Registry", "PublishDelta", bytes, registry_pb2.PublishReply, PUBLISH.roles, streams_in=True
)
FETCH_DELTA = Method(
    "Registry", "FetchDelta", registry_pb2.DeltaRequest, bytes, FETCH.roles, streams_out=True
)
COMMIT = Method(
    "Registry",
    "Commit",
    registry_pb2.CommitRequest,
    registry_pb2.CommitReply,
    frozenset({"node", "coordinator"}),
)
ANNOUNCE = Method(
    "Registry",
    "Announce",
    registry_pb2.AnnounceRequest,
    registry_pb2.AnnounceReply,
    frozenset({"node", "coordinator"}),
)
HEADS = Method("Registry", "Heads", registry_pb2.HeadsRequest, registry_pb2.HeadsReply, EVERYONE)
GET_MANIFEST = Method("Registry", "GetManifest", registry_pb2.GetManifestRequest, types_pb2.Signed, EVERYONE)
WITHDRAW = Method(
    "Registry",
    "Withdraw",
    registry_pb2.WithdrawRequest,
    registry_pb2.WithdrawReply,
    frozenset({"node", "coordinator", "operator"}),
)
LINEAGE = Method("Registry", "Lineage", registry_pb2.LineageRequest, registry_pb2.LineageReply, EVERYONE)
COLLECT = Method("Registry", "Collect", registry_pb2.CollectRequest, registry_pb2.CollectReply, OPERATOR)
BRING_BACK = Method(
    "Registry",
    "BringBack",
    registry_pb2.BringBackRequest,
    registry_pb2.BringBackReply,
    frozenset({"node", "coordinator"}),
)
REBUILD = Method("Registry", "Rebuild", registry_pb2.RebuildRequest, registry_pb2.RebuildReply, OPERATOR)
HEALTH = Method(
    "Registry", "Health", registry_pb2.RegistryHealthRequest, registry_pb2.RegistryHealthReply, EVERYONE
)

EXPERT_PREDICT = Method(
    "Expert",
    "Predict",
    expert_pb2.ExpertRequest,
    expert_pb2.ExpertReply,
    ASKERS | {"coordinator"},
)
TRY_GATE = Method(
    "Expert", "TryGate", expert_pb2.TryGateRequest, expert_pb2.TryGateReply, frozenset({"coordinator"})
)
SURVEY = Method(
    "Expert", "Survey", expert_pb2.SurveyRequest, expert_pb2.SurveyReply, frozenset({"coordinator"})
)

TRAIN = Method(
    "Agent", "Train", agent_pb2.TrainRequest, agent_pb2.TrainProgress, SAME_MACHINE, streams_out=True
)
STATE = Method("Agent", "State", agent_pb2.AgentStateRequest, agent_pb2.AgentStateReply, SAME_MACHINE)
AGENT_LEAVE = Method("Agent", "Leave", agent_pb2.AgentLeaveRequest, agent_pb2.AgentLeaveReply, SAME_MACHINE)
STOP = Method("Agent", "Stop", agent_pb2.AgentStopRequest, agent_pb2.AgentStopReply, SAME_MACHINE)

METHODS: Final[tuple[AnyMethod, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Method)
)
_INFRASTRUCTURE = {
    "/grpc.health.v1.Health/Check": EVERYONE,
    "/grpc.health.v1.Health/Watch": EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": EVERYONE,
}
ROLES: Final[Mapping[str, Roles]] = {method.path: method.roles for method in METHODS} | _INFRASTRUCTURE
"""Who may call what of `swarm.v1`, health and reflection."""
