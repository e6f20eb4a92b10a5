"""A node that owns more experts than its memory takes answers for all, to the bit as one with room."""

import asyncio
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from swarm.config import NodeHome
from swarm.domain.agent import ExpertMemory, TrainOrder
from swarm.domain.errors import SwarmError
from swarm.domain.inference import Answer, Query
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

GROUPS = 3
AT_ONCE = 12


def meadow(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of two classes in groups far apart, so that an owner makes an expert of each."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    bases, classes = fixed.uniform(0, 12, (GROUPS, 8, 8)), fixed.uniform(0, 3, (2, 8, 8))
    groups, labels = np.arange(count) % GROUPS, rng.integers(0, 2, count)
    images = bases[groups] + classes[labels] + rng.normal(0, 0.3, (count, 8, 8))
    return np.clip(np.rint(images), 0, 16).astype(np.uint8), labels


INPUTS, LABELS = meadow(30, seed=3)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    folder = tmp_path_factory.mktemp("tiny")
    images, labels = meadow(600, seed=1)
    np.savez(folder / "rose.npz", x=images, y=labels)
    with whole_swarm(folder, settings="replica_grace_s = 1\n") as running:
        yield running


def started(swarm: WholeSwarm, home: NodeHome, expert_memory: str) -> None:
    home.settings.write_text(f'expert_memory = "{expert_memory}"\n')
    swarm.agent(home)


async def told(home: NodeHome) -> ExpertMemory:
    """Return what the expert server has in memory, which the agent hears of within a second."""
    before = None
    async with agent_of(home) as client, asyncio.timeout(60):
        while (found := (await client.state()).memory) != before or not found.loads:
            before = found
            await asyncio.sleep(1.5)
    return found


async def answered(swarm: WholeSwarm, rows: slice = slice(None)) -> Answer:
    """Return the experts' answer, once the node is there."""
    query = Query(inputs=INPUTS[rows], combination="gate", top_k=1, replayable=True)
    async with swarm.coordinator() as client, asyncio.timeout(60):
        while True:
            try:
                answer = await client.predict(query)
                if not any(answer.degraded):
                    return answer
            except SwarmError:
                await asyncio.sleep(0.2)


def bits(answer: Answer) -> np.ndarray:
    return answer.probabilities.view(np.int32)


async def test_more_experts_than_fit_are_answered_for_to_the_bit(swarm: WholeSwarm) -> None:
    home = swarm.joined("rose")
    started(swarm, home, "1")
    order = TrainOrder(data=str(swarm.folder / "rose.npz"), net="mlp:16x1", steps=100, seed=0)
    async with agent_of(home) as client:
        await carried_out(client, order)

    tiny = await answered(swarm)
    assert tiny.record is not None
    speaking = {said.manifest for said in tiny.record.said}
    assert len(speaking) >= GROUPS, "each group has an expert"
    assert (np.array(tiny.labels) == LABELS.astype(str)).mean() > 0.8
    rows = [slice(start, start + 3) for start in range(AT_ONCE)]
    parts = await asyncio.gather(*(answered(swarm, part) for part in rows))
    for part, answer in zip(rows, parts, strict=True):
        assert np.array_equal(bits(answer), bits(tiny)[part])
    memory = await told(home)
    assert (memory.budget_bytes, memory.loaded) == (1, 1), "one fits always, and no more"
    assert memory.loads > len(speaking), "they take each other's place"

    agent = swarm.agents[-1]
    agent.send_signal(signal.SIGTERM)
    await asyncio.to_thread(agent.wait, 30)
    started(swarm, home, "64MB")
    roomy = await answered(swarm)
    assert np.array_equal(bits(roomy), bits(tiny))
    assert np.array_equal(roomy.confidence, tiny.confidence)
    memory = await told(home)
    assert memory.loaded >= GROUPS and memory.loads == memory.loaded


async def test_what_a_full_memory_forgot_does_not_count_as_loaded(swarm: WholeSwarm) -> None:
    """One of rose's experts fits into the memory of tulip, which was told to hold them all."""
    home = swarm.joined("tulip")
    started(swarm, home, "1")
    async with swarm.coordinator() as client:
        experts = next(len(node.experts) for node in (await client.status()).nodes if node.id == "rose")
        assert experts >= GROUPS

        async def all_were_loaded() -> bool:
            return (await told(home)).loads >= experts

        await until(all_were_loaded, 90)
        since = (await client.status()).server_time

        async def one_of_them_counts() -> bool:
            seen = await client.status()
            tulip = next(node for node in seen.nodes if node.id == "tulip")
            return (tulip.last_seen or 0) > since and len(seen.under_replicated) == experts - 1

        await until(one_of_them_counts)
