"""What is asked of a request before a node's experts compute anything for it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    ShapeMismatchError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.inference import MAX_QUERY_ROWS, ExpertRequest, ExpertTask
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.rpc.options import MAX_MESSAGE_BYTES


def check_request(request: ExpertRequest, specification: Specification) -> None:
    """Raise by name unless a request is for this trunk, with inputs as specified and rows that exist.

    Whether the inputs are finite is left to `check_finite`, which several requests can pass together.
    """
    if request.trunk != specification.trunk.digest:
        raise TrunkMismatchError(
            f"query under gate {request.gate_version}",
            found=f"trunk {request.trunk[:12]}",
            expected=f"trunk {specification.trunk.digest[:12]}",
            remedy="route with a gate of this swarm's trunk",
        )
    _check_shape(request.inputs, specification)
    for task in request.tasks:
        _check_rows(task, len(request.inputs))


def check_finite(inputs: NDArray[np.generic]) -> None:
    """Raise InvalidInputError unless inputs [B, ...] are finite; it names the first row that is not."""
    if inputs.dtype.kind != "f" or np.isfinite(inputs).all():
        return
    bad = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))
    raise InvalidInputError(
        "inputs", found=f"a value that is not finite in row {bad[0]}", expected="finite numbers"
    )


def check_manifest(manifest: Manifest, task: ExpertTask, specification: Specification) -> None:
    """Raise unless a manifest is one of the task's expert, under the specification's trunk."""
    if manifest.expert != task.expert:
        raise VerificationError(
            f"task for {task.expert}",
            found=f"manifest {task.manifest[:12]} of {manifest.expert}",
            expected="a manifest of that expert",
        )
    if manifest.trunk != specification.trunk.digest:
        raise TrunkMismatchError(
            f"{manifest.expert}@{manifest.version}",
            found=f"trunk {manifest.trunk[:12]}",
            expected=f"trunk {specification.trunk.digest[:12]}",
            remedy="train it again under the present trunk",
        )


def answer_bytes(rows: int, class_names: Sequence[str]) -> int:
    """Return about how many bytes an answer takes: float32 [rows, C] and the names."""
    return rows * len(class_names) * np.dtype(np.float32).itemsize + sum(map(len, class_names))


def check_answer_size(size: int) -> None:
    """Raise ExhaustedError, before more is computed, where answers of so many bytes fit into no message."""
    if size > MAX_MESSAGE_BYTES:
        raise ExhaustedError(
            "answer",
            found=f"more than {MAX_MESSAGE_BYTES >> 20} MiB",
            expected="values and class names that fit into one message",
            remedy="ask in smaller batches",
        )


def _check_shape(inputs: NDArray[np.generic], specification: Specification) -> None:
    if inputs.dtype.name != specification.input_dtype or inputs.shape[1:] != specification.input_shape:
        raise ShapeMismatchError(
            "inputs",
            found=f"{inputs.dtype} {list(inputs.shape)}",
            expected=f"{specification.input_dtype} [B, {', '.join(map(str, specification.input_shape))}]",
        )
    if len(inputs) > MAX_QUERY_ROWS:
        raise InvalidInputError(
            "inputs", found=f"{len(inputs)} rows", expected=f"at most {MAX_QUERY_ROWS} in one query"
        )


def _check_rows(task: ExpertTask, count: int) -> None:
    rows = task.rows
    if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= count)):
        raise InvalidInputError(
            f"rows for {task.expert}", found=f"a row outside 0..{count - 1}", expected="rows of the inputs"
        )
    if len(rows) > MAX_QUERY_ROWS:
        raise InvalidInputError(
            f"rows for {task.expert}", found=f"{len(rows)} rows", expected=f"at most {MAX_QUERY_ROWS}"
        )
