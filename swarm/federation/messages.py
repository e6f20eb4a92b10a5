"""Flower's Message as bytes and back, checked by name: arrays raw, everything else JSON."""

import base64
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

from swarm.domain.errors import InvalidInputError
from swarm.federation.packing import Array as NumpyArray
from swarm.federation.packing import pack, unpack
from swarm.federation.task_identity import message_with

_FORMAT = 1
_BYTES = "base64"
_NUMBERS = ("run_id", "src_node_id", "dst_node_id")
_TEXTS = ("message_id", "reply_to_message_id", "group_id", "message_type")
_TIMES = ("created_at", "ttl")


def encode_message(message: Message, message_id: str = "") -> bytes:
    """Return a message as bytes, under another id where one is given.

    Raises InvalidInputError for a number that is not finite, an array of another dtype, too many bytes.
    """
    metadata = {name: getattr(message.metadata, name) for name in (*_NUMBERS, *_TEXTS, *_TIMES)}
    if message_id:
        metadata["message_id"] = message_id
    header: dict[str, Any] = {"format": _FORMAT, "metadata": metadata}
    arrays: list[NumpyArray] = []
    subject = f"message {message.metadata.message_type}"
    if message.has_error():
        header["error"] = [message.error.code, message.error.reason or ""]
    else:
        header["records"] = [_written(name, record, arrays) for name, record in message.content.items()]
    return pack(header, arrays, subject)


def decode_message(data: bytes, subject: str) -> Message:
    """Return the message in data; raises InvalidInputError or ShapeMismatchError, naming subject."""
    header, arrays = unpack(data, subject)
    if header.get("format") != _FORMAT:
        raise InvalidInputError(
            subject, found=f"format {str(header.get('format'))[:20]}", expected=f"format {_FORMAT}"
        )
    try:
        metadata = _metadata(header["metadata"])
        if "error" in header:
            code, reason = header["error"]
            return message_with(metadata, Error(int(code), str(reason)[:4000]))
        rest = iter(arrays)
        content = RecordDict({str(name): _read(kind, items, rest) for name, kind, items in header["records"]})
        if next(rest, None) is not None:
            raise ValueError("arrays that no record names")
        return message_with(metadata, content)
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise InvalidInputError(
            subject, found=f"no Flower message ({str(error)[:80]})", expected="metadata and records"
        ) from error


def described(content: RecordDict) -> str:
    """Return what a message's content holds, for the list of what left the machine."""
    told = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            told += [f"{key} {array.dtype} {list(array.shape)}" for key, array in record.items()]
        else:
            told.append(f"{name} ({', '.join(record)})")
    shown = told if len(told) <= 12 else [*told[:12], f"and {len(told) - 12} more"]
    return ", ".join(shown)[:600]


def named_arrays(record: ArrayRecord) -> dict[str, NumpyArray]:
    """Return an ArrayRecord's arrays by name."""
    return {name: array.numpy() for name, array in record.items()}


def array_record(arrays: dict[str, NumpyArray]) -> ArrayRecord:
    """Return arrays by name as an ArrayRecord."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def _written(name: str, record: Any, arrays: list[NumpyArray]) -> list[Any]:
    if isinstance(record, ArrayRecord):
        arrays += [array.numpy() for array in record.values()]
        return [name, "arrays", list(record)]
    kind = "metrics" if isinstance(record, MetricRecord) else "config"
    return [name, kind, [[key, _plain(value)] for key, value in record.items()]]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _read(kind: str, items: list[Any], arrays: Any) -> Any:
    if kind == "arrays":
        if len(set(items)) != len(items):
            raise ValueError("an array's name twice")
        return ArrayRecord({str(key): Array(np.asarray(next(arrays), order="C")) for key in items})
    values = {str(key): _value(value) for key, value in items}
    if kind == "metrics":
        return MetricRecord(values)
    if kind == "config":
        return ConfigRecord(values)
    raise ValueError(f"a record of kind {kind!r}")


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value[_BYTES], validate=True)
    return [_value(each) for each in value] if isinstance(value, list) else value


def _metadata(found: dict[str, Any]) -> Metadata:
    return Metadata(
        run_id=int(found["run_id"]),
        message_id=str(found["message_id"])[:200],
        src_node_id=int(found["src_node_id"]),
        dst_node_id=int(found["dst_node_id"]),
        reply_to_message_id=str(found["reply_to_message_id"])[:200],
        group_id=str(found["group_id"])[:200],
        created_at=float(found["created_at"]),
        ttl=float(found["ttl"]),
        message_type=str(found["message_type"])[:200],
    )
