"""What was on trial is no part of the history once it is decided: nothing of it is kept, or returned to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.contributions import ContributionFiles
from swarm.domain.errors import ConflictError, HarmfulContributionError
from swarm.domain.ids import ExpertId
from tests.support.coordinator import BackEnd, back_end, refusal
from tests.support.gates import current, swapped
from tests.support.growing_node import GrowingNode

E0 = ExpertId("ada.e0")


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path, growth_patience_s=1.0) as running:
        yield running


async def ada_of(swarm: BackEnd) -> GrowingNode:
    ada = GrowingNode(swarm, await swarm.join("ada"), ("a", "b"), knows=swapped())
    await swarm.connect(ada)
    bob = await swarm.node("bob", "cd")
    for node in (ada, bob):
        await node.train()
    return ada


def stored(swarm: BackEnd) -> ContributionFiles:
    (folder,) = swarm.home.coordinator.rglob("contributions")
    return ContributionFiles(folder, sweep=False)


@pytest.mark.growth
async def test_however_many_splits_fail_the_coordinator_stores_no_more_contributions(swarm: BackEnd) -> None:
    ada, operator = await ada_of(swarm), await swarm.operator()
    before = (await current(ada)).version
    counts = []
    for number in range(1, 4):
        proposal = await operator.propose("split", [E0])
        await ada.split(proposal.id)
        assert len(stored(swarm).pinned()) == 1
        error = await refusal(ada.settle(proposal.id, swapped()))
        assert isinstance(error, HarmfulContributionError), error
        assert (await operator.proposals(f"p{number}"))[0].state == "rolled-back"
        counts.append(len(stored(swarm).digests()))
    assert counts == [2, 2, 2] and not stored(swarm).pinned()
    on_trial = (await operator.proposals("p1"))[0].gate_versions[0]
    error = await refusal(operator.rollback(on_trial))
    assert isinstance(error, ConflictError) and "exact copies of ada that were on trial then" in error.found
    await operator.rollback(before)
    assert (await current(ada)).change.kind == "rollback"


async def test_an_accepted_split_keeps_what_it_came_to_and_what_it_came_from(swarm: BackEnd) -> None:
    ada, operator = await ada_of(swarm), await swarm.operator()
    before = await current(ada)
    await operator.propose("split", [E0])
    await ada.split("p1")
    assert (await ada.settle("p1", {})).state == "activated"
    assert len(stored(swarm).digests()) == 3 and not stored(swarm).pinned()
    await operator.rollback(before.version)
    assert (await current(ada)).leaves == before.leaves
