"""The coordinator's disk does not grow for ever: arrays of old gate versions go, what was signed stays."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.config import CoordinatorFolder
from coordinator.contributions import ContributionFiles
from coordinator.gate_retention import YOUNG_S
from swarm.domain.errors import NotFoundError
from swarm.domain.gates import GateStatement
from swarm.domain.inference import Query
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import read_statement
from tests.support.coordinator import BackEnd, SmallNode, back_end, refusal, samples
from tests.support.gates import current

KEPT = 3


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path, gate_versions_kept=KEPT) as running:
        yield running


def contributions(swarm: BackEnd) -> ContributionFiles:
    return ContributionFiles(CoordinatorFolder(swarm.home.coordinator).contributions, sweep=False)


async def grown(swarm: BackEnd, versions: int) -> SmallNode:
    ada = await swarm.node("ada", "ab", sums="exact")
    await train(ada, versions)
    return ada


async def train(node: SmallNode, times: int) -> None:
    """Give the gate more samples each time, so that no two versions have the same arrays."""
    for _ in range(times):
        node.count += 6
        await node.train()


async def eventually_whole(swarm: BackEnd, count: int) -> None:
    async with asyncio.timeout(10):
        while len(contributions(swarm).whole()) != count:
            await asyncio.sleep(0.05)


async def test_arrays_of_old_versions_go_and_rolling_back_to_them_is_refused_by_name(swarm: BackEnd) -> None:
    ada = await grown(swarm, 6)
    await eventually_whole(swarm, KEPT)
    found = contributions(swarm)
    assert len(found.digests()) == 6
    assert len((await ada.coordinator.history()).envelopes) == 6
    operator = await swarm.operator()
    error = await refusal(operator.rollback(2))
    assert isinstance(error, NotFoundError) and "rollback to gate 2" in str(error)
    assert "gate 4 to 6" in error.expected and "SWARM_GATE_VERSIONS_KEPT" in error.remedy
    assert (await current(ada)).version == 6
    older = read_statement(await ada.coordinator.gate(4), GateStatement).value
    back = read_statement(await operator.rollback(4), GateStatement).value
    assert (back.version, back.arrays) == (7, older.arrays)


async def test_a_query_by_a_version_whose_arrays_went_is_refused_by_name(
    swarm: BackEnd,
) -> None:
    ada = await grown(swarm, 3)
    folder = CoordinatorFolder(swarm.home.coordinator).blobs
    old = time.time() - 2 * YOUNG_S
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    await train(ada, 3)
    await eventually_whole(swarm, KEPT)
    inputs = samples("a", 4, seed=1)
    error = await refusal(ada.coordinator.predict(Query(inputs=inputs, gate_version=1)))
    assert isinstance(error, NotFoundError) and "gate 1" in str(error) and "to 6" in error.expected
    for version in (0, 4, 5, 6):
        answer = await ada.coordinator.predict(Query(inputs=inputs, gate_version=version))
        assert answer.gate_version == (version or 6)
    present = {entry.blob for entry in (await current(ada)).arrays}
    assert present <= set(BlobFiles(folder).digests())


async def test_a_coordinator_that_is_told_to_keep_fewer_drops_them_at_its_next_start(swarm: BackEnd) -> None:
    ada = await grown(swarm, 3)
    await eventually_whole(swarm, 3)
    await swarm.stop_coordinator()
    await swarm.start_coordinator(gate_versions_kept=1)
    await eventually_whole(swarm, 1)
    operator = await swarm.operator()
    assert "gate 3" in (await refusal(operator.rollback(1))).expected
    answer = await (await swarm.operator()).predict(Query(inputs=samples("a", 4, seed=1)))
    assert answer.gate_version == 3
    assert ada.version == 3
