"""ANSWER.json: an answer with the signed digests that it came from, as `swarm predict --save` writes it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli.output import plain
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError

if TYPE_CHECKING:
    from swarm.domain.inference import Answer, Query
    from swarm.domain.replay import AnswerRecord

SCHEMA = "swarm.answer/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    path: str
    digest: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    owners: tuple[str, ...]
    min_confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    class_names: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]
    confidence: tuple[float, ...]
    out_of_distribution: tuple[float, ...] | None
    degraded: tuple[bool, ...]
    unknown: tuple[bool, ...]
    labels: tuple[str, ...]
    gate_version: int
    combination: str
    calibration: float
    missing_experts: tuple[str, ...]
    flops_per_query: float
    gate_entropy: tuple[float, ...]
    sources: tuple[tuple[dict[str, Any], ...], ...]

    @property
    def fits(self) -> bool:
        """Say whether each row has all its figures."""
        far = self.confidence if self.out_of_distribution is None else self.out_of_distribution
        by_row = (self.confidence, far, self.degraded, self.unknown, self.labels)
        rows = len(self.probabilities)
        return all(len(each) == rows for each in by_row) and all(
            len(row) == len(self.class_names) for row in self.probabilities
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAnswer:
    """What a file says: `answer` and `query` as JSON has them, `record` checked, `signed` the statement of
    who gave it (not verified; empty: nobody)."""

    answer: dict[str, Any]
    query: dict[str, Any]
    record: "AnswerRecord"
    signed: bytes = b""


def save_answer(file: Path, answer: "Answer", query: "Query", source: str) -> None:
    """Write an answer to inputs that came from the file `source`; the inputs stay there.

    Raises VerificationError for an answer that does not say what it came from.
    """
    from swarm.answering.vouching import inputs_digest
    from swarm.trust.codec import to_json

    if answer.record is None:
        raise VerificationError(
            f"answer by gate {answer.gate_version}",
            found="no record of what it came from: who answered is older than this command",
            expected="a record, to compute it again by",
            remedy="upgrade the coordinator (a node that answers while it is away, too), or leave --save out",
        )
    asked = {"owners": query.owners, "min_confidence": query.min_confidence}
    inputs: dict[str, Any] = {"path": str(Path(source).resolve()), "digest": inputs_digest(query.inputs)}
    inputs |= {"dtype": query.inputs.dtype.name, "shape": list(query.inputs.shape)}
    said = plain(replace(answer, record=None)) | {"labels": list(answer.labels)}
    del said["record"], said["signed"]
    record = json.loads(to_json(answer.record))
    document = {"schema": SCHEMA, "inputs": inputs, "query": plain(asked), "record": record, "answer": said}
    if answer.signed:
        document["signed"] = json.loads(answer.signed)
    file.write_text(json.dumps(document, allow_nan=False, indent=1) + "\n")


def read_answer(file: Path) -> SavedAnswer:
    """Return what a file says. Raises NotFoundError, or InvalidInputError for another kind of file."""
    from swarm.domain.replay import AnswerRecord
    from swarm.trust.codec import canonical_json, from_json, parse_json

    try:
        data = file.read_bytes()
    except FileNotFoundError:
        remedy = "write one: swarm predict INPUT --save ANSWER.json"
        raise NotFoundError(f"answer {file}", found="no such file", remedy=remedy) from None
    document = parse_json(data, f"answer {file}")
    parts = ("inputs", "query", "record", "answer")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not document.keys() >= {*parts}:
        raise InvalidInputError(
            f"answer {file}",
            found="another kind of JSON",
            expected=f"{SCHEMA} with {', '.join(parts)}",
            remedy="write one: swarm predict INPUT --save ANSWER.json",
        )
    said = from_json(_Said, canonical_json(document["answer"]))
    for kind, name in ((_Inputs, "inputs"), (_Asked, "query")):
        from_json(kind, canonical_json(document[name]))
    if not said.fits:
        raise InvalidInputError(
            f"answer {file}",
            found="figures of another number of rows or classes than there are",
            expected="the file as `swarm predict --save` wrote it",
        )
    record = from_json(AnswerRecord, canonical_json(document["record"]))
    query = {**document["query"], "inputs": document["inputs"]}
    signed = canonical_json(document["signed"]) if "signed" in document else b""
    return SavedAnswer(answer=document["answer"], query=query, record=record, signed=signed)
