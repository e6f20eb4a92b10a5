"""Models, their standing and statistics as the Open Inference Protocol's JSON. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from swarm.domain.open_inference import ModelDescription, ModelStanding, ModelStatistics
from swarm.rpc.open_inference import messages


def metadata_json(model: ModelDescription) -> dict[str, Any]:
    return _json(messages.metadata_to_pb(model))


def config_json(model: ModelDescription) -> dict[str, Any]:
    found: dict[str, Any] = _json(messages.config_to_pb(model))["config"]
    return found


def index_json(models: Iterable[ModelStanding]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _json(messages.index_to_pb(models))["models"]
    return found


def statistics_json(found: Sequence[ModelStatistics]) -> dict[str, Any]:
    return _json(messages.statistics_to_pb(found))


def _json(message: Any) -> dict[str, Any]:
    """Return a message with its fields' own names; 64-bit numbers are numbers, as the protocol has them."""
    said = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _numbers(value) for name, value in said.items()}


_NUMBERS = (
    "shape",
    "dims",
    "count",
    "ns",
    "batch_size",
    "last_inference",
    "inference_count",
    "execution_count",
)


def _numbers(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _numbers(found, key) for key, found in value.items()}
    if isinstance(value, list):
        return [_numbers(found, name) for found in value]
    return int(value) if name in _NUMBERS else value
