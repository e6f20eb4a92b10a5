"""Heads of the real registry over a real Redis, hurt while four callers of each expert go on."""

from pathlib import Path

import pytest

from tests.linearizability.checking import check
from tests.linearizability.cluster import FAULTS, Cluster
from tests.linearizability.planted import BUGS
from tests.linearizability.recording import Plan, record
from tests.linearizability.searching import find_bug, search

QUICKLY_FOUND = "an older lease's write is taken"


async def test_heads_are_linearizable_while_everything_is_cut_and_killed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start()
    try:
        plans = [Plan(seed=row, faults=((30, fault),), impatience=0.1) for row, fault in enumerate(FAULTS)]
        for plan in [Plan(seed=9), *plans]:
            for recorded in await record(cluster, plan):
                assert check(recorded.model, recorded.operations) is None
    finally:
        await cluster.stop()
    assert cluster.faults == len(FAULTS)


async def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    found = await find_bug(tmp_path, QUICKLY_FOUND, histories=20)
    assert found.violation is not None


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bug", BUGS)
async def test_every_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    found = await find_bug(tmp_path, bug, histories=60)
    assert found.violation is not None


@pytest.mark.chaos
@pytest.mark.timeout(1200)
async def test_heads_are_linearizable_at_length(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start()
    try:
        found = await search(cluster, histories=100, first_seed=10_000)
    finally:
        await cluster.stop()
    assert found.violation is None, str(found)
