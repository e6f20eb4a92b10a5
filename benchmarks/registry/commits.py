"""The Redis part of a commit beside a PING of the same client, in turns; `appendfsync everysec`."""

import statistics
import time
from dataclasses import replace

from benchmarks.registry.world import World
from swarm.digests import digest_of
from swarm.domain.ids import NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest
from swarm.trust.statements import sign_statement
from tests.support.trust import manifest


async def commit_figures(world: World, commits: int) -> dict[str, float]:
    """Return p50s and p99s in milliseconds, and the p50s' ratio."""
    durability = await world.store.durability()
    if durability != "appendfsync everysec":
        raise RuntimeError(f"Redis has {durability}")
    first = manifest("ada", 0)
    signed = []
    for number in range(1, commits + 1):
        made = _numbered(first, number)
        signed.append((made, sign_statement(made, world.ada.required_signer())))
    pings, taken = list[float](), list[float]()

    async def commit(made: Manifest, envelope: bytes) -> None:
        digest = digest_of(envelope)
        started = time.perf_counter()
        await world.store.commit_manifest(made, digest, envelope, world.fence, key=digest)
        taken.append(time.perf_counter() - started)

    async def ping() -> None:
        started = time.perf_counter()
        await world.store.ping()
        pings.append(time.perf_counter() - started)

    for number, (made, envelope) in enumerate(signed):
        if number % 2:
            await ping()
            await commit(made, envelope)
        else:
            await commit(made, envelope)
            await ping()
    return {
        "commit_p50_over_ping": statistics.median(taken) / statistics.median(pings),
        "commit_p50_ms": statistics.median(taken) * 1e3,
        "commit_p99_ms": _percentile(taken, 0.99) * 1e3,
        "ping_p50_ms": statistics.median(pings) * 1e3,
        "commits": commits,
    }


def _numbered(first: Manifest, number: int) -> Manifest:
    leaf = leaf_of(NodeId("ada"), number)
    return replace(first, leaf=leaf, expert=expert_of(leaf))


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
