"""Histories recorded and checked, one after the other, until the first that nothing explains."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.linearizability.checking import Violation, check
from tests.linearizability.cluster import Cluster
from tests.linearizability.heads_model import HeadState
from tests.linearizability.planted import BUGS
from tests.linearizability.recording import Plan, Recorded, record


@dataclass(slots=True, kw_only=True)
class Searched:
    """What was recorded, and the first violation with its history."""

    histories: int = 0
    operations: int = 0
    unknown: int = 0
    faults: int = 0
    violation: Violation[HeadState] | None = None
    history: Recorded | None = None

    def __str__(self) -> str:
        if self.violation is None or self.history is None:
            return f"{self.histories} histories, {self.operations} operations: linearizable"
        rows = "\n".join(f"  {each}" for each in self.history.operations)
        return f"{self.history.expert}: {self.violation}\n{rows}"


async def search(
    cluster: Cluster, *, histories: int, first_seed: int = 0, until: float = float("inf")
) -> Searched:
    """Record up to so many histories, none that begins after `until` (monotonic), and check each."""
    found = Searched()
    for seed in range(first_seed, first_seed + histories):
        if time.monotonic() > until:
            break
        recorded = await record(cluster, Plan.of(seed))
        found.histories += 1
        for each in recorded:
            found.operations += len(each.operations)
            found.unknown += sum(operation.outcome is None for operation in each.operations)
            violation = check(each.model, each.operations)
            if violation is not None:
                found.violation, found.history = violation, each
        found.faults = cluster.faults
        if found.violation is not None:
            break
    return found


async def find_bug(folder: Path, bug: str, histories: int) -> Searched:
    """Look for one planted bug in a registry of its own."""
    assert bug in BUGS
    cluster = Cluster(folder, bug)
    await cluster.start()
    try:
        return await search(cluster, histories=histories)
    finally:
        await cluster.stop()
