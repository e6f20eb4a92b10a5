"""A response of the Open Inference Protocol, saved as JSON: the answer in it, and whether the rest agrees."""

import json
from typing import Any, TypeGuard

import numpy as np

from coordinator.open_inference.answering import ANSWER, result_of
from coordinator.open_inference.models import PROBABILITIES, SWARM_MODEL
from swarm.domain.errors import InvalidInputError
from swarm.domain.inference import Answer, Source
from swarm.domain.open_inference import InferRequest, RequestedOutput
from swarm.rpc.open_inference.json_body import BodyRequest, result_to_body

_ASK = "ask with the parameter replayable true, and for outputs as JSON; or write that parameter into a file"


def is_response(document: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a JSON document is a response, whatever it answers."""
    return isinstance(document, dict) and "model_name" in document


def replayable_part(response: dict[str, Any], subject: str) -> bytes:
    """Return the JSON of the answer in a response; InvalidInputError where it is not replayable."""
    parameters, outputs = response.get("parameters"), response.get("outputs")
    found = parameters.get(ANSWER) if isinstance(parameters, dict) else None
    if not isinstance(found, str) or not isinstance(outputs, list):
        lacks = "outputs" if isinstance(found, str) else f"the parameter {ANSWER}"
        raise InvalidInputError(
            subject, found=f"a response without {lacks}", expected="a replayable one", remedy=_ASK
        )
    return found.encode("utf-8", "surrogatepass")


def otherwise(response: dict[str, Any], said: dict[str, Any], request_id: str) -> tuple[str, ...]:
    """Return what a response says otherwise than the answer in it, of which the figures were checked: names
    of outputs, parameters and the like. What it leaves out is not looked at."""
    rows = len(said["probabilities"])
    if not rows or not said["class_names"]:
        return ("probabilities",)
    for name in ("sources", "gate_entropy"):
        if len(said[name]) not in (0, rows):
            return (name,)
    again = _again(response["outputs"], said, request_id)
    outputs = {each["name"]: each for each in again["outputs"]}
    parts: list[tuple[str, Any, Any]] = [
        (name, response[name], again.get(name))
        for name in ("model_name", "model_version", "id")
        if name in response
    ]
    parts += [(f"output {_name(each)}", each, outputs.get(_name(each))) for each in response["outputs"]]
    parts += [
        (f"parameter {name[:40]}", value, again["parameters"].get(name))
        for name, value in response["parameters"].items()
        if name != ANSWER
    ]
    return tuple(name for name, found, expected in parts if found != expected)


def _again(outputs: list[Any], said: dict[str, Any], request_id: str) -> dict[str, Any]:
    """Return the response that the coordinator makes of an answer, as JSON has it."""
    asked = InferRequest(
        model=SWARM_MODEL,
        version="",
        id=request_id,
        parameters={"class_names": True, "route": bool(said["sources"])},
        inputs=(),
        outputs=(),
    )
    wanted = {_name(each): _requested(each) for each in outputs}
    made = result_of(asked, _answer(said), tuple(wanted.values()), str(said["gate_version"]))
    body, _ = result_to_body(made, BodyRequest(request=asked, binary={}, by_default=False))
    found: dict[str, Any] = json.loads(body)
    return found


def _name(output: Any) -> str:
    return str(output.get("name"))[:40] if isinstance(output, dict) else "that is none"


def _requested(output: Any) -> RequestedOutput:
    """Return what was asked for, by what came."""
    name, said = _name(output), output if isinstance(output, dict) else {}
    is_classified, shape = name == PROBABILITIES and said.get("datatype") == "BYTES", said.get("shape")
    count = shape[-1] if is_classified and isinstance(shape, list) and shape else 0
    return RequestedOutput(name=name, classification=count if isinstance(count, int) else 0)


def _answer(said: dict[str, Any]) -> Answer:
    far = said["out_of_distribution"]
    return Answer(
        class_names=tuple(said["class_names"]),
        probabilities=np.array(said["probabilities"], dtype=np.float32),
        gate_version=said["gate_version"],
        degraded=tuple(said["degraded"]),
        sources=tuple(tuple(map(_source, row)) for row in said["sources"]),
        missing_experts=tuple(said["missing_experts"]),
        combination=said["combination"],
        gate_entropy=tuple(said["gate_entropy"]),
        confidence=np.array(said["confidence"], dtype=np.float32),
        calibration=said["calibration"],
        out_of_distribution=None if far is None else np.array(far, dtype=np.float32),
        unknown=tuple(said["unknown"]),
    )


def _source(said: dict[str, Any]) -> Source:
    names = ("leaf", "expert", "version", "manifest", "owner", "served_by", "weight")
    return Source(**{name: said[name] for name in names}, module_digests=())
