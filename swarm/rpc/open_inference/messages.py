"""The Open Inference Protocol's messages to the domain's types and back. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarm.domain.errors import InvalidInputError
from swarm.domain.open_inference import (
    Datatype,
    Durations,
    InferRequest,
    InferResult,
    ModelDescription,
    ModelStanding,
    ModelStatistics,
    OfferedTensor,
    OutputTensor,
    Parameter,
    Parameters,
    RequestedOutput,
    TensorMetadata,
)
from swarm.rpc.open_inference.tensors import raw_of
from swarm.rpc.pb import open_inference_pb2 as pb

_CONFIG_TYPES: Mapping[Datatype, pb.DataType] = {
    "FP32": pb.TYPE_FP32,
    "UINT8": pb.TYPE_UINT8,
    "BYTES": pb.TYPE_STRING,
}
_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}


def request_from_pb(message: pb.ModelInferRequest) -> InferRequest:
    """Return the request, its tensors unread; InvalidInputError where raw contents do not fit the inputs."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInputError(
            "raw_input_contents",
            found=f"{len(raw)} of them for {len(message.inputs)} inputs",
            expected="one for each input",
        )
    if raw and any(tensor.HasField("contents") for tensor in message.inputs):
        raise InvalidInputError(
            "inputs", found="contents beside raw_input_contents", expected="one of the two for all inputs"
        )
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        parameters=_parameters(message.parameters),
        inputs=tuple(
            OfferedTensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape),
                content=raw[place] if raw else _content(tensor),
                parameters=_parameters(tensor.parameters),
            )
            for place, tensor in enumerate(message.inputs)
        ),
        outputs=tuple(RequestedOutput.of(out.name, _parameters(out.parameters)) for out in message.outputs),
    )


def result_to_pb(result: InferResult, *, is_raw: bool) -> pb.ModelInferResponse:
    """Return a result as a message, its outputs raw or as contents."""
    message = pb.ModelInferResponse(model_name=result.model, model_version=result.version, id=result.id)
    _set_parameters(message.parameters, result.parameters)
    for output in result.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if is_raw:
            message.raw_output_contents.append(raw_of(output))
        else:
            _set_contents(tensor.contents, output)
    return message


def metadata_to_pb(model: ModelDescription) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=[_tensor_to_pb(model.input)],
        outputs=[_tensor_to_pb(tensor) for tensor in model.outputs],
    )


def config_to_pb(model: ModelDescription) -> pb.ModelConfigResponse:
    """Return a model's configuration; where a batch has a limit, sizes are those of one row."""
    config = pb.ModelConfig(
        name=model.name,
        platform=model.platform,
        backend="swarm",
        max_batch_size=model.most_rows,
        input=[
            pb.ModelInput(
                name=model.input.name,
                data_type=_CONFIG_TYPES[model.input.datatype],
                dims=model.input.shape[1:],
            )
        ],
        output=[
            pb.ModelOutput(name=each.name, data_type=_CONFIG_TYPES[each.datatype], dims=each.shape[1:])
            for each in model.outputs
        ],
    )
    for name, value in model.facts.items():
        config.parameters[name].string_value = value
    return pb.ModelConfigResponse(config=config)


def index_to_pb(models: Iterable[ModelStanding]) -> pb.RepositoryIndexResponse:
    entry = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[
            entry(
                name=model.name,
                version=model.version,
                state="READY" if model.is_ready else "UNAVAILABLE",
                reason=model.reason,
            )
            for model in models
        ]
    )


def statistics_to_pb(found: Sequence[ModelStatistics]) -> pb.ModelStatisticsResponse:
    return pb.ModelStatisticsResponse(model_stats=[_statistics_to_pb(each) for each in found])


def _statistics_to_pb(found: ModelStatistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=found.name,
        version=found.version,
        last_inference=found.last_inference_ms,
        inference_count=found.rows,
        execution_count=found.requests,
        inference_stats=pb.InferStatistics(
            success=_durations(found.success),
            fail=_durations(found.fail),
            queue=_durations(found.queue),
            compute_input=_durations(found.compute_input),
            compute_infer=_durations(found.compute_infer),
            compute_output=_durations(found.compute_output),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=batch.rows,
                compute_input=_durations(batch.compute_input),
                compute_infer=_durations(batch.compute_infer),
                compute_output=_durations(batch.compute_output),
            )
            for batch in found.batches
        ],
    )


def _durations(found: Durations) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=found.count, ns=found.ns)


def _parameters(entries: Mapping[str, pb.InferParameter]) -> Parameters:
    found: dict[str, Parameter] = {}
    for name, value in entries.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInputError(f"parameter {name[:40]}", found="no value", expected="one")
        found[name] = getattr(value, kind)
    return found


def _set_parameters(entries: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            entries[name].bool_param = value
        elif isinstance(value, int):
            entries[name].int64_param = value
        elif isinstance(value, float):
            entries[name].double_param = value
        else:
            entries[name].string_param = value


def _content(tensor: pb.ModelInferRequest.InferInputTensor) -> Sequence[object] | None:
    """Return the numbers of a tensor's contents, None where those of its datatype are not there."""
    if not tensor.HasField("contents") or tensor.datatype not in _CONTENTS:
        return None
    found: Sequence[object] = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    is_empty = not found and 0 not in tensor.shape
    return None if is_empty else found


def _set_contents(contents: pb.InferTensorContents, output: OutputTensor) -> None:
    if isinstance(output.values, tuple):
        contents.bytes_contents.extend(output.values)
    else:
        contents.fp32_contents.extend(output.values.ravel().tolist())


def _tensor_to_pb(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )
