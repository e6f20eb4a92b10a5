"""A protocol's request to a query, and its answer to the protocol's outputs. Pure."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.open_inference.models import CONFIDENCE, DISTANCE, LABEL, PROBABILITIES
from swarm.answering.answer_document import answer_document
from swarm.domain.combination import NAMES
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import digest, node_id
from swarm.domain.inference import Answer, Query
from swarm.domain.open_inference import (
    InferRequest,
    InferResult,
    ModelDescription,
    OutputTensor,
    Parameter,
    Parameters,
    RequestedOutput,
)
from swarm.rpc.options import MAX_MESSAGE_BYTES

MICROSECOND = 1e-6
_MOST_OWNERS = 4096
_LONGEST_TIMEOUT = 1 << 53
_ROUTING = ("top_k", "combination", "owners", "uniform", "profile", "replayable")
_OURS = (*_ROUTING, "min_confidence", "route", "class_names", "timeout")
_OF_THE_PROTOCOL = ("priority", "binary_data_output", "sequence_id", "sequence_start", "sequence_end")
"""Clients send these where they mean nothing here; each request is answered by itself."""
ANSWER = "swarm_answer"
"""The parameter of a response that has the whole answer with its signature."""
NOBODY_LOOKED = -1.0
"""How far out a row lies where no gate was asked: JSON has no NaN."""


def check_parameters(parameters: Parameters) -> None:
    """Raise InvalidInputError for a parameter that nobody knows: a misspelt one would be ignored."""
    known = {*_OURS, *_OF_THE_PROTOCOL}
    unknown = sorted(name for name in parameters if name not in known and not name.startswith("triton_"))
    if unknown:
        raise InvalidInputError(
            f"parameter {unknown[0][:40]!r}", found="no such parameter", expected=f"one of {', '.join(_OURS)}"
        )


def query_of(request: InferRequest, inputs: NDArray[np.generic], gate_version: int) -> Query:
    """Return the query of a request to the routed model; InvalidInputError names a wrong parameter."""
    given = request.parameters
    combination = _text(given, "combination")
    if combination and combination not in NAMES:
        raise InvalidInputError(
            "parameter combination", found=repr(combination[:40]), expected=", ".join(NAMES)
        )
    names = _text(given, "owners")
    if names.count(",") >= _MOST_OWNERS:
        raise InvalidInputError(
            "parameter owners",
            found=f"{names.count(',') + 1} names",
            expected=f"at most {_MOST_OWNERS}, or none for all",
        )
    owners = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    profile = _text(given, "profile")
    replayable = _flag(given, "replayable", False)
    return Query(
        inputs=inputs,
        top_k=_count(given, "top_k"),
        explain=wants_route(given),
        owners=tuple(node_id(owner) for owner in owners),
        uniform=_flag(given, "uniform", False),
        combination=combination,
        profile=digest(profile, "parameter profile") if profile else "",
        gate_version=gate_version,
        min_confidence=min_confidence(given),
        replayable=replayable,
        request_id=request.id if replayable else "",
    )


def min_confidence(given: Parameters) -> float:
    """Return the confidence below which rows are unknown; InvalidInputError for what is none, 0 to 1."""
    value = given.get("min_confidence", 0)
    if isinstance(value, bool | str) or not 0 <= value <= 1:
        raise InvalidInputError(
            "parameter min_confidence", found=repr(value)[:40], expected="a number from 0 to 1"
        )
    return float(value)


def check_expert_parameters(parameters: Parameters) -> None:
    """Raise InvalidInputError for what routes, in a request that names its expert."""
    routing = sorted({*_ROUTING} & parameters.keys())
    if routing:
        raise InvalidInputError(
            f"parameter {routing[0]}",
            found="a request of one expert",
            expected="one of model swarm: only that is routed",
        )


def wants_route(parameters: Parameters) -> bool:
    """Say whether the response shall name who answered: unless `route` is false."""
    return _flag(parameters, "route", True)


def time_limit_s(parameters: Parameters, left_s: float) -> float:
    """Return what a request may take: its caller's time, or less by `timeout`, which is in microseconds."""
    asked = min(_count(parameters, "timeout"), _LONGEST_TIMEOUT) * MICROSECOND
    return min(asked, left_s) if asked else left_s


def check_outputs(outputs: Sequence[RequestedOutput], model: ModelDescription) -> None:
    """Raise InvalidInputError for an output that the model does not have, or one asked for twice."""
    names, known = [output.name for output in outputs], [output.name for output in model.outputs]
    wrong = next((name for name in names if name not in known or names.count(name) > 1), None)
    if wrong is not None:
        raise InvalidInputError(
            f"output {wrong[:40]!r}",
            found="twice" if wrong in known else "no such output",
            expected=f"{', '.join(known[:-1])} or {known[-1]}, each once",
        )
    classified = next((each for each in outputs if each.name != PROBABILITIES and each.classification), None)
    if classified is not None:
        raise InvalidInputError(
            f"output {classified.name}",
            found="with classification",
            expected=f"classification of {PROBABILITIES}",
        )


def result_of(
    request: InferRequest,
    answer: Answer,
    outputs: Sequence[RequestedOutput],
    version: str,
    replayable: str = "",
) -> InferResult:
    """Return an answer as these outputs of the model's `version`, with the facts of its route as parameters.

    `replayable`: what `replayable_answer` made of it, which is one of them then. Raises InvalidInputError
    where all this does not fit into one message.
    """
    facts = _facts(request.parameters, answer) | ({ANSWER: replayable} if replayable else {})
    size_bytes = answer.probabilities.nbytes + sum(
        len(text) for text in facts.values() if isinstance(text, str)
    )
    if size_bytes > MAX_MESSAGE_BYTES:
        raise InvalidInputError(
            "inputs",
            found=f"{len(answer.probabilities)} rows, answered in {size_bytes >> 20} MiB with their route",
            expected=f"at most {MAX_MESSAGE_BYTES >> 20} MiB",
            remedy="send fewer rows, or leave the route out: parameter route false",
        )
    return InferResult(
        model=request.model,
        version=version,
        id=request.id,
        parameters=facts,
        outputs=tuple(_output(each, answer) for each in outputs),
    )


def replayable_answer(request: InferRequest, inputs: NDArray[np.generic], answer: Answer) -> str:
    """Return the JSON that `swarm replay` computes an answer again by; empty where that was not asked for."""
    if answer.record is None:
        return ""
    document = answer_document(answer, query_of(request, inputs, answer.gate_version))
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def wanted_outputs(request: InferRequest, model: ModelDescription) -> tuple[RequestedOutput, ...]:
    """Return the outputs that a request names; all where it names none."""
    if request.outputs:
        return request.outputs
    return tuple(RequestedOutput(name=each.name) for each in model.outputs)


def _output(wanted: RequestedOutput, answer: Answer) -> OutputTensor:
    rows = len(answer.probabilities)
    if wanted.name == CONFIDENCE:
        return OutputTensor(name=CONFIDENCE, shape=(rows,), values=answer.confidence.astype(np.float32))
    if wanted.name == DISTANCE:
        far = answer.out_of_distribution
        values = np.full(rows, NOBODY_LOOKED) if far is None else far
        return OutputTensor(name=DISTANCE, shape=(rows,), values=values.astype(np.float32))
    if wanted.name == LABEL:
        labels = tuple(label.encode() for label in answer.labels)
        return OutputTensor(name=LABEL, shape=(rows,), values=labels)
    if wanted.classification:
        return _classification(answer, wanted.classification)
    return OutputTensor(
        name=PROBABILITIES, shape=answer.probabilities.shape, values=answer.probabilities.astype(np.float32)
    )


def _classification(answer: Answer, count: int) -> OutputTensor:
    """`value:index:name` of each row's best classes, the best first; ties: the lower index. Of a row that is
    unknown: empty texts."""
    most = min(count, len(answer.class_names))
    order = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :most]
    texts = tuple(
        b"" if unknown else f"{row[column]:f}:{column}:{answer.class_names[column]}".encode()
        for row, columns, unknown in zip(answer.probabilities, order, answer.unknown, strict=True)
        for column in columns
    )
    return OutputTensor(name=PROBABILITIES, shape=order.shape, values=texts)


def _facts(given: Parameters, answer: Answer) -> dict[str, Parameter]:
    facts: dict[str, Parameter] = {
        "swarm_gate_version": answer.gate_version,
        "swarm_degraded": any(answer.degraded),
        "swarm_combination": answer.combination,
        "swarm_calibration": float(answer.calibration),
        "swarm_unknown": any(answer.unknown),
    }
    if wants_route(given):
        facts["swarm_route"] = json.dumps(_route(answer), separators=(",", ":"))
        if answer.gate_entropy:
            facts["swarm_gate_entropy"] = sum(answer.gate_entropy) / len(answer.gate_entropy)
    if answer.missing_experts:
        facts["swarm_missing_experts"] = ",".join(answer.missing_experts)
    if _flag(given, "class_names", False) or "profile" in given:
        facts["swarm_class_names"] = json.dumps(answer.class_names, ensure_ascii=False)
    return facts


def _route(answer: Answer) -> list[dict[str, object]]:
    """For each row who answered, in falling weight, how undecided the gate was, and whether one lacked."""
    entropies = answer.gate_entropy or (None,) * len(answer.degraded)
    route: list[dict[str, object]] = []
    for sources, degraded, entropy in zip(answer.sources, answer.degraded, entropies, strict=True):
        row: dict[str, object] = {
            "experts": [
                {
                    "expert": source.expert,
                    "version": source.version,
                    "owner": source.owner,
                    "served_by": source.served_by,
                    "weight": round(source.weight, 6),
                    "manifest": source.manifest,
                }
                for source in sources
            ]
        }
        if entropy is not None:
            row["gate_entropy"] = round(entropy, 6)
        route.append(row | ({"degraded": True} if degraded else {}))
    return route


def _text(given: Parameters, name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise InvalidInputError(f"parameter {name}", found=repr(value)[:40], expected="a text")
    return value


def _flag(given: Parameters, name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInputError(f"parameter {name}", found=repr(value)[:40], expected="true or false")
    return value


def _count(given: Parameters, name: str) -> int:
    value = given.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInputError(f"parameter {name}", found=repr(value)[:40], expected="a number from 0")
    return value
