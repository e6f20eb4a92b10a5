"""The Open Inference Protocol over gRPC: converts, asks the port, converts back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from swarm import __version__
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.open_inference import PROTOCOL_EXTENSIONS
from swarm.rpc.interceptors import Admission, Behaviour, Context, time_left
from swarm.rpc.methods import Method
from swarm.rpc.open_inference import messages
from swarm.rpc.open_inference import methods as m
from swarm.rpc.open_inference.side_by_side import in_order
from swarm.rpc.pb import open_inference_pb2 as pb
from swarm.rpc.ports import OpenInferencePort
from swarm.rpc.server import Service

SERVER_NAME = "swarm"
_FINAL = "triton_enable_empty_final_response"
"""Streaming clients ask with it to be told that a request has its last response: each has exactly one."""


STREAM_AT_ONCE: Final = 8
"""So many requests of one stream are worked on at once. One of some MiB counts as so many more."""


class _OpenInference:
    def __init__(self, port: OpenInferencePort) -> None:
        self._port = port

    async def server_live(self, _: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._port.is_ready())

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            found = await self._port.standing(request.name, request.version)
        except NotFoundError:  # of what is not there the protocol expects "no", and no error
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=found.is_ready)

    async def server_metadata(
        self, _: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=PROTOCOL_EXTENSIONS
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        return messages.metadata_to_pb(await self._port.model(request.name, request.version))

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return messages.config_to_pb(await self._port.model(request.name, request.version))

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        return messages.statistics_to_pb(self._port.statistics(request.name, request.version))

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        return messages.index_to_pb(self._port.index(only_ready=request.ready))

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        return await self._infer(request, context)

    async def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer the requests in their order, some worked on at once; a wrong one is answered by its error,
        and the stream goes on."""

        async def answered(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                found = await self._infer(request, context)
            except SwarmError as error:
                return pb.ModelStreamInferResponse(
                    error_message=str(error), infer_response=pb.ModelInferResponse(id=request.id)
                )
            if request.parameters[_FINAL].bool_param:
                found.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=found)

        async with aclosing(in_order(requests, answered, room=STREAM_AT_ONCE, size=_size)) as answers:
            async for answer in answers:
                yield answer

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        read = messages.request_from_pb(request)
        result = await self._port.infer(read, time_left(context))
        is_raw = not any(tensor.HasField("contents") for tensor in request.inputs)
        return messages.result_to_pb(result, is_raw=is_raw)


def _size(request: pb.ModelInferRequest) -> int:
    return 1 + (request.ByteSize() >> 20)


def open_inference_service(port: OpenInferencePort, admission: Admission | None = None) -> Service:
    """Return `inference.GRPCInferenceService` over port; `admission` may refuse whoever asks for an answer
    before the request is read."""
    on = _OpenInference(port)
    behaviours: dict[Method[Any, Any], Behaviour] = {
        m.SERVER_LIVE: on.server_live,
        m.SERVER_READY: on.server_ready,
        m.MODEL_READY: on.model_ready,
        m.SERVER_METADATA: on.server_metadata,
        m.MODEL_METADATA: on.model_metadata,
        m.MODEL_INFER: on.model_infer,
        m.MODEL_STREAM_INFER: on.model_stream_infer,
        m.MODEL_CONFIG: on.model_config,
        m.MODEL_STATISTICS: on.model_statistics,
        m.REPOSITORY_INDEX: on.repository_index,
    }
    asking: tuple[Method[Any, Any], ...] = (m.MODEL_INFER, m.MODEL_STREAM_INFER)
    admissions = dict.fromkeys(asking, admission) if admission is not None else {}
    return Service(f"inference.{m.SERVICE}", behaviours, admissions, port.is_ready)
