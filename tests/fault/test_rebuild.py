"""Redis and every blob are wiped under a running swarm of three nodes: it becomes the same again."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.outbox import Outbox
from swarm.config import NodeHome
from swarm.domain.errors import NotFoundError
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.rpc.clients import RegistryClient
from swarm.trust.statements import read_statement, statement_digest
from tests.support.laid_down import lay_down
from tests.support.whole_swarm import WholeSwarm, agent_of, until, whole_swarm

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

NAMES = ("rose", "tulip", "dahlia")
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    """Three nodes with two experts each, of two and three versions, and one that has left."""
    with whole_swarm(tmp_path_factory.mktemp("rebuild")) as running:
        for name in (*NAMES, "iris"):
            home = running.joined(name)
            for number, versions in ((1, 2), (2, 3)):
                for version in range(1, versions + 1):
                    lay_down(home, specification(running), number, version)
            running.agent(home)
        asyncio.run(delivered(running))
        asyncio.run(left(running, "iris"))
        yield running


def specification(swarm: WholeSwarm) -> Specification:
    kept = swarm.home.coordinator / "specification" / "1.json"
    return read_statement(kept.read_bytes(), Specification).value


def home_of(swarm: WholeSwarm, name: str) -> NodeHome:
    return NodeHome(swarm.folder / name)


async def delivered(swarm: WholeSwarm) -> None:
    for name in (*NAMES, "iris"):
        outbox = Outbox(home_of(swarm, name).outbox)
        await until(lambda outbox=outbox: not len(outbox), PATIENCE_S)
        assert not outbox.kept


async def left(swarm: WholeSwarm, name: str) -> None:
    async with agent_of(home_of(swarm, name), PATIENCE_S) as client:
        await client.leave("moved")


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


async def fences(swarm: WholeSwarm) -> dict[str, int]:
    found = {}
    for name in NAMES:
        async with agent_of(home_of(swarm, name), PATIENCE_S) as client:
            found[name] = (await client.state()).fence
    return found


async def wiped(swarm: WholeSwarm, *also: Path) -> None:
    """Kill Redis and the registry, and remove what they keep."""
    swarm.kill("registry")
    os.kill(swarm.redis.pid, signal.SIGKILL)
    await swarm.redis.stop()
    for path in (*swarm.home.redis.glob("append*"), swarm.home.registry / "blobs", *also):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    await swarm.redis.start()
    await asyncio.to_thread(swarm.start_registry)


async def said(swarm: WholeSwarm, *words: str) -> tuple[int, str, str]:
    """Run a command as the operator; return its exit code, its output and its errors."""
    command = (sys.executable, "-m", "swarm.cli", *words)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SWARM_HOME": str(swarm.home.root)},
    )
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def rebuilt(swarm: WholeSwarm, wait_s: str = "50") -> dict[str, object]:
    code, output, errors = await said(swarm, "registry", "rebuild", "--json", "--wait", wait_s)
    assert code in (0, 5), errors
    report = dict(json.loads(output))
    assert code == 0 or report["report"]["missing"] or report["not_come"], report
    assert code == 5 or not report["report"]["missing"], report
    return report


async def test_a_lost_redis_is_not_taken_for_an_empty_swarm_while_the_coordinator_is_away(
    swarm: WholeSwarm,
) -> None:
    async with swarm.registry() as client:
        before = await everything(client)
    swarm.kill("coordinator")
    os.kill(swarm.redis.pid, signal.SIGKILL)
    await swarm.redis.stop()
    for path in swarm.home.redis.glob("append*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    await swarm.redis.start()

    async def is_asked_again() -> bool:
        async with swarm.registry() as client:
            return (await client.health()).redis == "ok"

    await until(is_asked_again, PATIENCE_S)
    for words in (("experts",), ("expert", "show", "rose.e1")):
        code, output, errors = await said(swarm, *words)
        assert code == 5 and "acknowledged" in errors and "swarm coordinator" in errors, (output, errors)
    report = (await rebuilt(swarm, "0"))["report"]
    lost = {each["version"] for each in report["missing"] if each["what"] == "manifest"}  # type: ignore[index]
    assert lost >= {version for version in before if "@" in version}
    code, output, _ = await said(swarm, "doctor", "--json")
    bad = {check["name"] for check in json.loads(output)["checks"] if not check["ok"]}
    assert code == 5 and {"registry's versions", "coordinator"} <= bad
    await asyncio.to_thread(swarm.start_coordinator)

    async def is_whole() -> bool:
        return not (await rebuilt(swarm))["report"]["missing"]  # type: ignore[index]

    await until(is_whole, PATIENCE_S)
    async with swarm.registry() as client:
        assert await everything(client) == before


@pytest.mark.parametrize("journal", ["kept", "lost"])
async def test_without_redis_and_blobs_everything_comes_back_from_those_who_made_it(
    swarm: WholeSwarm, journal: str
) -> None:
    async with swarm.registry() as client:
        before = await everything(client)
        with pytest.raises(NotFoundError):
            await client.manifest(expert="iris.e1")
    assert len(before) == 3 * (2 + 5)
    fences_before = await fences(swarm)
    own = swarm.home.registry / "commits.jsonl"
    await wiped(swarm, *([own] if journal == "lost" else []))

    async def is_whole() -> bool:
        report = await rebuilt(swarm)
        assert not report["report"]["conflicts"], report  # type: ignore[index]
        came = {each["owner"] for each in report["report"]["came"]}  # type: ignore[index]
        return came >= {*NAMES, "coordinator"} and not report["report"]["missing"]  # type: ignore[index]

    await until(is_whole, PATIENCE_S)
    async with swarm.registry() as client:
        assert await everything(client) == before
        with pytest.raises(NotFoundError):
            await client.manifest(expert="iris.e1")
        assert "iris.e1" not in {head.expert for head in await client.heads()}
    after = await fences(swarm)
    assert all(after[name] > fences_before[name] for name in NAMES), (fences_before, after)
