"""Coordinator, Redis, registry and agents die and return: the same state, nothing lost, nothing twice."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from node.enrol import join
from swarm.config import NodeHome, SwarmHome
from swarm.domain.errors import NotAuthorisedError, SwarmError, UnauthenticatedError
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.registry.redis_server import RedisServer
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.server import create_server
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement
from tests.support.garden import Garden, garden, owners, run, same_answers
from tests.support.trust import found
from tests.support.whole_swarm import agent_of, until

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garden]:
    with garden(tmp_path_factory.mktemp("restarts")) as running:
        yield running


async def heads(swarm: Garden, owner: str) -> list[Head]:
    """Return an owner's heads, after checking that each is whole: manifest and every blob, verified."""
    async with swarm.swarm.registry() as registry:
        found = await registry.heads(owner)
        for head in found:
            manifest = read_statement(await registry.manifest(head.manifest), Manifest).value
            assert manifest.version == head.version
            for blob in manifest.blobs():
                await registry.fetch_blob(blob)
    return found


async def versions(swarm: Garden, owner: str) -> list[int]:
    return [head.version for head in await heads(swarm, owner)]


async def gate_versions(swarm: Garden) -> int:
    async with swarm.swarm.coordinator() as client:
        return len((await client.history()).envelopes)


def stored(blobs: Path) -> set[Path]:
    return {path for path in blobs.glob("??/*") if path.is_file()}


async def delivered(swarm: Garden, name: str) -> None:
    await until(lambda: not len(swarm.outbox(name)), 60)


async def test_a_coordinator_that_was_killed_answers_again_as_before_and_nobody_else_restarts(
    swarm: Garden,
) -> None:
    before, pids = await swarm.settled(), swarm.pids()
    fences = {name: (await swarm.state(name)).fence for name in swarm.agents}
    swarm.swarm.kill("coordinator")
    await asyncio.to_thread(swarm.swarm.start_coordinator)
    answer = None
    while answer is None:
        try:
            answer = await swarm.ask(timeout_s=5)
        except SwarmError:
            await asyncio.sleep(0.05)
    after = await swarm.settled()
    assert same_answers(after, before)
    now = swarm.pids()
    assert now.pop("coordinator") != pids.pop("coordinator") and now == pids
    for name, fence in fences.items():
        assert (await swarm.state(name)).fence > fence


async def test_predictions_go_on_without_redis_and_what_was_published_meanwhile_arrives_once(
    swarm: Garden,
) -> None:
    before, gates = await swarm.settled(), await gate_versions(swarm)
    (version,) = await versions(swarm, "rose")
    log = swarm.homes["rose"].run / "agent.log"
    waited = log.read_text().count("outbox.waiting")
    swarm.kill_redis()
    assert same_answers(await swarm.ask(), before)
    learning = asyncio.create_task(swarm.train("rose", (0, 1), seed=1))
    await until(lambda: len(swarm.outbox("rose")) == 2, 60)
    await until(lambda: log.read_text().count("outbox.waiting") > waited, 60)
    for _ in range(3):
        assert same_answers(await swarm.ask(), before)
    assert len(swarm.outbox("rose")) == 2, "nothing was acknowledged"
    assert await swarm.alive("rose") and await swarm.alive("tulip")
    assert (await swarm.status()).redis != "ok"
    await swarm.start_redis()
    await delivered(swarm, "rose")
    done = await learning
    assert done.stage == "done"
    assert await versions(swarm, "rose") == [version + 1]
    assert await gate_versions(swarm) == gates + 1
    assert not any((await swarm.settled()).degraded)
    assert (await swarm.status()).redis == "ok"


async def test_a_coordinator_that_starts_while_redis_is_away_answers_from_its_own_files(
    swarm: Garden,
) -> None:
    before = await swarm.settled()
    swarm.kill_redis()
    swarm.swarm.kill("coordinator")
    await asyncio.to_thread(swarm.swarm.start_coordinator)
    assert same_answers(await swarm.settled(), before)
    await swarm.start_redis()

    async def leased() -> bool:
        return all([(await swarm.state(name)).fence > 0 for name in swarm.agents])

    await until(leased, 30)
    assert same_answers(await swarm.settled(), before)


@pytest.mark.parametrize("victim", ["agent", "registry"])
async def test_killed_between_blobs_and_commit_the_old_version_stays_until_the_new_one_is_whole(
    swarm: Garden, victim: str
) -> None:
    await swarm.settled()
    (version,) = await versions(swarm, "rose")
    gates, seed = await gate_versions(swarm), 10 + len(victim)
    blobs = swarm.swarm.home.registry / "blobs"
    known = stored(blobs)
    redis = swarm.swarm.redis.pid
    os.kill(redis, signal.SIGSTOP)  # blobs are stored, the commit hangs
    learning = asyncio.create_task(swarm.train("rose", (0, 1), seed=seed))
    try:
        await until(lambda: stored(blobs) - known, 60)
        if victim == "agent":
            swarm.kill("rose")
        else:
            swarm.swarm.kill("registry")
    finally:
        os.kill(redis, signal.SIGCONT)
    if victim == "registry":
        await asyncio.to_thread(swarm.swarm.start_registry)
    assert await versions(swarm, "rose") in ([version], [version + 1])
    await asyncio.gather(learning, return_exceptions=True)
    if victim == "agent":
        await swarm.restart("rose")
    await delivered(swarm, "rose")
    assert await versions(swarm, "rose") == [version + 1]
    assert await gate_versions(swarm) == gates + 1
    assert owners(await swarm.settled()) == {"rose", "tulip"}


async def test_a_delivery_whose_acknowledgement_was_lost_acts_once(swarm: Garden, tmp_path: Path) -> None:
    await swarm.settled()
    (version,), gates = await versions(swarm, "rose"), await gate_versions(swarm)
    outbox, kept = swarm.homes["rose"].outbox, tmp_path / "outbox"
    swarm.swarm.kill("registry")
    learning = asyncio.create_task(swarm.train("rose", (0, 1), seed=30))
    await until(lambda: len(swarm.outbox("rose")) == 2, 60)
    shutil.copytree(outbox, kept)
    await asyncio.to_thread(swarm.swarm.start_registry)
    await learning
    await delivered(swarm, "rose")
    before = await swarm.settled()
    swarm.kill("rose")
    shutil.copytree(kept, outbox, dirs_exist_ok=True)  # as if killed before it could note the acknowledgement
    await swarm.restart("rose")
    await delivered(swarm, "rose")
    assert await versions(swarm, "rose") == [version + 1]
    assert await gate_versions(swarm) == gates + 1
    assert not swarm.outbox("rose").refused()
    assert same_answers(await swarm.settled(), before)


async def test_a_stranger_at_the_registrys_address_gets_nothing_and_costs_no_work(
    swarm: Garden, tmp_path: Path
) -> None:
    await swarm.settled()
    (version,) = await versions(swarm, "rose")
    port = int(Identity.load(swarm.homes["rose"].identity).registry.rpartition(":")[2])
    stranger = found(tmp_path / "stranger", "garden", now := datetime.now(UTC)).member(
        "registry", "registry", now
    )
    swarm.swarm.kill("registry")
    server = create_server(stranger.folder, lambda member: False, [])
    server.add_port(f"127.0.0.1:{port}")
    await server.start()
    learning = asyncio.create_task(swarm.train("rose", (0, 1), seed=90))
    log = swarm.homes["rose"].run / "agent.log"
    await until(lambda: len(swarm.outbox("rose")) == 2 and "another certificate" in log.read_text(), 60)
    assert not swarm.outbox("rose").refused()
    await server.stop()
    await asyncio.to_thread(swarm.swarm.start_registry)
    await delivered(swarm, "rose")
    await learning
    assert await versions(swarm, "rose") == [version + 1]


async def test_agents_killed_at_any_moment_of_a_publication_finish_it_after_their_restart(
    swarm: Garden,
) -> None:
    await swarm.settled()
    (version,), gates = await versions(swarm, "tulip"), await gate_versions(swarm)
    for number, pause_s in enumerate((0.0, 0.2)):
        order = swarm.order("tulip", (2, 3), seed=40 + number)
        async with agent_of(swarm.homes["tulip"]) as client:
            with pytest.raises(SwarmError):
                async for step in client.train(order):
                    if step.stage == "publish":
                        await asyncio.sleep(pause_s)
                        break
                swarm.kill("tulip")
                await client.state()
        assert (await versions(swarm, "tulip"))[0] in (version, version + 1)
        await swarm.restart("tulip")
        await delivered(swarm, "tulip")
        version, gates = version + 1, gates + 1
        assert await versions(swarm, "tulip") == [version]
        assert await gate_versions(swarm) == gates
    assert owners(await swarm.settled()) == {"rose", "tulip"}


async def test_a_learner_that_dies_with_its_agent_goes_on_after_the_restart(swarm: Garden) -> None:
    (version,) = await versions(swarm, "tulip")
    family: list[psutil.Process] = []
    async with agent_of(swarm.homes["tulip"]) as client:
        with pytest.raises(SwarmError):
            async for step in client.train(swarm.order("tulip", (2, 3), seed=60)):
                # Steps that were on their way when it died still arrive.
                if not family and step.stage not in ("publish", "contribute", "done"):
                    family = psutil.Process(swarm.agents["tulip"].pid).children(recursive=True)
                    swarm.kill("tulip")
    psutil.wait_procs(family, timeout=10)
    assert not [one for one in family if one.is_running()], "its children end with it"
    await swarm.restart("tulip")

    async def is_newer() -> bool:
        return await versions(swarm, "tulip") == [version + 1]

    await until(is_newer, 60)
    await delivered(swarm, "tulip")


async def test_a_full_disk_is_named_serving_goes_on_and_delivery_follows_when_there_is_room(
    swarm: Garden,
) -> None:
    before, (version,) = await swarm.settled(), await versions(swarm, "rose")
    blobs = swarm.swarm.home.registry / "blobs"
    log = swarm.homes["rose"].run / "agent.log"
    swarm.swarm.kill("registry")
    with small_disk(blobs, 80):
        await asyncio.to_thread(swarm.swarm.start_registry)
        filler = blobs / "filler"
        filler.write_bytes(bytes(40 << 20))
        learning = asyncio.create_task(swarm.train("rose", (0, 1), seed=70))
        await until(lambda: "outbox.waiting" in log.read_text() and "disk" in log.read_text(), 60)
        assert same_answers(await swarm.ask(), before)
        assert await versions(swarm, "rose") == [version]
        filler.unlink()
        await delivered(swarm, "rose")
        await learning
        assert await versions(swarm, "rose") == [version + 1]
        swarm.swarm.kill("registry")
    await asyncio.to_thread(swarm.swarm.start_registry)


async def test_a_node_whose_disk_is_full_says_so_keeps_its_version_and_learns_when_there_is_room(
    swarm: Garden,
) -> None:
    before, (version,) = await swarm.settled(), await versions(swarm, "rose")
    home = swarm.homes["rose"]
    swarm.kill("rose")
    with small_disk(home.root, 8):
        await swarm.restart("rose")
        await swarm.settled()
        filler = home.root / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        with pytest.raises(SwarmError, match=r"(?i)space|disk"):
            await swarm.train("rose", (0, 1), seed=71)
        assert same_answers(await swarm.settled(), before)
        filler.unlink()
        assert (await swarm.train("rose", (0, 1), seed=72)).stage == "done"
        await delivered(swarm, "rose")
        assert await versions(swarm, "rose") == [version + 1]
        swarm.kill("rose")
    await swarm.restart("rose")


async def test_a_swarm_restored_in_another_folder_is_the_same_swarm_for_its_nodes(swarm: Garden) -> None:
    before = await swarm.settled()
    backup = swarm.swarm.folder / "backup.tgz"
    url = {"SWARM_HOME": str(swarm.swarm.home.root), "SWARM_REDIS_URL": swarm.swarm.redis.url}
    done = run(sys.executable, "-m", "swarm.cli", "backup", str(backup), **url)
    assert done.returncode == 0, done.stderr
    swarm.swarm.kill("coordinator")
    swarm.swarm.kill("registry")
    swarm.kill_redis()
    await swarm.swarm.redis.stop()
    shutil.rmtree(swarm.swarm.home.root)
    elsewhere = SwarmHome(swarm.swarm.folder / "restored")
    done = run(sys.executable, "-m", "swarm.cli", "restore", str(backup), SWARM_HOME=str(elsewhere.root))
    assert done.returncode == 0, done.stderr
    swarm.swarm.home, swarm.swarm.redis = elsewhere, RedisServer(elsewhere.redis)
    await swarm.swarm.redis.start()
    await asyncio.to_thread(swarm.swarm.start_registry)
    await asyncio.to_thread(swarm.swarm.start_coordinator)
    assert same_answers(await swarm.settled(), before)
    (version,) = await versions(swarm, "rose")
    assert (await swarm.train("rose", (0, 1), seed=80)).figures["activated"] == 1.0
    assert await versions(swarm, "rose") == [version + 1]


async def test_who_left_is_out_at_once_locked_out_and_may_come_again_under_another_name(
    swarm: Garden,
) -> None:
    before = await swarm.settled()
    async with agent_of(swarm.homes["tulip"]) as client:
        version, withdrawn = await client.leave("moved")
    assert version == before.gate_version + 1 and withdrawn
    assert await asyncio.to_thread(swarm.agents["tulip"].wait, 20) == 0
    assert owners(await swarm.ask()) == {"rose"} and await versions(swarm, "tulip") == []
    identity = Identity.load(swarm.homes["tulip"].identity)
    async with open_channel(identity, identity.coordinator, "coordinator", NodeId("coordinator")) as channel:
        with pytest.raises((NotAuthorisedError, UnauthenticatedError)):
            await CoordinatorClient(channel).status()
    async with open_channel(identity, identity.registry, "registry", NodeId("registry")) as channel:
        with pytest.raises((NotAuthorisedError, UnauthenticatedError)):
            await RegistryClient(channel).heads()
    with pytest.raises(SwarmError, match="tulip"):
        join(swarm.swarm.line, NodeHome(swarm.swarm.folder / "again"), name="tulip")
    await swarm.plant("dahlia", (2, 3))
    assert owners(await swarm.settled()) == {"rose", "dahlia"}


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """Put a small file system in the place of a folder, with what is in it; skip where that is forbidden."""
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)
    done = run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "tmpfs", str(folder))
    if done.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
        shutil.rmtree(kept)
        shutil.copytree(folder, kept)
    finally:
        run("umount", "-l", str(folder))
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        shutil.rmtree(kept)
