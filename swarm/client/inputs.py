"""What a user hands over, as the batch of raw inputs that the swarm's specification asks for."""

import math

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.specification import Specification


def as_batch(inputs: NDArray[np.generic], specification: Specification) -> NDArray[np.generic]:
    """Return inputs as [B, *input_shape] of the specification's dtype; one input alone as [1, ...].

    Numbers are converted only where nothing is lost. Raises ShapeMismatchError otherwise.
    """
    shape, dtype = specification.input_shape, np.dtype(specification.input_dtype)
    batch = inputs[None] if inputs.shape == shape else inputs
    if batch.shape[1:] != shape or batch.ndim < 2:
        sizes = ", ".join(map(str, shape))
        fits = inputs.size and inputs.size % math.prod(shape) == 0
        raise ShapeMismatchError(
            "inputs",
            found=f"shape {list(inputs.shape)}",
            expected=f"[B, {sizes}]",
            remedy=f"if the order of values is the same: inputs.reshape(-1, {sizes})"
            if fits
            else "crop or scale each input to that shape, as the swarm's data have it",
        )
    if not len(batch):
        raise InvalidInputError(
            "inputs",
            found="0 rows",
            expected="at least one row",
            remedy="give a file with inputs in it; one input alone may have no leading axis",
        )
    if batch.dtype == dtype:
        return batch
    if not np.isfinite(batch).all():
        raise InvalidInputError(
            "inputs",
            found="a value that is NaN or infinite",
            expected="finite numbers",
            remedy="remove or repair those inputs",
        )
    with np.errstate(invalid="ignore", over="ignore"):  # what does not fit is refused below
        converted = batch.astype(dtype)
    if not np.isfinite(converted).all():
        raise InvalidInputError(
            "inputs",
            found=f"a value of {batch.dtype} that {dtype} cannot hold",
            expected=f"numbers up to {np.finfo(dtype).max:.3g}",
            remedy="remove or repair those inputs",
        )
    if dtype == np.uint8 and not np.array_equal(converted, batch):
        raise ShapeMismatchError(
            "inputs",
            found=f"{batch.dtype} values that are no {dtype}",
            expected=f"raw inputs of {dtype}, before the swarm scales them by {specification.scale:g}",
            remedy=f"give the raw values; of inputs that were scaled so: numpy.rint((inputs -"
            f" {specification.offset:g}) / {specification.scale:g}).astype({str(dtype)!r})",
        )
    return converted
