"""What the second hop costs, and what a publish costs those who ask: `python -m benchmarks.serving.hops`.

A swarm of two nodes in real processes with mutual TLS. One hop: a client in direct mode, which embeds and
routes by itself and asks the owners. Two hops: the same client asks the coordinator, which does so. Lone
queries of a few rows, one of each in turns. Then lone queries at the coordinator, at a steady pace, while 512
MiB are published to the registry as a node publishes them, and while they are not, in turns; in a swarm whose
registry writes past the page cache (`registry_direct_io`) and in one whose does not (`cached.`).

Figures: `one_hop_p50_ms`, `two_hop_over_one_hop_p50`, `p95_during_publish_over_idle` with lowest and highest.
"""

import argparse
import asyncio
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.results_file import machine, write_result
from node.sending import BlobSending
from swarm.client import AsyncClient
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import Answer
from swarm.forking.forks import forking
from swarm.modules.blobs import BlobFiles
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
from tests.support.forked_processes import ENVIRONMENT
from tests.support.garden import IMAGES, Garden, garden

MIB = 1 << 20
PACE_S = 0.02
"""A query begins so often, or as soon as the one before has its answer."""
Ask = Callable[[], Awaitable[Answer]]


async def timed(ask: Ask) -> float:
    """Return how many seconds one query takes."""
    began = time.perf_counter()
    await ask()
    return time.perf_counter() - began


async def two_hops(one: Ask, two: Ask, rounds: int, each: int) -> dict[str, float]:
    """Return the ratio of medians, over rounds of so many queries each."""
    ratios, ones = [], []
    for _ in range(rounds):
        pairs = [(await timed(one), await timed(two)) for _ in range(each)]
        first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
        ones.append(first)
        ratios.append(second / first)
    return {
        "one_hop_p50_ms": statistics.median(ones) * 1e3,
        "two_hop_over_one_hop_p50": statistics.median(ratios),
        "two_hop_over_one_hop_p50_lowest": min(ratios),
        "two_hop_over_one_hop_p50_highest": max(ratios),
    }


async def paced(ask: Ask, until: Callable[[], bool]) -> list[float]:
    """Return what queries took that were sent at a steady pace."""
    found = []
    while not until():
        found.append(await timed(ask))
        await asyncio.sleep(max(0.0, PACE_S - found[-1]))
    return found


@contextmanager
def publisher(swarm: Garden, cache: BlobFiles) -> Iterator[BlobSending]:
    """Give what a node sends its weights with, as its agent has it."""
    identity = Identity.load(swarm.homes["rose"].identity)
    registry = f"127.0.0.1:{swarm.swarm.port('registry')}"
    with forking(swarm.swarm.folder / "fork_server.log", ENVIRONMENT):
        yield BlobSending(
            RegistryClient(open_channel(identity, registry, "registry", NodeId("registry"))),
            cache,
            identity=identity.folder,
            address=registry,
            log=swarm.swarm.folder / "sender.log",
        )


async def during_publish(
    swarm: Garden, ask: Ask, folder: Path, rounds: int, size_mib: int
) -> dict[str, float]:
    """Return by how much the 95th percentile grows while so many bytes are published."""
    cache = BlobFiles(folder / "cache")
    ratios, idles, walls = [], [], []
    with publisher(swarm, cache) as sending:
        for turn in range(rounds + 1):
            size = (size_mib if turn else 32) * MIB  # the first loads what the others fork
            digest: Digest = await asyncio.to_thread(cache.put, secrets.token_bytes(size))
            end = time.perf_counter() + 3.0
            idle = await paced(ask, lambda end=end: time.perf_counter() > end)  # type: ignore[misc]
            began = time.perf_counter()
            publish = asyncio.create_task(sending.publish_blob(digest, cache.open_unverified(digest)))
            busy = await paced(ask, publish.done)
            publish.result()
            if not turn:
                continue
            walls.append(time.perf_counter() - began)
            ratios.append(float(np.quantile(busy, 0.95) / np.quantile(idle, 0.95)))
            idles.append(float(np.quantile(idle, 0.95)))
            print(
                f"idle p95 {idles[-1] * 1e3:.1f} ms, {size_mib} MiB in {walls[-1]:.1f} s: {ratios[-1]:.2f}x",
                flush=True,
            )
    return {
        "idle_p95_ms": statistics.median(idles) * 1e3,
        "p95_during_publish_over_idle": statistics.median(ratios),
        "p95_during_publish_over_idle_lowest": min(ratios),
        "p95_during_publish_over_idle_highest": max(ratios),
        "publish_s": statistics.median(walls),
    }


async def measured(
    swarm: Garden, rounds: int, size_mib: int, rows: int, *, publishing_alone: bool
) -> dict[str, float]:
    """Return the figures of so many rounds, or those of publishing alone."""
    home, folder = swarm.swarm.home.root, swarm.swarm.folder
    images = IMAGES[:rows]
    async with (
        AsyncClient(credentials=home, cache=folder / "direct", direct=True) as direct,
        AsyncClient(credentials=home, cache=folder / "plain") as plain,
    ):

        async def one() -> Answer:
            return await direct.predict(images)

        async def two() -> Answer:
            return await plain.predict(images)

        for ask in (one, two):
            await paced(ask, _soon(2.0))
        hops = {} if publishing_alone else await two_hops(one, two, rounds, 150)
        return hops | await during_publish(swarm, two, folder / "publishing", rounds, size_mib)


def _soon(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def figures(rounds: int = 5, size_mib: int = 512, rows: int = 8) -> dict[str, float]:
    """Return this benchmark's figures."""
    found: dict[str, float] = {}
    for prefix, settings in (("", "registry_direct_io = true\n"), ("cached.", "")):
        print(settings.strip() or "as it comes", flush=True)
        with (
            tempfile.TemporaryDirectory() as folder,
            garden(Path(folder), listens=True, settings=settings) as swarm,
        ):
            made = asyncio.run(measured(swarm, rounds, size_mib, rows, publishing_alone=bool(prefix)))
        found |= {f"{prefix}{name}": value for name, value in made.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    given = parser.parse_args()
    print(machine())
    found = figures(given.rounds, given.size_mib, given.rows)
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    print(write_result("serving-hops", found))


if __name__ == "__main__":
    main()
