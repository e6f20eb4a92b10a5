"""Whether a query or an asker's examples fit the specification; refusals name the field."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.gates import GateStatement
from swarm.domain.inference import MAX_EXAMPLES, MAX_QUERY_ROWS, MAX_REQUEST_ID, Examples, Query
from swarm.domain.specification import Specification
from swarm.rpc.options import MAX_MESSAGE_BYTES

_NAMED = 20
_FRAMING_BYTES = 4
"""What the wire adds to each class name, at most; and to each row, its flag included."""
_ROW_BYTES = 9
"""What it takes to say how sure each row is, how far out, and whether it is unknown."""


def check_query(query: Query, specification: Specification) -> None:
    """Raise unless the inputs have the specification's shape and dtype and are finite.

    Reads every value: for large batches call it outside the event loop.
    """
    check_inputs(query.inputs, specification, MAX_QUERY_ROWS)
    if query.top_k < 0:
        raise InvalidInputError("top_k", found=str(query.top_k), expected="0 (the gate's own) or more")
    if not 0 <= query.min_confidence <= 1:
        raise InvalidInputError("min_confidence", found=str(query.min_confidence), expected="0 to 1")
    if len(query.request_id) > MAX_REQUEST_ID:
        raise InvalidInputError(
            "id of the request",
            found=f"{len(query.request_id)} characters, to be signed",
            expected=f"at most {MAX_REQUEST_ID}",
        )


def check_answer_size(rows: int, class_names: Sequence[str]) -> None:
    """Raise InvalidInputError unless probabilities [rows, C] over class_names fit into one message."""
    fit = rows_that_fit(class_names)
    if rows > fit:
        raise InvalidInputError(
            "inputs",
            found=f"{rows} rows, each answered over {len(class_names)} classes",
            expected=f"at most {fit} rows, so that the answer fits into {MAX_MESSAGE_BYTES >> 20} MiB",
            remedy="send them in several queries",
        )


def rows_that_fit(class_names: Sequence[str]) -> int:
    """Return how many rows a query may have, 1 to MAX_QUERY_ROWS, by the size of its answer."""
    names = sum(len(name.encode()) + _FRAMING_BYTES for name in class_names)
    row = np.dtype(np.float32).itemsize * len(class_names) + _FRAMING_BYTES + _ROW_BYTES
    return min(MAX_QUERY_ROWS, max(1, (MAX_MESSAGE_BYTES - names) // row))


def check_profiled(query: Query) -> None:
    """Raise unless the query asks for its profile alone: that is one root, of the owners who agree."""
    beside = [f"owners {', '.join(query.owners[:5])}"] if query.owners else []
    beside += [f"combination {query.combination}"] if query.combination else []
    beside += [f"top_k {query.top_k}"] if query.top_k else []
    beside += ["uniform"] if query.uniform else []
    beside += [f"gate_version {query.gate_version}"] if query.gate_version else []
    if beside:
        raise InvalidInputError(
            f"profile {query.profile[:12]}",
            found=f"together with {' and '.join(beside)}",
            expected="a profile alone: the owners whose sums agree answer by their own root",
        )


def check_replayable(query: Query) -> None:
    """Raise where a profile's answer shall be replayable: its root is nobody's to fetch."""
    if query.replayable:
        raise InvalidInputError(
            f"profile {query.profile[:12]}",
            found="an answer that shall be replayable",
            expected="one of the swarm's gate: a profile's root is not published",
        )


def check_examples(
    examples: Examples, specification: Specification, gate: GateStatement
) -> NDArray[np.int64]:
    """Return the examples' labels as columns of the gate's classes, int64 [N].

    Raises like `check_query` for the inputs, InvalidInputError for a label that the gate does not know.
    """
    check_inputs(examples.inputs, specification, MAX_EXAMPLES)
    if len(examples.labels) != len(examples.inputs):
        raise InvalidInputError(
            "examples",
            found=f"{len(examples.inputs)} inputs, {len(examples.labels)} labels",
            expected="one label for each input",
        )
    column = {name: row for row, name in enumerate(gate.class_names)}
    unknown = sorted({name for name in examples.labels if name not in column})
    if unknown:
        more = len(gate.class_names) - _NAMED
        listed = ", ".join(gate.class_names[:_NAMED])
        raise InvalidInputError(
            "labels of the examples",
            found=f"unknown class {', '.join(repr(name[:80]) for name in unknown[:5])}",
            expected=f"one of {listed}{f' and {more} more' if more > 0 else ''}",
        )
    return np.array([column[name] for name in examples.labels], dtype=np.int64)


def check_inputs(inputs: NDArray[np.generic], specification: Specification, most: int) -> None:
    """Raise unless there are 1 to `most` inputs of the specification's shape and dtype, all finite."""
    shape = tuple(specification.input_shape)
    if inputs.ndim != len(shape) + 1 or inputs.shape[1:] != shape:
        batch = list(inputs.shape) == list(shape)
        raise ShapeMismatchError(
            "inputs",
            found=f"shape {list(inputs.shape)}",
            expected=f"[rows, {', '.join(map(str, shape))}]",
            remedy="add a leading axis: x[None]" if batch else "",
        )
    if inputs.dtype != np.dtype(specification.input_dtype):
        raise ShapeMismatchError(
            "inputs",
            found=f"dtype {inputs.dtype}",
            expected=specification.input_dtype,
            remedy=f'convert them: x.astype("{specification.input_dtype}")',
        )
    if not 1 <= len(inputs) <= most:
        raise InvalidInputError(
            "inputs",
            found=f"{len(inputs)} rows",
            expected=f"1 to {most}",
            remedy=_fewer(len(inputs), most),
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        flat = ~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        raise InvalidInputError(
            f"inputs, row {int(np.flatnonzero(flat)[0])}",
            found="NaN or infinity",
            expected="finite numbers",
            remedy="clean the inputs",
        )


def _fewer(rows: int, most: int) -> str:
    if not rows:
        return ""
    return "send them in several queries" if most == MAX_QUERY_ROWS else "a few dozen examples are enough"
