"""The Open Inference Protocol's own nouns, whatever carries them: gRPC messages or HTTP bodies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError

PROTOCOL_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""What the protocol calls extensions and is served here."""

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
Datatype = Literal["FP32", "UINT8", "BYTES"]
Numbers = Sequence[object]
"""Numbers as JSON or a message has them: flat, or nested by the tensor's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """A tensor of a model; size -1 is as many rows as are sent."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """One version of a model. `versions` are all that can be asked, the newest last; `most_rows` per request.

    The outputs are `probabilities` over `class_names`, in their order, and `label`, the best of them.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    platform: str
    input: TensorMetadata
    outputs: tuple[TensorMetadata, ...]
    class_names: tuple[str, ...]
    most_rows: int
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStanding:
    """Whether a version of a model can be asked now; `reason` says why not."""

    name: str
    version: str
    is_ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OfferedTensor:
    """An input as it was sent, nothing checked: raw little-endian bytes, or numbers, or no content at all."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | memoryview | Numbers | None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output that is asked for; `classification` n above 0: the n best classes instead of the numbers."""

    name: str
    classification: int = 0

    @classmethod
    def of(cls, name: str, parameters: Parameters) -> "RequestedOutput":
        """Return an output as it is asked for; InvalidInputError for a classification that is no count."""
        classes = parameters.get("classification", 0)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
            raise InvalidInputError(
                f"output {name[:40]}", found=f"classification {classes!r:.40}", expected="a number of classes"
            )
        return cls(name=name, classification=classes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InferRequest:
    """One inference. No `version`: the newest; no `outputs`: all."""

    model: str
    version: str
    id: str
    parameters: Parameters
    inputs: tuple[OfferedTensor, ...]
    outputs: tuple[RequestedOutput, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputTensor:
    """An output: float32 values, or texts in UTF-8 with the shape that they have, row by row."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.float32] | tuple[bytes, ...]

    @property
    def datatype(self) -> Datatype:
        return "BYTES" if isinstance(self.values, tuple) else "FP32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InferResult:
    """What a model answered."""

    model: str
    version: str
    id: str
    parameters: Parameters
    outputs: tuple[OutputTensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How often something was done and how long it took in sum."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatistics:
    """The successful requests of one size in rows."""

    rows: int
    compute_input: Durations
    compute_infer: Durations
    compute_output: Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """What a version of a model was asked since the coordinator started.

    `last_inference_ms` since the epoch, 0 for never; `rows` and `requests` count successes.
    """

    name: str
    version: str
    last_inference_ms: int
    rows: int
    requests: int
    success: Durations
    fail: Durations
    queue: Durations
    compute_input: Durations
    compute_infer: Durations
    compute_output: Durations
    batches: tuple[BatchStatistics, ...]
