"""Large batches: what one call takes, and the answers of several calls put together again. Pure."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from swarm.answering.query_checks import rows_that_fit
from swarm.domain.errors import ConflictError
from swarm.domain.inference import Answer
from swarm.domain.specification import Specification
from swarm.rpc.options import MAX_MESSAGE_BYTES

EXPLAINED_ROWS = 512
"""At most so many rows in one call where each is answered with its sources."""


def rows_at_once(specification: Specification, *, explain: bool = False) -> int:
    """Return how many rows one call takes, at least 1: by the sizes of an input and of its answer."""
    row_bytes = math.prod(specification.input_shape) * np.dtype(specification.input_dtype).itemsize
    fit = min(rows_that_fit(specification.class_names), MAX_MESSAGE_BYTES // row_bytes)
    return max(1, min(fit, EXPLAINED_ROWS) if explain else fit)


def joined(answers: Sequence[Answer]) -> Answer:
    """Return the answers of consecutive rows as one.

    Raises ConflictError where they are not of one gate and one combination, for they cannot be compared.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    for other in answers[1:]:
        if _kind(other) != _kind(first):
            raise ConflictError(
                "answer in parts",
                found=f"gate {first.gate_version}, then gate {other.gate_version}",
                expected="one gate for all rows",
                remedy="ask again",
            )
    entropies = [each.gate_entropy for each in answers if each.gate_entropy]
    far = [part for answer in answers if (part := answer.out_of_distribution) is not None]
    rows = np.array([len(answer.probabilities) for answer in answers])
    return Answer(
        class_names=first.class_names,
        probabilities=np.concatenate([answer.probabilities for answer in answers]),
        gate_version=first.gate_version,
        degraded=tuple(flag for answer in answers for flag in answer.degraded),
        sources=tuple(row for answer in answers for row in answer.sources),
        missing_experts=tuple(sorted({name for answer in answers for name in answer.missing_experts})),
        flops_per_query=float(np.average([answer.flops_per_query for answer in answers], weights=rows)),
        combination=first.combination,
        gate_entropy=tuple(itertools.chain(*entropies)) if len(entropies) == len(answers) else (),
        confidence=np.concatenate([answer.confidence for answer in answers]),
        calibration=first.calibration,
        out_of_distribution=np.concatenate(far) if len(far) == len(answers) else None,
        unknown=tuple(flag for answer in answers for flag in answer.unknown),
    )


def _kind(answer: Answer) -> tuple[object, ...]:
    return answer.gate_version, answer.combination, answer.calibration, answer.class_names
