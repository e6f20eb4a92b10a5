"""Whether a query can be answered under the specification; refusals name the field."""

import numpy as np

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.inference import MAX_QUERY_ROWS, Query
from swarm.domain.specification import Specification


def check_query(query: Query, specification: Specification) -> None:
    """Raise unless the inputs have the specification's shape and dtype and are finite.

    Reads every value: for large batches call it outside the event loop.
    """
    inputs = query.inputs
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
    if not 1 <= len(inputs) <= MAX_QUERY_ROWS:
        raise InvalidInputError(
            "inputs",
            found=f"{len(inputs)} rows",
            expected=f"1 to {MAX_QUERY_ROWS}",
            remedy="send them in several queries" if len(inputs) else "",
        )
    if query.top_k < 0:
        raise InvalidInputError("top_k", found=str(query.top_k), expected="0 (the gate's own) or more")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        flat = ~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        raise InvalidInputError(
            f"inputs, row {int(np.flatnonzero(flat)[0])}",
            found="NaN or infinity",
            expected="finite numbers",
            remedy="clean the inputs",
        )
