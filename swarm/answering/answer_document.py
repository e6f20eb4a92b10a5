"""A replayable answer as JSON data, with the signed digests that it came from: what `swarm replay` reads."""

import json
from dataclasses import replace
from typing import Any, Final

from swarm.answering.vouching import inputs_digest
from swarm.domain.inference import Answer, Query
from swarm.domain.plain import plain
from swarm.trust.codec import to_json

SCHEMA: Final = "swarm.answer/1"


def answer_document(answer: Answer, query: Query, path: str = "") -> dict[str, Any]:
    """Return an answer that has a record, as JSON data. The inputs are named by their digest and by `path`,
    the file where they lie; empty: whoever asked knows where."""
    assert answer.record is not None, "whoever calls asked for a replayable answer and looked"
    asked = {
        "owners": query.owners,
        "min_confidence": query.min_confidence,
        "request_id": query.request_id,
    }
    inputs: dict[str, Any] = {"path": path, "digest": inputs_digest(query.inputs)}
    inputs |= {"dtype": query.inputs.dtype.name, "shape": list(query.inputs.shape)}
    said = plain(replace(answer, record=None, signed=b"")) | {"labels": list(answer.labels)}
    del said["record"], said["signed"]
    record = json.loads(to_json(answer.record))
    document = {"schema": SCHEMA, "inputs": inputs, "query": plain(asked), "record": record, "answer": said}
    if answer.signed:
        document["signed"] = json.loads(answer.signed)
    return document
