"""Experts whose owner is away are answered by those that hold them; what the gate no longer needs goes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from swarm.cli.places import find_place, registry
from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.inference import Answer, Query
from swarm.domain.membership import Head
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

IMAGES, LABELS = digits_like(40, 4, seed=77)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("standing"), settings="replica_grace_s = 1\n") as running:
        yield running


async def ask(swarm: WholeSwarm, only: tuple[int, ...]) -> tuple[float, Answer]:
    kept = np.isin(LABELS, only)
    async with swarm.coordinator() as client:
        answer = await client.predict(Query(inputs=IMAGES[kept], explain=True, combination="gate"))
    names = np.array(answer.class_names)[answer.probabilities.argmax(axis=1)]
    return float((names == LABELS[kept].astype(str)).mean()), answer


def held(home: NodeHome) -> set[str]:
    return {file.stem for file in (home.cache / "manifests").glob("*.json")}


async def test_an_owner_that_is_away_is_stood_in_for_and_by_its_newest_version(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    agents, homes = {}, {}
    for name, only in (("rose", (0, 1)), ("tulip", (2, 3))):
        homes[name] = swarm.joined(name)
        agents[name] = swarm.agent(homes[name])
        async with agent_of(homes[name]) as client:
            data = write_digits(tmp_path / f"{name}.npz", count=400, seed=0, only=only)
            done = await carried_out(client, TrainOrder(data=str(data), net="mlp:16x1", steps=150, seed=0))
            assert done.figures["activated"] == 1.0

    async def is_held() -> bool:
        heads = {head.manifest for head in await heads_of(swarm, "tulip")}
        return bool(heads) and heads <= held(homes["rose"])

    await until(is_held)

    async def is_loaded_on_both() -> bool:
        async with swarm.coordinator() as client:
            seen = await client.status()
        return seen.replicas == 2 and not seen.under_replicated

    await until(is_loaded_on_both)
    agents["tulip"].kill()
    agents["tulip"].wait()

    async def is_stood_in_for() -> bool:
        accuracy, answer = await ask(swarm, (2, 3))
        served = {source.served_by for row in answer.sources for source in row}
        return accuracy > 0.9 and not any(answer.degraded) and served == {"rose"}

    await until(is_stood_in_for)


async def heads_of(swarm: WholeSwarm, owner: str) -> list[Head]:
    async with registry(find_place(swarm.home.root)) as client:
        return await client.heads(owner)
