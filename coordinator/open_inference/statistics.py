"""What the models were asked since the coordinator started, as the protocol's statistics extension counts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarm.domain.open_inference import BatchStatistics, Durations, ModelStatistics

MOST_VERSIONS = 1024
"""The versions that were asked last are told of; what is older is forgotten."""
MOST_BATCH_SIZES = 64
COMPUTED = ("compute_input", "compute_infer", "compute_output")
PHASES = ("queue", *COMPUTED)


@dataclass(slots=True)
class Stopwatch:
    """Times the phases of one request; a phase that was begun twice counts in sum."""

    now_ns: Callable[[], int]
    rows: int = 0
    phases: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one of PHASES."""
        began = self.now_ns()
        try:
            yield
        finally:
            self.phases[name] += self.now_ns() - began


@dataclass(slots=True)
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def durations(self) -> Durations:
        return Durations(count=self.count, ns=self.ns)


def _sums(phases: tuple[str, ...] = PHASES) -> dict[str, _Sum]:
    return {phase: _Sum() for phase in phases}


@dataclass(slots=True)
class _Account:
    rows: int = 0
    last_ms: int = 0
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    phases: dict[str, _Sum] = field(default_factory=_sums)
    batches: dict[int, dict[str, _Sum]] = field(default_factory=dict)


class Statistics:
    """Counts for one event loop. `clock`: seconds since the epoch; `now_ns`: from any steady origin."""

    def __init__(
        self, clock: Callable[[], float] = time.time, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._clock, self._now_ns = clock, now_ns
        self._accounts: dict[tuple[str, str], _Account] = {}

    @contextmanager
    def request(self, model: str, version: str) -> Iterator[Stopwatch]:
        """Count a request of a model that exists; one that raises is a failure."""
        watch, began = Stopwatch(self._now_ns), self._now_ns()
        account = self._account(model, version)
        try:
            yield watch
        except BaseException:
            account.fail.add(self._now_ns() - began)
            raise
        account.success.add(self._now_ns() - began)
        account.rows += watch.rows
        account.last_ms = int(self._clock() * 1000)
        batch = account.batches.get(watch.rows)
        if batch is None and len(account.batches) < MOST_BATCH_SIZES:
            batch = account.batches[watch.rows] = _sums(COMPUTED)
        for name, ns in watch.phases.items():
            account.phases[name].add(ns)
            if batch is not None and name in batch:
                batch[name].add(ns)

    def of(self, model: str, version: str) -> ModelStatistics:
        """Return a version's statistics: zeros for one that nobody asked."""
        account = self._accounts.get((model, version), _Account())
        return ModelStatistics(
            name=model,
            version=version,
            last_inference_ms=account.last_ms,
            rows=account.rows,
            requests=account.success.count,
            success=account.success.durations(),
            fail=account.fail.durations(),
            **{name: found.durations() for name, found in account.phases.items()},
            batches=tuple(
                BatchStatistics(rows=rows, **{name: found.durations() for name, found in batch.items()})
                for rows, batch in sorted(account.batches.items())
            ),
        )

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model that were asked."""
        return [version for name, version in self._accounts if name == model]

    def _account(self, model: str, version: str) -> _Account:
        found = self._accounts.pop((model, version), None) or _Account()
        self._accounts[model, version] = found
        while len(self._accounts) > MOST_VERSIONS:
            del self._accounts[next(iter(self._accounts))]
        return found
