"""ANSWER.json: an answer with the signed digests that it came from, as `swarm predict --save` writes it, and
as a response of the Open Inference Protocol has it in its parameter `swarm_answer`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError

if TYPE_CHECKING:
    from swarm.domain.inference import Answer, Query
    from swarm.domain.replay import AnswerRecord

WRITE = "write one: swarm predict INPUT --save ANSWER.json"
NAME = (
    "name what swarm predict INPUT --save ANSWER.json wrote, or the JSON that answered parameter replayable"
)
_LATEST = (1 << 63) - 1
"""Of a gate's versions: what the messages hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAnswer:
    """What a file says: `answer` and `query` as JSON has them, `record` checked, `signed` the statement of
    who gave it (not verified; empty: nobody). `beside`: what a response of the Open Inference Protocol, in
    which the answer came, says otherwise than the answer."""

    answer: dict[str, Any]
    query: dict[str, Any]
    record: "AnswerRecord"
    signed: bytes = b""
    beside: tuple[str, ...] = ()


def save_answer(file: Path, answer: "Answer", query: "Query", source: str) -> None:
    """Write an answer to inputs that came from the file `source`; the inputs stay there.

    Raises VerificationError for an answer that does not say what it came from, or is signed for another
    request.
    """
    from swarm.answering.answer_document import answer_document
    from swarm.answering.vouching import check_request

    if answer.record is None:
        raise VerificationError(
            f"answer by gate {answer.gate_version}",
            found="no record of what it came from: who answered is older than this command",
            expected="a record, to compute it again by",
            remedy="upgrade the coordinator (a node that answers while it is away, too), or leave --save out",
        )
    check_request(answer, query)
    document = answer_document(answer, query, str(Path(source).resolve()))
    file.write_text(json.dumps(document, allow_nan=False, indent=1) + "\n")


def read_answer(file: Path) -> SavedAnswer:
    """Return what a file says.

    Raises NotFoundError, or InvalidInputError for another kind of file or one that lacks something.
    """
    from swarm.answering.answer_document import SCHEMA
    from swarm.cli.answer_responses import is_response, otherwise, replayable_part
    from swarm.domain.replay import AnswerRecord
    from swarm.trust.codec import canonical_json, from_json, parse_json

    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"answer {file}", found="no such file", remedy=WRITE) from None
    try:
        whole = document = parse_json(data, f"answer {file}")
        if is_response(whole):
            document = parse_json(replayable_part(whole, f"answer {file}"), f"answer {file}")
    except InvalidInputError as error:
        expected = error.expected or f"{SCHEMA} as JSON"
        remedy = error.remedy or NAME
        raise InvalidInputError(error.subject, found=error.found, expected=expected, remedy=remedy) from error
    parts = ("inputs", "query", "record", "answer")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not document.keys() >= {*parts}:
        raise InvalidInputError(
            f"answer {file}",
            found="another kind of JSON",
            expected=f"{SCHEMA} with {', '.join(parts)}",
            remedy=WRITE,
        )
    try:
        _check_figures(document, f"answer {file}")
        record = from_json(AnswerRecord, canonical_json(document["record"]))
    except InvalidInputError as error:
        raise InvalidInputError(
            error.subject,
            found=error.found,
            expected=error.expected or "what swarm predict --save wrote",
            remedy="save the answer again: swarm predict INPUT --save ANSWER.json",
        ) from error
    if not 1 <= record.gate_version <= _LATEST:
        found = str(record.gate_version)[:40]
        raise InvalidInputError(f"answer {file}: gate_version", found=found, expected="a version, from 1")
    query = {"request_id": "", **document["query"], "inputs": document["inputs"]}
    signed = canonical_json(document["signed"]) if "signed" in document else b""
    beside = otherwise(whole, document["answer"], query["request_id"]) if is_response(whole) else ()
    return SavedAnswer(answer=document["answer"], query=query, record=record, signed=signed, beside=beside)


def _check_figures(document: dict[str, Any], subject: str) -> None:
    """Raise InvalidInputError, naming the field, where one is missing or of another type or size."""
    from pydantic import TypeAdapter, ValidationError

    try:
        answer = TypeAdapter(_File).validate_json(json.dumps(document), strict=True).answer
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{subject}: {where}", found=first["msg"]) from error
    rows, classes = len(answer.probabilities), len(answer.class_names)
    by_row: dict[str, list[Any] | None] = {
        "confidence": answer.confidence,
        "labels": answer.labels,
        "degraded": answer.degraded,
        "unknown": answer.unknown,
        "out_of_distribution": answer.out_of_distribution,
    }
    for name, values in by_row.items():
        if values is not None and len(values) != rows:
            raise InvalidInputError(
                f"{subject}: {name}", found=f"{len(values)} rows", expected=f"{rows} rows"
            )
    if any(len(row) != classes for row in answer.probabilities):
        found = "a row of another size"
        raise InvalidInputError(f"{subject}: probabilities", found=found, expected=f"{classes} classes")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    path: str
    digest: str
    dtype: str
    shape: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    owners: list[str]
    min_confidence: float
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    leaf: str
    expert: str
    version: int
    manifest: str
    owner: str
    served_by: str
    weight: float
    module_digests: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    class_names: list[str]
    probabilities: list[list[float]]
    confidence: list[float]
    out_of_distribution: list[float] | None
    labels: list[str]
    degraded: list[bool]
    unknown: list[bool]
    gate_version: int
    combination: str
    calibration: float
    missing_experts: list[str]
    flops_per_query: float
    gate_entropy: list[float]
    sources: list[list[_Source]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What commands look at, of what `plain` makes of an answer and its query."""

    inputs: _Inputs
    query: _Asked
    answer: _Figures
