"""A node that learns mega-batches as they arrive: whoever looks on, over crashes, while it answers."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from node.shard_source import ShardSource
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.novelty import FRESH_FILE, NOVEL_FILE
from node.sums import LeafSums
from swarm.cli.app import build
from swarm.cli.output import run_guarded
from swarm.config import NodeHome
from swarm.domain.agent import StreamOptions, TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, NotFoundError, NotReadyError
from swarm.domain.ids import ExpertId
from swarm.domain.inference import Query
from swarm.rpc.clients import AgentClient
from tests.support.learning import digits_like
from tests.support.node_homes import member_home, start_agent
from tests.support.whole_swarm import WholeSwarm, agent_of, until, whole_swarm

Agents = Callable[[NodeHome], "subprocess.Popen[bytes]"]
pytestmark = pytest.mark.growth


@pytest.fixture
def agents() -> Iterator[Agents]:
    """Start agents; what still runs at the end of a test is killed, with its children."""
    started: list[subprocess.Popen[bytes]] = []

    def start(home: NodeHome) -> "subprocess.Popen[bytes]":
        started.append(start_agent(home))
        return started[-1]

    yield start
    for agent in started:
        if agent.poll() is None:
            agent.kill()
        agent.wait()


def mega_batch(folder: Path, name: str, seed: int, count: int = 160) -> Path:
    """Let a mega-batch arrive whole."""
    folder.mkdir(exist_ok=True)
    images, labels = digits_like(count, 4, seed=seed)
    hidden = folder / f".{name}.npz"
    np.savez(hidden, x=images, y=labels)
    return hidden.rename(folder / f"{name}.npz")


def order(folder: Path, **options: object) -> TrainOrder:
    stream = StreamOptions(**options)  # type: ignore[arg-type]
    return TrainOrder(data=str(folder), net="mlp:32x1", steps=150, stream=stream)


def ledger(home: NodeHome) -> StreamLedger:
    return StreamLedger(home.state / LEDGER_FILE)


async def followed(client: AgentClient, what: TrainOrder) -> list[TrainStep]:
    return [step async for step in client.train(what)]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("streams")) as running:
        yield running


async def test_three_mega_batches_are_learned_every_second_one_while_old_experts_answer(
    swarm: WholeSwarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, folder = swarm.joined("rose"), tmp_path / "incoming"
    swarm.agent(home)
    images, labels = digits_like(40, 4, seed=77)
    mega_batch(folder, "a", 1)
    mega_batch(folder, "b", 2)
    answers: list[float] = []

    async def asked() -> None:
        async with swarm.coordinator() as client:
            while True:
                answer = await client.predict(Query(inputs=images))
                names = np.array(answer.class_names)[answer.probabilities.argmax(axis=1)]
                answers.append(float((names == labels.astype(str)).mean()))
                await asyncio.sleep(0.05)

    async with agent_of(home) as client:
        following = asyncio.create_task(followed(client, order(folder, wait=2, most=3)))
        await until(lambda: 2 in ledger(home).recorded, within_s=90)
        asking = asyncio.create_task(asked())
        await until(lambda: answers)
        mega_batch(folder, "c", 3)
        steps = await following
        assert not asking.done(), "every question was answered"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert steps[-1].stage == "done" and "3 mega-batches" in steps[-1].message
    assert len(answers) > 5 and min(answers) > 0.9
    kept = ledger(home)
    first, second, third = kept.records
    assert first.waited and first.error == 1.0 and first.parameters == 0
    assert not second.waited and second.error < 0.2 and second.flops_total > second.flops_forward > 0
    assert not third.waited and kept.taken[3].error_before is not None
    assert kept.recorded[2].learned == (1, 2) and kept.recorded[3].learned == (3,)
    assert kept.recorded[2].experts == ("rose.e1@1",) and kept.recorded[3].experts == ("rose.e1@2",)
    sums = LeafSums.read(home.state / "leaves" / "rose.l1.sums.npz", _size(home))
    training = sum(taken.samples - taken.held_out for taken in kept.taken.values())
    assert sums is not None and sums.f.samples == training
    seen = json.loads((home.state / FRESH_FILE).read_bytes())["mega_batches"]
    assert [number for number, *_ in seen] == [1, 2, 3]
    assert sum(samples for _, samples, *_ in seen) == training
    ShardSource.read(home.state / NOVEL_FILE)

    plot = tmp_path / "stream.svg"
    assert run_guarded(build(), ["stream", "report", "--home", str(home.root), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert "CER" in shown and "rose.e1@2" in shown and plot.stat().st_size > 1000
    assert run_guarded(build(), ["stream", "report", "--home", str(home.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["mega_batches"]) == 3
    assert facts["cer"] == pytest.approx(sum(record.error for record in kept.records))


def _size(home: NodeHome, leaf: str = "rose.l1") -> int:
    with np.load(home.state / "leaves" / f"{leaf}.sums.npz") as file:
        return int(file["columns"].shape[0])


async def test_a_stream_goes_on_without_its_command_and_over_a_killed_agent_and_counts_once(
    tmp_path: Path, agents: Agents
) -> None:
    home, _ = member_home(tmp_path)
    folder = tmp_path / "incoming"
    mega_batch(folder, "a", 1)
    agent = agents(home)
    async with agent_of(home) as client:
        async for step in client.train(order(folder, wait=1)):
            if step.stage == "train":
                break
    agent.kill()
    agent.wait()
    mega_batch(folder, "a-again", 1)
    agents(home)
    await until(lambda: 1 in ledger(home).recorded and ledger(home).skipped, within_s=90)
    mega_batch(folder, "b", 2)
    await until(lambda: 2 in ledger(home).recorded, within_s=90)
    kept = ledger(home)
    assert [kept.recorded[number].learned for number in (1, 2)] == [(1,), (2,)]
    assert [one.reason for one in kept.skipped] == ["the same as mega-batch 1"]
    sums = LeafSums.read(home.state / "leaves" / "rose.l1.sums.npz", _size(home))
    assert sums is not None
    assert sums.f.samples == sum(taken.samples - taken.held_out for taken in kept.taken.values())
    async with agent_of(home) as client:
        with pytest.raises(ConflictError, match="--stop"):
            await followed(client, order(tmp_path, wait=1))
        again = asyncio.create_task(followed(client, order(folder)))
        await asyncio.sleep(0.3)
        stopped = await followed(client, TrainOrder(data="", stop=True))
        assert stopped[-1].message.startswith("the stream has ended")
        assert (await again)[-1].stage == "done"
        with pytest.raises(NotReadyError):
            await followed(client, TrainOrder(data="", stop=True))


async def test_what_is_no_mega_batch_is_named_once_and_the_stream_goes_on(
    tmp_path: Path, agents: Agents
) -> None:
    home, _ = member_home(tmp_path)
    folder = tmp_path / "incoming"
    folder.mkdir()
    np.savez(folder / "0-wrong.npz", x=np.zeros((30, 3, 3), np.uint8), y=np.arange(30) % 2)
    (folder / "1-notes.txt").write_text("not data")
    mega_batch(folder, "2-right", 1)
    agents(home)
    async with agent_of(home) as client:
        steps = await followed(client, order(folder, idle_s=2.0, wait=3))
        with pytest.raises(NotFoundError, match="no such folder"):
            await followed(client, order(tmp_path / "nowhere"))
    assert steps[-1].stage == "done"
    kept = ledger(home)
    assert {Path(one.file).name for one in kept.skipped} == {"0-wrong.npz", "1-notes.txt"}
    assert len(kept.skipped) == 2 and (folder / "0-wrong.npz").exists()
    assert kept.recorded[1].learned == (1,) and not kept.records[0].waited


async def test_an_iterator_is_learned_item_by_item_and_once(tmp_path: Path, agents: Agents) -> None:
    home, _ = member_home(tmp_path)
    (tmp_path / "arriving.py").write_text(
        "from tests.support.learning import digits_like\n"
        "def stream():\n"
        "    for seed in (1, 2):\n"
        "        yield digits_like(120, 4, seed=seed)\n"
        "    yield 'no mega-batch'\n"
    )
    what = TrainOrder(
        data="arriving:stream", net="mlp:16x1", steps=30, import_paths=(str(tmp_path),),
        stream=StreamOptions(wait=2),
    )  # fmt: skip
    agents(home)
    async with agent_of(home) as client:
        assert (await followed(client, what))[-1].stage == "done"
        assert (await followed(client, what))[-1].stage == "done"
    kept = ledger(home)
    assert kept.recorded[2].learned == (1, 2) and kept.last == 2
    assert "item 3" in kept.skipped[0].file and "yield one of these" in kept.skipped[0].reason
    assert len(list((home.state / "stream" / "items").glob("*.npz"))) == 2


async def test_a_mega_batch_that_comes_during_a_split_waits_and_is_contributed_after_it(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home, folder = swarm.joined("dahlia"), tmp_path / "incoming"
    swarm.agent(home)
    mega_batch(folder, "a", 21)
    async with agent_of(home) as client, swarm.coordinator() as operator:
        following = asyncio.create_task(followed(client, order(folder, most=2)))
        await until(lambda: 1 in ledger(home).recorded, within_s=90)

        async def split() -> bool:
            made = await operator.propose("split", [ExpertId("dahlia.e1")], {"steps": "1000000"})
            return made.state == "working"

        await until(split, within_s=60)

        async def has_copies() -> bool:
            return bool((await operator.proposals())[0].gate_versions)

        await until(has_copies, within_s=60)
        mega_batch(folder, "b", 22)
        await until(lambda: 2 in ledger(home).taken, within_s=60)
        await asyncio.sleep(1.0)
        assert 2 not in ledger(home).recorded, "it waits while the split is on trial"
        await operator.cancel((await operator.proposals())[0].id)
        await following
    kept = ledger(home)
    assert kept.recorded[2].learned == (2,) and not kept.recorded[2].note
    summed = LeafSums.read(home.state / "leaves" / "dahlia.l1.sums.npz", _size(home, "dahlia.l1"))
    samples = sum(taken.samples - taken.held_out for taken in kept.taken.values())
    assert summed is not None and summed.f.samples == samples, "nothing is lost, nothing counted twice"
