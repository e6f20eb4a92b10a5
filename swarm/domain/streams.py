"""A stream of mega-batches as its learner is judged: error, memory and computation, summed over the stream.

Anytime learning at macroscale: after every mega-batch the learner has to answer, whether it has trained on it
or waits. Source: Caccia et al. 2022, "On Anytime Learning at Macroscale", section 3.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.domain.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class MegaBatchRecord:
    """What one mega-batch did to a learner.

    number counts from 1; samples are those that arrived with it. error is the test error 0..1 after it;
    waited says that nothing was trained, so that an older model (or none yet) answered. parameters is the
    size of the model that answered, in numbers. FLOPs and seconds are what learning spent on this mega-batch
    alone, testing not counted: flops_forward in forward passes, flops_total with backward passes and whatever
    else there was to compute. Raises InvalidInputError for values that cannot be.
    """

    number: int
    samples: int
    error: float
    waited: bool
    parameters: int
    flops_forward: int
    flops_total: int
    seconds: float

    def __post_init__(self) -> None:
        subject = f"mega-batch {self.number}"
        if self.number < 1 or self.samples < 1:
            raise InvalidInputError(
                subject, found=f"{self.samples} samples", expected="a number from 1 and samples"
            )
        if not 0 <= self.error <= 1:
            raise InvalidInputError(subject, found=f"an error of {self.error}", expected="0 to 1")
        if self.parameters < 0 or not 0 <= self.seconds < math.inf:
            raise InvalidInputError(
                subject,
                found=f"{self.parameters} parameters, {self.seconds} seconds",
                expected="neither below 0",
            )
        if not 0 <= self.flops_forward <= self.flops_total:
            raise InvalidInputError(
                subject,
                found=f"{self.flops_forward} FLOPs forward of {self.flops_total}",
                expected="a part of the whole",
            )


class Flops(NamedTuple):
    """FLOPs of a stream: in forward passes, and altogether."""

    forward: int
    total: int


def cumulative_error(records: Sequence[MegaBatchRecord]) -> float:
    """Return the CER: the sum of the test errors (0..1) after each mega-batch, 0 to len(records).

    Raises InvalidInputError unless records are mega-batches 1, 2, ... without a gap: a missing error would
    count as none.
    """
    _check_numbers(records)
    return math.fsum(record.error for record in records)


def cumulative_memory(records: Sequence[MegaBatchRecord]) -> int:
    """Return the sum over mega-batches of the parameters that answered; errors as in `cumulative_error`."""
    _check_numbers(records)
    return sum(record.parameters for record in records)


def cumulative_flops(records: Sequence[MegaBatchRecord]) -> Flops:
    """Return the FLOPs that learning the whole stream took; errors as in `cumulative_error`."""
    _check_numbers(records)
    return Flops(
        forward=sum(record.flops_forward for record in records),
        total=sum(record.flops_total for record in records),
    )


def _check_numbers(records: Sequence[MegaBatchRecord]) -> None:
    for expected, record in enumerate(records, start=1):
        if record.number != expected:
            raise InvalidInputError(
                "stream records",
                found=f"mega-batch {record.number} in place {expected}",
                expected="mega-batches 1, 2, ... in order, none left out",
            )
