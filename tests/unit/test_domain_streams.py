"""What a stream costs is the sum of what its mega-batches cost."""

from dataclasses import replace

import pytest

from swarm.domain.errors import InvalidInputError
from swarm.domain.streams import (
    Flops,
    MegaBatchRecord,
    cumulative_error,
    cumulative_flops,
    cumulative_memory,
)


def record(number: int, error: float = 0.5, parameters: int = 10, forward: int = 3) -> MegaBatchRecord:
    return MegaBatchRecord(
        number=number,
        samples=120,
        error=error,
        waited=forward == 0,
        parameters=parameters,
        flops_forward=forward,
        flops_total=3 * forward,
        seconds=0.25,
    )


STREAM = (record(1, 0.9, 10, 0), record(2, 0.25, 10, 7), record(3, 0.125, 25, 5))


def test_a_stream_costs_the_sum_over_its_mega_batches() -> None:
    assert cumulative_error(STREAM) == pytest.approx(1.275, abs=1e-12)
    assert cumulative_memory(STREAM) == 45
    assert cumulative_flops(STREAM) == Flops(forward=12, total=36)


def test_an_empty_stream_costs_nothing() -> None:
    assert (cumulative_error(()), cumulative_memory(()), cumulative_flops(())) == (0.0, 0, (0, 0))


@pytest.mark.parametrize("total", [cumulative_error, cumulative_memory, cumulative_flops])
def test_a_stream_with_a_gap_is_refused(total: object) -> None:
    assert callable(total)
    for broken in ((STREAM[0], STREAM[2]), STREAM[1:], STREAM[::-1]):
        with pytest.raises(InvalidInputError, match="stream records"):
            total(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 0},
        {"samples": 0},
        {"error": 1.1},
        {"error": float("nan")},
        {"parameters": -1},
        {"seconds": float("inf")},
        {"flops_forward": -1},
        {"flops_total": 2},
    ],
    ids=str,
)
def test_a_record_of_what_cannot_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="mega-batch"):
        replace(STREAM[1], **change)
