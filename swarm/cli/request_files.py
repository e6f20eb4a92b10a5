"""REQUEST.json: what was asked over the Open Inference Protocol, as its JSON was sent."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.open_inference.models import input_of
from swarm.domain.errors import NotFoundError
from swarm.domain.open_inference import InferRequest
from swarm.domain.specification import Specification
from swarm.rpc.open_inference.json_body import request_from_body
from swarm.rpc.open_inference.tensors import read_input


def requested_inputs(file: Path, specification: Specification) -> NDArray[np.generic]:
    """Return a request's inputs [B, *input_shape].

    Raises NotFoundError where there is no such file, InvalidInputError or ShapeMismatchError as the
    coordinator does for what is no request to this swarm.
    """
    return read_input(_request(file).inputs, input_of(specification))


def requested_id(file: Path) -> str:
    """Return what a request calls itself, empty where it has no `id`; raises as `requested_inputs` does."""
    return _request(file).id


def _request(file: Path) -> InferRequest:
    try:
        data = file.read_bytes()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise NotFoundError(f"request {file}", found=found, expected="the JSON that was sent") from None
    return request_from_body("", "", data, None).request
