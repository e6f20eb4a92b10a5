"""The Open Inference Protocol's conversions: the wire is the public one, what is read is what was sent."""

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.open_inference import (
    InferResult,
    OfferedTensor,
    OutputTensor,
    RequestedOutput,
    TensorMetadata,
)
from swarm.rpc.callers import SERVED
from swarm.rpc.open_inference.json_body import (
    MOST_JSON_BYTES,
    MOST_JSON_NUMBERS,
    BodyRequest,
    request_from_body,
    result_to_body,
)
from swarm.rpc.open_inference.messages import request_from_pb, result_to_pb
from swarm.rpc.open_inference.methods import OPEN_INFERENCE_METHODS
from swarm.rpc.open_inference.tensors import MOST_NUMBERS, raw_of, read_input
from swarm.rpc.pb import open_inference_pb2 as pb

FP32 = TensorMetadata(name="inputs", datatype="FP32", shape=(-1, 2, 3))
LONG = TensorMetadata(name="inputs", datatype="UINT8", shape=(-1, MOST_NUMBERS + 1))
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
UINT8 = TensorMetadata(name="inputs", datatype="UINT8", shape=(-1, 3))


def offered(content: Any, shape: tuple[int, ...] = (1, 2, 3), datatype: str = "FP32") -> OfferedTensor:
    return OfferedTensor(name="inputs", datatype=datatype, shape=shape, content=content)


def shape_of(field: FieldDescriptor) -> tuple[object, ...]:
    return field.name, field.number, field.type, field.is_repeated


def messages_of(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        found[message.full_name] = message
        waiting += message.nested_types
    return found


def test_every_message_and_method_is_that_of_the_public_protocol() -> None:
    """Held against the descriptors in the stock client."""
    theirs = messages_of(service_pb2.DESCRIPTOR) | messages_of(model_config_pb2.DESCRIPTOR)
    for name, message in messages_of(pb.DESCRIPTOR).items():
        known = {shape_of(field) for field in theirs[name].fields}
        assert {shape_of(field) for field in message.fields} <= known, name
    stock = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        like = stock.methods_by_name[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            like.input_type.full_name,
            like.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (
            like.client_streaming,
            like.server_streaming,
        )
    ours = pb.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    stocks = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in ours.items()} == {
        name: value.number for name, value in stocks.items()
    }


def test_the_protocol_is_in_a_pool_of_its_own_and_its_table_is_complete() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.file.pool is not descriptor_pool.Default()
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        method.path for method in OPEN_INFERENCE_METHODS
    }
    asking = {path for path in SERVED if path.startswith("/inference.") and "Server" not in path}
    assert len(asking) == 7 and all(SERVED[path] == {"node", "operator", "client"} for path in asking)


def test_numbers_are_read_the_same_however_they_come() -> None:
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    message = pb.ModelInferRequest(model_name="swarm")
    tensor = message.inputs.add(name="inputs", datatype="FP32", shape=values.shape)
    tensor.contents.fp32_contents.extend(values.ravel().tolist())
    for content in (
        values.tobytes(),
        memoryview(values.tobytes()),
        values.ravel().tolist(),
        values.tolist(),
        request_from_pb(message).inputs[0].content,
    ):
        found = read_input([offered(content)], FP32)
        assert found.dtype == np.float32 and np.array_equal(found, values)
    bytes_ = read_input([offered([0, 255, 7], (1, 3), "UINT8")], UINT8)
    assert bytes_.dtype == np.uint8 and bytes_.tolist() == [[0, 255, 7]]


@pytest.mark.parametrize(
    ("content", "shape", "datatype", "helps"),
    [
        ([0, 256, 0], (1, 3), "UINT8", "0 to 255"),
        ([0, -1, 0], (1, 3), "UINT8", "0 to 255"),
        ([0.5, 1.0, 2.0], (1, 3), "UINT8", "whole numbers"),
        ([True, False, True], (1, 3), "UINT8", "numbers"),
        ([None, 1, 2], (1, 3), "UINT8", "numbers"),
        ([[1, 2, 3], [4]], (1, 3), "UINT8", "no table of numbers"),
        ([[1, 2, "3"]], (1, 3), "UINT8", "no table of numbers"),
        ([10**400, 1, 2], (1, 3), "UINT8", "numbers"),
        ([[1, 2, 3], [4, 5, 6]], (1, 3), "UINT8", "3 numbers"),
        ([[1], [2], [3]], (1, 3), "UINT8", "3 numbers"),
        (b"12", (1, 3), "UINT8", "3 bytes"),
        (b"123", (1, 3), "BYTES", "datatype UINT8"),
        (b"123", (1, 3), "", "no datatype"),
        (b"123", (3,), "UINT8", "shape [rows, 3]"),
        (b"123", (1 << 62, 3), "UINT8", "bytes for UINT8"),
        (None, (1, 3), "UINT8", "no content"),
    ],
)
def test_a_content_that_does_not_fit_is_refused(
    content: Any, shape: tuple[int, ...], datatype: str, helps: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_input([offered(content, shape, datatype)], UINT8)
    assert helps in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_text_among_numbers_is_refused_before_they_all_take_its_length(nested: bool) -> None:
    numbers: list[Any] = ["a" * 4_000_000, *range(1_000_000)]  # 15 TiB as an array of texts
    content = [[each] for each in numbers] if nested else numbers
    with pytest.raises(InvalidInputError, match="no table of numbers"):
        read_input([offered(content, (1, 3), "UINT8")], UINT8)


def test_a_region_of_shared_memory_is_no_content() -> None:
    tensor = OfferedTensor(
        name="inputs", datatype="UINT8", shape=(1, 3), content=None, parameters={"shared_memory_region": "r"}
    )
    with pytest.raises(InvalidInputError, match="shared memory"):
        read_input([tensor], UINT8)


def test_raw_contents_and_contents_do_not_mix() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"", b""])
    message.inputs.add(name="inputs")
    with pytest.raises(InvalidInputError, match="2 of them for 1 inputs"):
        request_from_pb(message)
    del message.raw_input_contents[1]
    message.inputs[0].contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidInputError, match="one of the two"):
        request_from_pb(message)
    message.parameters["x"].SetInParent()
    del message.raw_input_contents[:]
    with pytest.raises(InvalidInputError, match="parameter x"):
        request_from_pb(message)


RESULT = InferResult(
    model="swarm",
    version="3",
    id="i",
    parameters={"a": True, "b": 2, "c": 0.5, "d": "text"},
    outputs=(
        OutputTensor(name="probabilities", shape=(1, 2), values=np.array([[0.25, 0.75]], np.float32)),
        OutputTensor(name="label", shape=(1,), values=("größer".encode(),)),
    ),
)


def test_a_result_is_the_same_as_contents_as_bytes_and_as_json() -> None:
    raw, typed = result_to_pb(RESULT, is_raw=True), result_to_pb(RESULT, is_raw=False)
    assert struct.unpack("<2f", raw.raw_output_contents[0]) == tuple(typed.outputs[0].contents.fp32_contents)
    text = "größer".encode()
    assert raw.raw_output_contents[1] == struct.pack("<I", len(text)) + text
    assert list(typed.outputs[1].contents.bytes_contents) == [text]
    assert raw.parameters["a"].bool_param and raw.parameters["b"].int64_param == 2
    assert (raw.parameters["c"].double_param, raw.parameters["d"].string_param) == (0.5, "text")
    asked = request_from_body("swarm", "", json.dumps({"outputs": [{"name": "label"}]}).encode(), None)
    body, header = result_to_body(RESULT, asked)
    said = json.loads(body)
    assert header is None and said["parameters"] == dict(RESULT.parameters)
    assert [output["data"] for output in said["outputs"]] == [[0.25, 0.75], ["größer"]]
    wishes = BodyRequest(request=asked.request, binary={"label": False}, by_default=True)
    body, header = result_to_body(RESULT, wishes)
    assert body[header:] == raw_of(RESULT.outputs[0])
    assert json.loads(body[:header])["outputs"][0]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize("entry", [b"{}", b"[]", b'""', b"0"])
def test_entries_that_take_a_hundred_bytes_once_they_are_read_are_counted_before(entry: bytes) -> None:
    many = b",".join([entry] * (MOST_JSON_BYTES // (len(entry) + 1) - 100))
    with pytest.raises(InvalidInputError, match="brackets, braces and commas"):
        request_from_body("swarm", "", b'{"inputs": [%b]}' % many, None)
    pairs = b",".join([b"[0,1]"] * (MOST_NUMBERS // 2))
    body = b'{"inputs": [{"name": "x", "shape": [1], "data": [%b]}]}' % pairs
    assert len(request_from_body("swarm", "", body, None).request.inputs) == 1


def test_many_single_numbers_are_refused_and_bytes_are_named_instead() -> None:
    with pytest.raises(InvalidInputError, match="raw_input_contents"):
        read_input([offered([0] * (MOST_NUMBERS + 1), (1, MOST_NUMBERS + 1), "UINT8")], LONG)
    with pytest.raises(InvalidInputError, match="binary_data_size"):
        request_from_body("swarm", "", b" " * (MOST_JSON_BYTES + 1), None)
    asked = request_from_body("swarm", "", b"{}", None)
    values = np.zeros((1, MOST_JSON_NUMBERS + 1), np.float32)
    output = OutputTensor(name="probabilities", shape=values.shape, values=values)
    with pytest.raises(InvalidInputError, match="binary_data"):
        result_to_body(replace(RESULT, outputs=(output,)), asked)


HALF = "\\ud800"
"""Half of a pair of surrogates, as JSON escapes it."""
TENSOR = '{"name": "inputs", "datatype": "FP32", "shape": [1], "data": [1]}'


@pytest.mark.parametrize(
    "body",
    [
        f'{{"id": "{HALF}", "inputs": []}}',
        f'{{"parameters": {{"{HALF}": 1}}}}',
        f'{{"parameters": {{"combination": "{HALF}"}}}}',
        f'{{"inputs": [{TENSOR.replace("FP32", HALF)}]}}',
        f'{{"inputs": [{TENSOR.replace("inputs", HALF)}]}}',
        f'{{"outputs": [{{"name": "{HALF}"}}]}}',
        f'{{"inputs": [{TENSOR.replace("[1], ", "[1" + "0" * 4290 + "], ")}]}}',
        f'{{"inputs": [{TENSOR.replace("[1], ", "[" + "7," * 100_000 + "7], ")}]}}',
        f'{{"inputs": [{",".join([TENSOR] * 5000)}]}}',
        f'{{"parameters": {json.dumps(dict.fromkeys(map(str, range(5000)), 1))}}}',
    ],
    ids=lambda body: body[:48],
)
def test_texts_and_sizes_that_nothing_can_answer_are_refused_in_words_that_can_be_sent(body: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        request_from_body("swarm", "", body.encode(), None)
    assert len(str(caught.value).encode()) < 500


@pytest.mark.parametrize("classes", [-1, True, 1.5, "2"])
def test_a_classification_that_is_no_count_is_refused(classes: Any) -> None:
    with pytest.raises(InvalidInputError, match="number of classes"):
        RequestedOutput.of("probabilities", {"classification": classes})


@CALM
@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_no_body_ends_in_anything_but_a_request_or_a_refusal(body: bytes, header: int | None) -> None:
    try:
        asked = request_from_body("swarm", "", body, header)
        read_input(asked.request.inputs, FP32)
    except SwarmError as error:
        assert error.expected


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@CALM
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": Json,
            "parameters": Json,
            "outputs": Json,
            "inputs": Json
            | st.lists(
                st.fixed_dictionaries(
                    {"name": st.just("inputs"), "datatype": st.just("FP32") | Json},
                    optional={"shape": Json | st.just([1, 2, 3]), "data": Json, "parameters": Json},
                ),
                max_size=2,
            ),
        },
    )
)
def test_no_json_ends_in_anything_but_a_request_or_a_refusal(said: dict[str, Any]) -> None:
    try:
        asked = request_from_body("swarm", "", json.dumps(said).encode(), None)
        read_input(asked.request.inputs, FP32)
    except SwarmError as error:
        assert str(error)


@CALM
@given(st.binary(max_size=300))
def test_no_message_ends_in_anything_but_a_request_or_a_refusal(data: bytes) -> None:
    try:
        read_input(request_from_pb(pb.ModelInferRequest.FromString(data)).inputs, FP32)
    except (SwarmError, DecodeError) as error:
        assert str(error)
