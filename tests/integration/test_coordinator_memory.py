"""What contributions weigh stays on disk: the coordinator's process grows by far less than one of them."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from swarm.domain.contributions import Contribution
from swarm.gating.regions import LeafSummary, region_columns, summarise_leaf
from swarm.trust.statements import read_statement
from tests.integration.test_coordinator_process import started
from tests.support import coordinator
from tests.support.coordinator import BackEnd, back_end

FEATURES = 2600
"""Of the trunk: one contribution has about 13.5 MB of exact sums."""
NODES = 5
AT_ONCE = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc gives freed memory back at once: what is left is held by somebody."""


def summarised(features: NDArray[np.float32], **options: Any) -> LeafSummary:
    return summarise_leaf(features[:, region_columns(features.shape[1])], **options)


@pytest.fixture
async def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BackEnd]:
    for name, value in AT_ONCE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(coordinator, "SIZE", FEATURES)
    monkeypatch.setattr(coordinator, "summarise_leaf", summarised)
    async with back_end(tmp_path) as running:
        await running.stop_coordinator()
        yield running


def own_memory(process: int) -> int:
    """Return the bytes that are a process' own: what it maps of files is not."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_large_contributions_do_not_stay_in_the_coordinators_memory(swarm: BackEnd) -> None:
    process = await started(swarm)
    try:
        grown, weight = [], 0
        for row in range(NODES):
            node = await swarm.node(f"node-{row}", "ab", sums="exact")
            await node.publish()
            envelope, arrays = await node.contribution()
            weight = len(arrays)
            assert read_statement(envelope, Contribution).value.sums is not None
            assert (await node.coordinator.contribute(envelope, arrays, node.fence)).state == "activated"
            grown.append(own_memory(process.pid))
        stored = swarm.home.coordinator / "contributions"
        assert sum(path.stat().st_size for path in stored.glob("*.bin")) == NODES * weight
        assert weight > 12_000_000
        # The first ones also load code and fill caches; three times their weight came after them.
        assert grown[-1] - grown[1] < 0.75 * weight, [each // 1_000_000 for each in grown]
    finally:
        process.kill()
        await process.wait()
