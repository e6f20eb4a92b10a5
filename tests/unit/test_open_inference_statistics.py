"""Statistics of the Open Inference Protocol: successes, failures and times by phase."""

import pytest

from coordinator.open_inference import statistics
from coordinator.open_inference.statistics import Statistics
from swarm.domain.open_inference import Durations


def counting() -> Statistics:
    """Statistics by clocks of their own: each look takes 10 ns, and it is always second 5."""
    ticks = iter(range(0, 1_000_000, 10))
    return Statistics(clock=lambda: 5.0, now_ns=lambda: next(ticks))


def test_a_request_counts_once_with_its_rows_and_its_phases() -> None:
    found = counting()
    with found.request("swarm", "2") as watch:
        for phase in ("compute_input", "queue", "compute_infer", "compute_output", "compute_input"):
            with watch.phase(phase):
                pass
        watch.rows = 3
    told = found.of("swarm", "2")
    assert (told.requests, told.rows, told.last_inference_ms) == (1, 3, 5000)
    assert told.success == Durations(count=1, ns=110) and told.fail == Durations()
    assert told.compute_input == Durations(count=1, ns=20)
    assert told.queue == told.compute_infer == told.compute_output == Durations(count=1, ns=10)
    (batch,) = told.batches
    assert batch.rows == 3 and batch.compute_input == told.compute_input


def test_a_failure_counts_as_one_and_leaves_rows_and_batches_alone() -> None:
    found = counting()
    with pytest.raises(ValueError), found.request("swarm", "2"):
        raise ValueError
    told = found.of("swarm", "2")
    assert told.fail == Durations(count=1, ns=10)
    assert (told.requests, told.rows, told.last_inference_ms, told.batches) == (0, 0, 0, ())


def test_versions_and_batch_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_VERSIONS", 2)
    monkeypatch.setattr(statistics, "MOST_BATCH_SIZES", 2)
    found = counting()
    for version in ("1", "2", "1", "3"):
        with found.request("ada.e0", version) as watch:
            watch.rows = int(version)
    assert found.versions("ada.e0") == ["1", "3"]
    for rows in (4, 5, 4):
        with found.request("ada.e0", "3") as watch:
            watch.rows = rows
    assert [batch.rows for batch in found.of("ada.e0", "3").batches] == [3, 4]
    assert found.of("ada.e0", "3").rows == 3 + 4 + 5 + 4
