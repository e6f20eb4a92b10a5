"""Playing the day: feeding, coming and going, asking all the while, looking at everything now and then."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.soak_growth.asking import Service, ask_for_ever
from benchmarks.soak_growth.story import FOUNDERS, Feeding, Move, Story
from benchmarks.soak_growth.swarm_of_five import KEEPERS, Disk, SwarmOfFive
from swarm.cli import places
from swarm.cli.up.deal import truths
from swarm.cli.up.questions import ask
from swarm.cli.up.report import correct
from swarm.domain.errors import NotReadyError
from swarm.domain.growth import Proposal
from swarm.rpc.clients import CoordinatorClient

LEARN_SECONDS = 300.0
"""A mega-batch that is not learned by then ends the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The swarm after mega-batch `number`: accuracy of each domain that has been fed, what the gate takes,
    what lies on disk."""

    number: int
    samples: int
    accuracy: dict[str, float]
    gate_version: int
    leaves: int
    gate_bytes: int
    flops_per_query: float
    disk: Disk
    seconds: float


@dataclass(slots=True, kw_only=True)
class Day:
    """Everything that was seen."""

    sights: list[Sight] = field(default_factory=list)
    service: Service = field(default_factory=Service)
    proposals: list[Proposal] = field(default_factory=list)
    seconds: float = 0.0


async def play(
    swarm: SwarmOfFive, story: Story, day: Day, look_every: int, tell: Callable[[str], None]
) -> None:
    """Play a whole day, writing into `day` as it goes on: what was seen outlives a day that is cut short.

    The first mega-batch of each founder is fed before anybody asks.
    """
    started = time.monotonic()
    await swarm.found()
    async with places.coordinator(swarm.founder) as client:
        for name in FOUNDERS:
            await swarm.join(client, name)
        fed: dict[str, int] = {}
        moves = list(story.moves)
        first = _first_of_founders(story)
        for feeding in first:
            await _feed(swarm, story, feeding, fed)
        inputs = np.concatenate([domain.test.inputs for domain in story.domains.values()])
        async with _asking(client, inputs, day.service):
            for feeding in [each for each in story.feedings if each not in first]:
                while moves and moves[0].number <= feeding.number:
                    await _move(swarm, client, moves.pop(0), tell)
                await _feed(swarm, story, feeding, fed)
                if (feeding.number + 1) % look_every == 0:
                    seen = await _look(swarm, client, story, feeding.number, time.monotonic() - started)
                    day.sights.append(seen)
                    day.proposals = await client.proposals()
                    day.seconds = time.monotonic() - started
                    tell(_in_words(seen, day.service))
        day.proposals = await client.proposals()
    day.seconds = time.monotonic() - started


def _first_of_founders(story: Story) -> list[Feeding]:
    return [next(each for each in story.feedings if each.node == name) for name in FOUNDERS]


async def _feed(swarm: SwarmOfFive, story: Story, feeding: Feeding, fed: dict[str, int]) -> None:
    """Give a node its mega-batch and wait until it has learned it."""
    node = feeding.node
    swarm.feed(node, feeding.number, story.domains[feeding.domain].training.subset(feeding.rows))
    fed[node] = fed.get(node, 0) + 1
    deadline = time.monotonic() + LEARN_SECONDS
    while swarm.learned(node) < fed[node]:
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"mega-batch {feeding.number} of {feeding.domain}",
                found=f"not learned by {node} within {LEARN_SECONDS:g} s",
                remedy=f"read {swarm.supervisor.root / 'logs'}",
            )
        await asyncio.sleep(0.3)


async def _move(
    swarm: SwarmOfFive, client: CoordinatorClient, move: Move, tell: Callable[[str], None]
) -> None:
    tell(f"{move.node} {move.happening}")
    match move.happening:
        case "joins":
            await swarm.join(client, move.node)
        case "returns":
            await swarm.start(client, move.node)
        case "dies" | "stops":
            await swarm.end(move.node, by_force=move.happening == "dies")


@contextlib.asynccontextmanager
async def _asking(client: CoordinatorClient, inputs: np.ndarray, service: Service) -> AsyncIterator[None]:
    """Ask all the while that the block runs."""
    asking = asyncio.create_task(ask_for_ever(client, inputs, 0, service))
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _look(
    swarm: SwarmOfFive, client: CoordinatorClient, story: Story, number: int, seconds: float
) -> Sight:
    gate = await swarm.gate(client)
    so_far = [feeding for feeding in story.feedings if feeding.number <= number]
    accuracy, flops = {}, []
    for name in dict.fromkeys(feeding.domain for feeding in so_far):
        test = story.domains[name].test
        known = test.of_classes([each for each in test.class_names if each in gate.class_names])
        answer = await ask(client, known.inputs)
        accuracy[name] = float(correct(answer.probabilities, answer.class_names, truths(known)).mean())
        flops.append(answer.flops_per_query)
    return Sight(
        number=number,
        samples=sum(len(feeding.rows) for feeding in so_far),
        accuracy=accuracy,
        gate_version=gate.version,
        leaves=len(gate.leaves),
        gate_bytes=sum(entry.size_bytes for entry in gate.arrays),
        flops_per_query=float(np.mean(flops)),
        disk=await asyncio.to_thread(swarm.disk),
        seconds=seconds,
    )


def _in_words(seen: Sight, service: Service) -> str:
    accuracies = ", ".join(f"{name} {value:.3f}" for name, value in seen.accuracy.items())
    disk = ", ".join(f"{who} {getattr(seen.disk, who) / 1e6:.0f}" for who in KEEPERS)
    return (
        f"mega-batch {seen.number + 1}, {seen.seconds:.0f} s: gate {seen.gate_version}, {seen.leaves} leaves,"
        f" {seen.gate_bytes / 1e6:.2f} MB; MB on disk: {disk}; {accuracies};"
        f" {service.answered} of {service.asked} answered"
    )
