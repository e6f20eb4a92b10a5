"""The methods of the Open Inference Protocol that are served, and who may call them over mutual TLS."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from swarm.rpc.methods import ASKERS, EVERYONE, Method, Roles
from swarm.rpc.pb import open_inference_pb2 as pb

SERVICE: Final = "GRPCInferenceService"
Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


def _method(
    name: str, request: type[Request], reply: type[Reply], roles: Roles, *, streams: bool = False
) -> Method[Request, Reply]:
    return Method(
        SERVICE, name, request, reply, roles, streams_in=streams, streams_out=streams, package="inference"
    )


SERVER_LIVE = _method("ServerLive", pb.ServerLiveRequest, pb.ServerLiveResponse, EVERYONE)
SERVER_READY = _method("ServerReady", pb.ServerReadyRequest, pb.ServerReadyResponse, EVERYONE)
MODEL_READY = _method("ModelReady", pb.ModelReadyRequest, pb.ModelReadyResponse, ASKERS)
SERVER_METADATA = _method("ServerMetadata", pb.ServerMetadataRequest, pb.ServerMetadataResponse, ASKERS)
MODEL_METADATA = _method("ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse, ASKERS)
MODEL_INFER = _method("ModelInfer", pb.ModelInferRequest, pb.ModelInferResponse, ASKERS)
MODEL_STREAM_INFER = _method(
    "ModelStreamInfer", pb.ModelInferRequest, pb.ModelStreamInferResponse, ASKERS, streams=True
)
MODEL_CONFIG = _method("ModelConfig", pb.ModelConfigRequest, pb.ModelConfigResponse, ASKERS)
MODEL_STATISTICS = _method("ModelStatistics", pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, ASKERS)
REPOSITORY_INDEX = _method("RepositoryIndex", pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, ASKERS)

OPEN_INFERENCE_METHODS: Final[tuple[Method[Any, Any], ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Method)
)
OPEN_INFERENCE_ROLES: Final[Mapping[str, Roles]] = {
    method.path: method.roles for method in OPEN_INFERENCE_METHODS
}
