"""Redis and every blob are wiped under a running swarm: what nodes and coordinator keep makes it the same again."""

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.domain.errors import NotFoundError
from swarm.domain.manifests import Manifest
from swarm.rpc.clients import RegistryClient
from swarm.trust.statements import read_statement, statement_digest
from tests.support.garden import Garden, garden, run
from tests.support.whole_swarm import agent_of, carried_out

pytestmark = pytest.mark.chaos

OWNED = {"rose": (0, 1), "tulip": (2, 3), "dahlia": (1, 2)}


async def trained(swarm: Garden, name: str, seed: int) -> None:
    """Train once more, with sums, so that there is a root as well."""
    order = replace(swarm.order(name, OWNED[name], seed), sums="exact")
    async with agent_of(swarm.homes[name]) as client:
        await carried_out(client, order)


async def everything(client: RegistryClient) -> dict[str, str]:
    """Return the digest of every version that there is, each with its whole weights, and of every head."""
    found = {}
    for head in await client.heads():
        found[f"head {head.expert}"] = f"{head.version} {head.manifest}"
        for version in range(1, head.version + 1):
            envelope = await client.manifest(expert=head.expert, version=version)
            found[f"{head.expert}@{version}"] = statement_digest(envelope)
            for blob in read_statement(envelope, Manifest).value.blobs():
                await client.fetch_blob(blob)
    return found


async def wiped(swarm: Garden, *also: Path) -> None:
    """Kill Redis and the registry, and remove what they keep."""
    swarm.swarm.kill("registry")
    swarm.kill_redis()
    await swarm.swarm.redis.stop()
    for path in (*swarm.swarm.home.redis.glob("append*"), swarm.swarm.home.registry / "blobs", *also):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    await swarm.swarm.redis.start()
    await asyncio.to_thread(swarm.swarm.start_registry)


async def rebuilt(swarm: Garden) -> dict[str, object]:
    place = {"SWARM_HOME": str(swarm.swarm.home.root)}
    command = (sys.executable, "-m", "swarm.cli", "registry", "rebuild", "--json", "--wait", "50")
    done = await asyncio.to_thread(run, *command, **place)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("journal", ["lost too", "kept"])
async def test_without_redis_and_blobs_everything_comes_back_from_those_who_made_it(
    tmp_path: Path, journal: str
) -> None:
    def begin() -> Garden:
        return running.__enter__()

    running = garden(tmp_path)
    swarm = await asyncio.to_thread(begin)
    try:
        await swarm.plant("dahlia", OWNED["dahlia"])
        for name in OWNED:
            await trained(swarm, name, seed=5)
        await swarm.plant("iris", (0, 3))
        async with agent_of(swarm.homes["iris"]) as client:
            await client.leave("moved")
        async with swarm.swarm.registry() as client:
            before = await everything(client)
            with pytest.raises(NotFoundError):
                await client.manifest(expert="iris.e1")
        assert len(before) >= 9 and "head coordinator.e0" in before
        fences = {name: (await swarm.state(name)).fence for name in OWNED}
        gates = (await swarm.status()).gate_version
        own = swarm.swarm.home.registry / "commits.jsonl"
        await wiped(swarm, *([own] if journal == "lost too" else []))
        report = await rebuilt(swarm)
        assert set(report["not_come"]) <= {"iris"}, report
        assert report["report"]["missing"] == [], report  # type: ignore[index]
        async with swarm.swarm.registry() as client:
            assert await everything(client) == before
            with pytest.raises(NotFoundError):
                await client.manifest(expert="iris.e1")
        for name, fence in fences.items():
            assert (await swarm.state(name)).fence > fence
        assert (await swarm.status()).gate_version == gates
        await trained(swarm, "rose", seed=6)
        async with swarm.swarm.registry() as client:
            after = await everything(client)
        assert (
            before.items()
            <= {
                **after,
                "head rose.e1": before["head rose.e1"],
                "head coordinator.e0": before["head coordinator.e0"],
            }.items()
        )
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
