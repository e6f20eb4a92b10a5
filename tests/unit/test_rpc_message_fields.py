"""Fields are counted before they are parsed: never fewer than a parser finds, and too many are refused."""

import random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from benchmarks.fuzz.mutations import Mutator
from swarm.domain.errors import InvalidInputError
from swarm.rpc import methods as m
from swarm.rpc.message_fields import MOST_FIELDS, UNCOUNTED_BYTES, count_fields
from swarm.rpc.pb import expert_pb2, growth_pb2, inference_pb2, node_stream_pb2, registry_pb2, types_pb2

EMPTY_TASK, EMPTY_OWNER = b"\x12\0", b"\x22\0"
KINDS: list[type[Message]] = sorted(
    {kind for method in m.METHODS for kind in (method.request, method.reply) if kind is not bytes},
    key=lambda kind: str(kind.DESCRIPTOR.full_name),
)


def counted(kind: type[Message], data: bytes) -> int:
    return count_fields(kind, data, MOST_FIELDS)


def entries(message: Message) -> int:
    """Return how many entries a message that was parsed has, a packed list as one."""
    found = 0
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            is_map = field.message_type.GetOptions().map_entry
            inner: Any = () if is_map else value if field.is_repeated else (value,)
            found += (len(value) if field.is_repeated else 1) + sum(map(entries, inner))
        else:
            is_text = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
            found += len(value) if field.is_repeated and is_text else 1
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.DESCRIPTOR.name))
def test_no_mutation_hides_fields_that_a_parser_finds(kind: type[Message]) -> None:
    mutator, parsed = Mutator(random.Random(kind.DESCRIPTOR.full_name)), 0
    for _ in range(200):
        made = kind()
        for _ in range(mutator.chance.randrange(4) if made.DESCRIPTOR.fields else 0):
            mutator.message_changed(made)
        whole = made.SerializeToString()
        assert counted(kind, whole) >= entries(made)
        changed = mutator.bytes_changed(whole, [whole])
        try:
            found = kind.FromString(changed)
        except DecodeError:
            continue
        parsed += 1
        assert counted(kind, changed) >= entries(found), changed.hex()
    assert parsed > 10


@pytest.mark.parametrize(
    ("method", "entry"),
    [
        (m.ANNOUNCE, b"\x0a\0"), (m.MISSING, b"\x0a\0"), (m.PREDICT, EMPTY_OWNER),
        (m.EXPERT_PREDICT, EMPTY_TASK), (m.PROPOSE, b"\x1a\0"),
    ],
    ids=lambda each: each.name if isinstance(each, m.Method) else "",
)  # fmt: skip
def test_a_message_of_nothing_but_empty_entries_is_refused_by_name(method: m.AnyMethod, entry: bytes) -> None:
    assert method.read_request(entry * MOST_FIELDS) is not None
    for trailing in (b"", b"\xff"):
        with pytest.raises(InvalidInputError, match=f"{method.name}: found more than {MOST_FIELDS} fields"):
            method.read_request(entry * (MOST_FIELDS + 1) + trailing)


def test_entries_of_a_message_inside_count_too() -> None:
    task = expert_pb2.ExpertTask(expert="ada.e0", rows=range(MOST_FIELDS * 8))
    with pytest.raises(InvalidInputError, match="fields"):
        m.EXPERT_PREDICT.read_request(expert_pb2.ExpertRequest(tasks=[task]).SerializeToString())
    hello = node_stream_pb2.Hello(served=[""] * MOST_FIELDS)
    with pytest.raises(InvalidInputError, match="fields"):
        m.CONNECT.read_request(node_stream_pb2.FromNode(hello=hello).SerializeToString())
    with pytest.raises(InvalidInputError, match="fields"):
        m.EXPERT_PREDICT.read_reply(b"\x0a\0" * (MOST_FIELDS + 1))


def test_nothing_before_them_hides_entries() -> None:
    kind, many = expert_pb2.ExpertRequest, EMPTY_TASK * 1000
    in_a_group = b"\x13" + b"\x12\x7f" + bytes(127) + b"\x14"
    for before in (
        in_a_group,
        b"\x3b" + many + b"\x3c",
        b"\x0a\x00",
        b"\xf8\x07\x01",
        b"\xfa\xff\x7f\x02\xff\xff",
    ):
        data = before + many
        assert len(kind.FromString(data).tasks) >= 1000
        assert counted(kind, data) > 1000


def test_large_numbers_and_statements_are_a_field_each() -> None:
    large = types_pb2.Tensor(dtype="float32", shape=[4096, 1000], data=bytes(4096 * 4000))
    query = inference_pb2.PredictRequest(inputs=large, owners=["ada"])
    assert counted(inference_pb2.PredictRequest, query.SerializeToString()) == 5
    offered = registry_pb2.BringBackRequest(envelopes=[bytes(1000)] * 1000, fence=1)
    assert counted(registry_pb2.BringBackRequest, offered.SerializeToString()) == 1001
    options = growth_pb2.ProposeRequest(options={str(key): "x" for key in range(10)})
    assert counted(growth_pb2.ProposeRequest, options.SerializeToString()) == 30


def test_bytes_that_are_no_message_are_refused_as_such() -> None:
    for data in (
        b"\x80" * (8 << 20),
        b"\x07" * (1 << 20),
        b"\x0c" + bytes(1 << 20),
        b"\x0a\xff\xff\xff\xff\x0f",
    ):
        assert len(data) > UNCOUNTED_BYTES or len(data) == 6
        with pytest.raises(InvalidInputError, match="no message"):
            m.ANNOUNCE.read_request(data)
