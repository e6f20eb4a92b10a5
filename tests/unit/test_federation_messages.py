"""Flower's messages as bytes: nothing is lost or taken malformed; what we touch of Flower is there."""

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from swarm.domain.errors import InvalidInputError, NotReadyError, ShapeMismatchError, SwarmError, UsageError
from swarm.domain.federation import MAX_PART_BYTES, FederationPart, cut
from swarm.federation.frames import error_of, frame, problem_of, read_frame, receive_frame
from swarm.federation.messages import array_record, decode_message, described, encode_message, named_arrays
from swarm.federation.options import parse_options
from swarm.federation.packing import DTYPES, pack, pack_named, unpack, unpack_named
from swarm.federation.stream_grid import StreamGrid
from swarm.federation.task_identity import SERVER_NODE, message_with, take_task_identity


def message(content: RecordDict) -> Message:
    take_task_identity(7)
    return Message(content, dst_node_id=5, message_type="query.sums")


def test_the_installed_flower_has_what_we_touch_privately() -> None:
    take_task_identity(41)
    made = Message(RecordDict(), dst_node_id=5, message_type="train")
    assert (made.metadata.run_id, made.metadata.src_node_id) == (41, SERVER_NODE)
    metadata = Metadata(41, "m1", 5, 1, "m0", "", 1.0, 2.0, "train")
    whole = message_with(metadata, RecordDict({"config": ConfigRecord({"a": 1})}))
    assert whole.metadata.message_id == "m1" and whole.content["config"]["a"] == 1  # type: ignore[call-overload, index]
    assert message_with(metadata, Error(5, "gone")).error.reason == "gone"


def test_our_grid_has_every_method_of_flowers_grid() -> None:
    assert issubclass(StreamGrid, Grid) and not StreamGrid.__abstractmethods__


def test_a_message_comes_back_as_it_was() -> None:
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    sent = message(
        RecordDict(
            {
                "arrays": array_record({"m": matrix, "zero": np.zeros((), np.float64)}),
                "metrics": MetricRecord({"n": 3, "loss": 0.1, "list": [1.5, 2.5]}),
                "config": ConfigRecord({"words": ["a", "é"], "raw": b"\0\xff", "yes": True, "f": 2.0}),
            }
        )
    )
    found = decode_message(encode_message(sent, "m9"), "message")
    assert found.metadata.message_id == "m9" and found.metadata.dst_node_id == 5
    back = named_arrays(found.content.array_records["arrays"])
    assert np.array_equal(back["m"], matrix) and back["m"].dtype == np.int16 and back["zero"].shape == ()
    assert dict(found.content.metric_records["metrics"]) == {"n": 3, "loss": 0.1, "list": [1.5, 2.5]}
    assert found.content.config_records["config"]["raw"] == b"\0\xff"
    assert found.content.config_records["config"]["yes"] is True


def test_an_error_comes_back_as_it_was() -> None:
    reply = Message(Error(2, "no data"), reply_to=message(RecordDict()))
    found = decode_message(encode_message(reply), "reply")
    assert found.has_error() and (found.error.code, found.error.reason) == (2, "no data")


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.sampled_from(DTYPES).flatmap(
            lambda name: arrays_of.arrays(
                name,
                arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
                elements=None
                if not name.startswith("float")
                else {"allow_nan": False, "allow_infinity": False},
            )
        ),
        max_size=4,
    )
)
def test_packing_loses_nothing(arrays: dict[str, np.ndarray]) -> None:
    found = unpack_named(pack_named(arrays, "arrays"), "arrays")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert all(found[name].dtype == arrays[name].dtype for name in arrays)


@given(st.binary(max_size=300))
def test_whatever_bytes_come_they_are_read_or_refused_by_name(data: bytes) -> None:
    try:
        decode_message(data, "reply of node rose")
    except InvalidInputError as error:
        assert error.subject == "reply of node rose"


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_message_is_read_or_refused_by_name(place: int, value: int) -> None:
    data = bytearray(encode_message(message(RecordDict({"a": ArrayRecord([np.ones(3)])}))))
    data[place % len(data)] = value
    try:
        decode_message(bytes(data), "reply")
    except InvalidInputError as error:
        assert error.subject == "reply"


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf], dtype=np.float32)])
def test_numbers_that_are_not_finite_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="NaN"):
        unpack(pack({}, [bad], "x"), "x")
    with pytest.raises(InvalidInputError, match="NaN"):
        encode_message(message(RecordDict({"m": MetricRecord({"loss": float("nan")})})))


def test_bytes_that_do_not_fill_their_shapes_are_refused() -> None:
    data = pack({}, [np.ones(4)], "x")
    with pytest.raises(ShapeMismatchError, match="24 bytes"):
        unpack(data[:-8], "x")


def test_an_array_of_objects_does_not_travel() -> None:
    with pytest.raises(InvalidInputError, match="dtype object"):
        pack({}, [np.array([None])], "x")


def test_a_listing_says_what_leaves() -> None:
    content = RecordDict(
        {"a": array_record({"columns": np.zeros((3, 2), np.int64)}), "m": MetricRecord({"n": 1})}
    )
    assert described(content) == "columns int64 [3, 2], m (n)"


def test_frames_come_back_as_they_were_and_an_end_is_an_end() -> None:
    sent = frame({"kind": "send", "id": "m1"}, b"abc") + frame({"kind": "end"})
    source = io.BytesIO(sent)
    assert read_frame(source) == ({"kind": "send", "id": "m1"}, b"abc")
    assert read_frame(source) == ({"kind": "end"}, b"") and read_frame(source) is None
    assert read_frame(io.BytesIO(sent[:11])) is None


async def test_a_frame_of_absurd_size_is_refused() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff" * 8)
    with pytest.raises(InvalidInputError, match="frame"):
        await receive_frame(reader)


def test_a_problem_keeps_its_kind_and_words() -> None:
    sent = NotReadyError("data", found="none", expected="some", remedy="swarm train DATA")
    back = error_of(json.loads(json.dumps(problem_of(sent))))
    assert type(back) is NotReadyError and str(back) == str(sent)
    assert type(error_of({"code": "no such code"})) is SwarmError and type(error_of(3)) is SwarmError


def test_options_have_defaults_types_and_bounds() -> None:
    found = parse_options("average", {"rounds": "3", "net": "cnn"})
    assert (found["rounds"], found["net"], found["min-nodes"], found["steps"]) == (3, "cnn", 2, 100)
    wrong: list[tuple[str, dict[str, str]]] = [
        ("average", {"rounds": "0"}), ("average", {"rounds": "many"}), ("sums", {"form": "blurred"}),
        ("kmeans", {"net": "cnn"}), ("guess", {}), ("sums", {"timeout-s": "nan"}),
        ("average", {"net": "x" * 300}),
    ]  # fmt: skip
    for app, options in wrong:
        with pytest.raises(UsageError):
            parse_options(app, options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": ""}, {"run": "../x"}, {"part": 2, "parts": 2}, {"part": -1}, {"parts": 257}, {"app": "guess"},
        {"data": b"x" * (MAX_PART_BYTES + 1)}, {"message": "m" * 65},
    ],
)  # fmt: skip
def test_a_part_out_of_its_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        FederationPart(**({"run": "r", "message": "m1"} | wrong))


def test_a_message_is_cut_into_parts_and_an_empty_one_is_one_part() -> None:
    data = bytes(2 * MAX_PART_BYTES + 1)
    assert [len(part) for part in cut(data)] == [MAX_PART_BYTES, MAX_PART_BYTES, 1] and cut(b"") == [b""]
