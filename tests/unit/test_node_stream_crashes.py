"""A stream that is cut off anywhere and begun again: each mega-batch is taken, learned and recorded once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.jobs import VALIDATION_FILE
from node.stream import arriving, learning
from node.stream import stream as stream_module
from node.stream.following import StreamRun
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.novelty import FRESH_FILE, NOVEL_FILE
from node.stream.parts import StreamParts
from node.stream.ports import HaltedError, Progress, StreamOrder
from node.stream.sources import FolderSource
from node.stream.stream import Stream
from node.stream.taking import TRAINING_FILE, Answering, BadMegaBatchError, Intake, IntakeJob
from swarm.config import NodeHome
from swarm.domain.agent import StreamOptions, TrainOrder, TrainStep
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_specification


class Killed(BaseException):
    """The process ends here."""


class Swarm:
    """What a stream knows of the swarm."""

    gate_version = 3

    def __init__(self, specification: Specification) -> None:
        self._specification = specification

    def specification(self) -> Specification:
        return self._specification

    async def provide_trunk(self, specification: Specification) -> None: ...

    async def provide_regions(self) -> GateStatement | None:
        return None


class Learner:
    """Learns in no time; remembers what by its key, as the book on disk would."""

    def __init__(self) -> None:
        self.learned: dict[str, tuple[str, ...]] = {}
        self.fails: SwarmError | None = None
        self.progress: Progress = "nothing"

    async def train(self, order: TrainOrder) -> AsyncIterator[TrainStep]:
        assert order.accumulate and order.stream is None
        for file in order.gathered:
            assert order.idempotency_key in self.learned or Path(file).exists()
        if self.fails is not None:
            raise self.fails
        self.learned.setdefault(order.idempotency_key, order.gathered)
        figures = {"forward_flops": 10.0, "train_flops": 30.0}
        yield TrainStep(stage="done", message="", fraction=1.0, figures=figures)

    def is_busy_besides(self, key: str) -> bool:
        return False

    def progress_of(self, key: str) -> Progress:
        return "laid down" if key in self.learned else self.progress

    def answering(self) -> list[Answering]:
        return []

    @property
    def numbers(self) -> list[str]:
        return [Path(file).parent.name for files in self.learned.values() for file in files]


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    (tmp_path / "home" / "state").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    for name in "abc":
        np.savez(tmp_path / "in" / f"{name}.npz", x=np.full((4, 2), ord(name)), y=np.arange(4))
    return NodeHome(tmp_path / "home")


@pytest.fixture(autouse=True)
def taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take mega-batches without a process."""

    async def carried_out(job: IntakeJob, folder: Path, log: Path) -> Intake:
        if "bad" in Path(job.source).name:
            raise BadMegaBatchError(job.source, found="nonsense")
        for name in (TRAINING_FILE, VALIDATION_FILE, NOVEL_FILE, FRESH_FILE):
            (folder / name).write_text(job.source)
        found = Intake(error=0.5, judged=4, measured_on="a test", samples=4, flops_forward=1, flops_total=2)
        job.write(folder)
        found.write(folder)
        return found

    for module in (arriving, learning):
        monkeypatch.setattr(module, "carried_out", carried_out)
    for module in (learning, stream_module):
        monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)


def made(home: NodeHome, learner: Learner, **options: Any) -> Stream:
    options = {"wait": 2, "most": 3} | options
    order = TrainOrder(data=str(home.root.parent / "in"), stream=StreamOptions(**options))
    parts = StreamParts(
        kept=StreamOrder(order=order, first=1),
        run=StreamRun(),
        ledger=StreamLedger(home.state / LEDGER_FILE),
        home=home,
        learner=learner,
        knowledge=Swarm(make_specification(BlobFiles(home.cache))),
        threads=1,
        clock=lambda: 1.0,
    )
    return Stream(parts=parts, source=FolderSource(home.root.parent / "in", settle_s=0.0))


def recorded(home: NodeHome) -> list[Sequence[int]]:
    ledger = StreamLedger(home.state / LEDGER_FILE)
    return [ledger.recorded[number].learned for number in sorted(ledger.recorded)]


async def test_every_w_mega_batches_are_learned_and_what_waits_when_the_stream_ends(home: NodeHome) -> None:
    learner = Learner()
    await made(home, learner).go()
    assert recorded(home) == [(), (1, 2), (3,)] and learner.numbers == ["000001", "000002", "000003"]
    records = StreamLedger(home.state / LEDGER_FILE).records
    assert [record.flops_total for record in records] == [2, 32, 32]
    assert not list((home.state / "stream" / "waiting").iterdir())


POINTS = [
    ("link_durably", 1), ("link_durably", 2), ("link_durably", 4), ("note_taken", 1), ("note_taken", 2),
    ("after note_taken", 1), ("after note_taken", 2), ("note_recorded", 1), ("note_recorded", 2),
    ("after note_recorded", 2), ("after train", 1), ("after train", 2),
]  # fmt: skip


@pytest.mark.parametrize(("point", "turn"), POINTS)
async def test_a_stream_killed_at_any_point_counts_each_mega_batch_once(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, point: str, turn: int
) -> None:
    learner, where = Learner(), point.rsplit(maxsplit=1)[-1]
    holder: Any = {"link_durably": arriving, "train": Learner}.get(where, StreamLedger)
    whole, turns = getattr(holder, where), iter(range(1, 100))

    def cut(*arguments: Any, **named: Any) -> Any:
        is_turn = next(turns) == turn
        if is_turn and not point.startswith("after"):
            raise Killed
        found = whole(*arguments, **named)
        if is_turn:
            raise Killed
        return found

    async def cut_training(*arguments: Any) -> AsyncIterator[TrainStep]:
        async for step in whole(*arguments):
            if next(turns) == turn:
                raise Killed
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(holder, where, cut_training if where == "train" else cut)
        with pytest.raises(Killed):
            await made(home, learner).go()
    await made(home, learner).go()
    assert recorded(home) == [(), (1, 2), (3,)]
    assert sorted(learner.numbers) == ["000001", "000002", "000003"]
    assert (home.state / VALIDATION_FILE).read_text().endswith("c.npz")


async def test_what_cannot_be_learned_waits_for_more_and_says_why(home: NodeHome) -> None:
    learner = Learner()
    learner.fails = InvalidInputError("samples to add", found="too few")
    await made(home, learner, most=2).go()
    ledger = StreamLedger(home.state / LEDGER_FILE)
    assert ledger.records[1].waited and "too few" in ledger.recorded[2].note and ledger.waiting == (1, 2)
    learner.fails = None
    await made(home, learner).go()
    assert StreamLedger(home.state / LEDGER_FILE).recorded[3].learned == (1, 2, 3)


async def test_nothing_is_learned_twice_where_a_result_could_not_be_laid_down(home: NodeHome) -> None:
    learner = Learner()
    learner.fails, learner.progress = SwarmError("disk", found="full"), "learned"
    with pytest.raises(HaltedError, match="learned, but not laid down"):
        await made(home, learner).go()
    learner.fails = None
    await made(home, learner).go()
    assert recorded(home) == [(), (1, 2), (3,)]


async def test_a_bad_file_is_skipped_once_and_the_same_content_again_counts_once(home: NodeHome) -> None:
    folder = home.root.parent / "in"
    (folder / "b.npz").replace(folder / "bad.npz")
    (folder / "again.npz").write_bytes((folder / "a.npz").read_bytes())
    for _ in range(2):
        await made(home, Learner(), most=0, idle_s=0.1).go()
    ledger = StreamLedger(home.state / LEDGER_FILE)
    assert ledger.last == 2
    reasons = {Path(one.file).name: one.reason for one in ledger.skipped}
    assert len(ledger.skipped) == 2 and "nonsense" in reasons["bad.npz"]
    assert (
        reasons["again.npz"] == "the same as mega-batch 1" or reasons["a.npz"] == "the same as mega-batch 1"
    )
    assert (folder / "bad.npz").exists()


async def test_news_reach_who_comes_late_and_nobody_who_leaves_ends_the_stream() -> None:
    run = StreamRun()
    for number in range(150):
        await run.tell("stream", f"{number}")
    late = asyncio.create_task(_all(run))
    leaving = asyncio.create_task(_all(run))
    await asyncio.sleep(0)
    leaving.cancel()
    await run.tell("stream", "150")
    await run.end()
    assert await late == ["149", "150"]


async def _all(run: StreamRun) -> list[str]:
    return [step.message async for step in run.follow()]
