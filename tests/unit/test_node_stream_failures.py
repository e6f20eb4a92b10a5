"""A stream loses nothing and does not end for a full disk, a killed process, or an unreadable file."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.held_out import read_validation, write_validation
from node.jobs import VALIDATION_FILE
from node.order_run import OrderRun
from node.stream import arriving, feeder, intake, taking, trouble
from node.stream import keeper as keeper_module
from node.stream.feeder import feed
from node.stream.intake import main
from node.stream.keeper import StreamKeeper
from node.stream.ledger import LEDGER_FILE, StreamLedger
from node.stream.sources import IteratorSource
from node.stream.stream import Stream
from node.stream.taking import HELD_OUT_FILE, BadMegaBatchError, Intake, IntakeJob, NotTakenError, carried_out
from node.stream.watching import Arrival
from node.training import Trainer
from swarm.config import NodeHome
from swarm.data.dataset import make_dataset
from swarm.domain.agent import StreamOptions, TrainOrder, TrainStep
from swarm.domain.errors import ConflictError, InvalidInputError, SwarmError, TooManyExpertsError
from swarm.modules.blobs import BlobFiles
from tests.support.learning import make_specification
from tests.unit.test_node_stream_crashes import Learner, Swarm, home, made, taken_at_once

__all__ = ["home", "taken_at_once"]
FULL = OSError(errno.ENOSPC, "No space left on device", "/private")
CarriedOut = Callable[[IntakeJob, Path, Path], Any]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no time worth mentioning."""
    monkeypatch.setattr(trouble, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(trouble, "LONGEST_PAUSE_S", 0.002)
    monkeypatch.setattr(keeper_module, "FIRST_RETRY_S", 0.01)


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[IntakeJob], Exception | None]) -> None:
    whole: CarriedOut = arriving.carried_out

    async def carried_out(job: IntakeJob, folder: Path, log: Path) -> Intake:
        if (error := fails(job)) is not None:
            raise error
        found: Intake = await whole(job, folder, log)
        return found

    monkeypatch.setattr(arriving, "carried_out", carried_out)


def skipped(home: NodeHome) -> dict[str, str]:
    ledger = StreamLedger(home.state / LEDGER_FILE)
    return {Path(one.file).name: one.reason for one in ledger.left_out}


def files(home: NodeHome) -> list[str]:
    ledger = StreamLedger(home.state / LEDGER_FILE)
    return [Path(taken.file).name for taken in ledger.taken.values()]


def told(stream: Stream) -> list[str]:
    return [step.message for step in stream.parts.run._steps if step.stage in ("skipped", "trouble")]


async def test_a_full_disk_is_waited_out_and_every_mega_batch_taken_in_order(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = iter(range(100))
    failing(monkeypatch, lambda job: FULL if next(attempts) < 8 else None)
    stream = made(home, Learner())
    going = asyncio.create_task(stream.go())
    while stream.parts.run.trouble is None:
        await asyncio.sleep(0)
    assert stream.parts.run.trouble.reason == "No space left on device"
    assert "a.npz could not be taken, once" in stream.parts.run.trouble.told
    await going
    assert sorted(files(home)) == ["a.npz", "b.npz", "c.npz"] and not skipped(home)
    assert stream.parts.run.trouble is None and any(
        "8 times" in each or "times in" in each for each in told(stream)
    )


async def test_a_file_that_always_kills_its_reader_is_put_aside_and_tried_again_after_a_restart(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = NotTakenError(
        "mega-batch", found="ended with signal 9", reason="its process ended with signal 9"
    )
    with monkeypatch.context() as patch:
        failing(patch, lambda job: killed if job.source.endswith("a.npz") else None)
        stream = made(home, Learner(), most=0, idle_s=0.05)
        await stream.go()
    assert files(home) == ["b.npz", "c.npz"]
    assert (
        "put aside: could not be taken, 4 times" in skipped(home)["a.npz"] and "signal 9" in told(stream)[-1]
    )
    await made(home, Learner(), most=0, idle_s=0.05).go()
    assert files(home) == ["b.npz", "c.npz", "a.npz"] and not skipped(home)


@pytest.mark.parametrize("point", ["note_taken", "note_recorded", "note_skipped", "link_durably"])
async def test_a_disk_that_is_full_for_the_streams_own_records_loses_nothing(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    (home.root.parent / "in" / "d.npz").write_bytes((home.root.parent / "in" / "a.npz").read_bytes())
    holder: Any = arriving if point == "link_durably" else StreamLedger
    whole, turns = getattr(holder, point), iter(range(100))

    def full(*arguments: Any, **named: Any) -> Any:
        if next(turns) < 2:
            raise FULL
        return whole(*arguments, **named)

    monkeypatch.setattr(holder, point, full)
    learner = Learner()
    await made(home, learner, most=0, idle_s=0.05).go()
    assert files(home) == ["a.npz", "b.npz", "c.npz"] and list(skipped(home)) == ["d.npz"]
    assert sorted(learner.numbers) == ["000001", "000002", "000003"]


async def test_a_file_that_cannot_be_read_or_vanishes_does_not_end_the_stream(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = arriving.content_digest

    def digest(path: Path) -> str:
        if path.name == "a.npz":
            path.unlink(missing_ok=True)
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        if path.name == "b.npz":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(arriving, "content_digest", digest)
    np.savez(home.root.parent / "in" / "d.npz", x=np.full((4, 2), 9), y=np.arange(4))
    await made(home, Learner(), most=0, idle_s=0.05).go()
    assert files(home) == ["c.npz", "d.npz"]
    assert list(skipped(home)) == ["b.npz"] and "Permission denied" in skipped(home)["b.npz"]


async def test_validation_samples_of_a_training_that_ended_meanwhile_stay(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: CarriedOut = arriving.carried_out

    async def carried_out(job: IntakeJob, folder: Path, log: Path) -> Intake:
        found: Intake = await whole(job, folder, log)
        for path, value in (
            (folder / VALIDATION_FILE, 1), (folder / HELD_OUT_FILE, 1), (home.state / VALIDATION_FILE, 2),
        ):  # fmt: skip
            inputs = np.full((4, 2), value, dtype=np.uint8)
            write_validation(path, make_dataset(inputs, [0, 1] * 2, name="a"), 4)
        return found

    monkeypatch.setattr(arriving, "carried_out", carried_out)
    await made(home, Learner(), most=1, wait=1).go()
    kept = read_validation(home.state / VALIDATION_FILE)
    assert sorted(kept.inputs[:, 0].tolist()) == [1] * 4 + [2] * 4


async def test_seconds_are_what_learning_took_without_waiting_for_its_turn(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = iter([True] * 60)
    monkeypatch.setattr(Learner, "is_busy_besides", lambda learner, key: next(busy, False))
    await made(home, Learner(), most=2).go()
    assert StreamLedger(home.state / LEDGER_FILE).records[1].seconds < 0.3


def kept_by(home: NodeHome, learner: Learner) -> StreamKeeper:
    knowledge = Swarm(make_specification(BlobFiles(home.cache)))
    return StreamKeeper(home=home, learner=learner, knowledge=knowledge, threads=1, settle_s=0.0)


def order(home: NodeHome, **options: Any) -> TrainOrder:
    return TrainOrder(data=str(home.root.parent / "in"), stream=StreamOptions(**options))


async def test_a_stream_that_fails_says_so_and_is_tried_again(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, whole = iter(range(100)), Stream._is_over

    async def broken(stream: Stream) -> bool:
        if next(attempts) < 2:
            raise RuntimeError("a bug")
        return await whole(stream)

    monkeypatch.setattr(Stream, "_is_over", broken)
    keeper = kept_by(home, Learner())
    steps, troubled = [], []
    async for step in keeper.follow(order(home, most=3)):
        steps.append(step)
        troubled.append(keeper.activity)
    assert steps[-1].stage == "done" and len(files(home)) == 3 and keeper.trouble is None
    failures = [step.message for step in steps if step.stage == "trouble"]
    assert failures and "the stream failed and is tried again" in failures[0] and "a bug" in failures[0]
    assert "stream in trouble: RuntimeError" in troubled


async def test_a_stream_whose_last_training_was_refused_ends_by_saying_so(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, whole = Learner(), Learner.train
    refusal = TooManyExpertsError("rose.e1@2", found="128 in the registry")

    async def refused(self: Learner, order: TrainOrder) -> AsyncIterator[TrainStep]:
        async for step in whole(self, order):
            yield step
        if "000003" in order.gathered[-1]:
            raise refusal

    monkeypatch.setattr(Learner, "train", refused)
    steps = []
    with pytest.raises(ConflictError, match=r"1 of 2 trainings refused, the last: rose.e1@2: found 128"):
        async for step in kept_by(home, learner).follow(order(home, most=3, wait=2)):
            steps.append(step)
    assert steps[-1].stage == "done" and "1 of 2 trainings refused" in steps[-1].message
    assert "learned 1 mega-batches, refused: rose.e1@2" in steps[-2].message
    ledger = StreamLedger(home.state / LEDGER_FILE)
    assert [ledger.recorded[number].is_refused for number in (2, 3)] == [False, True]
    assert not ledger.waiting, "it is learned, and not learned again"


async def test_what_is_published_and_in_no_gate_is_told_with_its_reason(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def aside(self: Learner, order: TrainOrder) -> AsyncIterator[TrainStep]:
        self.learned[order.idempotency_key] = order.gathered
        figures = {"activated": 0.0}
        yield TrainStep(stage="done", message="contribution kept aside", fraction=1.0, figures=figures)

    monkeypatch.setattr(Learner, "train", aside)
    steps = [step async for step in kept_by(home, Learner()).follow(order(home, most=2, wait=2))]
    assert "learned 2 mega-batches; not in the gate: contribution kept aside" in steps[-2].message
    assert steps[-1].stage == "done" and "refused" not in steps[-1].message


async def test_a_stream_whose_folder_is_away_when_the_agent_starts_goes_on_when_it_is_back(
    home: NodeHome,
) -> None:
    keeper = kept_by(home, Learner())
    following = aiter(keeper.follow(order(home)))
    await anext(following)
    await keeper.stop()
    folder = home.root.parent / "in"
    folder.rename(folder.with_name("away"))
    again = kept_by(home, Learner())
    again.resume()
    while again.trouble is None:
        await asyncio.sleep(0.005)
    assert "no such folder" in again.trouble.told and again.activity == "stream in trouble: not found"
    folder.with_name("away").rename(folder)
    async with asyncio.timeout(10):
        while len(files(home)) < 3:
            await asyncio.sleep(0.02)
    ended = await again.end()
    assert ended.stage == "done" and not again.activity


async def test_a_stream_whose_order_cannot_be_read_is_told_of_until_it_is_ended(home: NodeHome) -> None:
    (home.state / "stream").mkdir()
    (home.state / "stream" / "order.json").write_text("{")
    keeper = kept_by(home, Learner())
    keeper.resume()
    assert keeper.trouble is not None and "not taken up again" in keeper.trouble.told
    assert (await keeper.end()).stage == "done"
    assert keeper.trouble is None and not (home.state / "stream" / "order.json").exists()


async def test_an_iterator_that_breaks_goes_on_where_it_was_until_it_has_nothing_for_too_long(
    home: NodeHome, tmp_path: Path
) -> None:
    reference, paths = iterator(
        tmp_path,
        "arriving_from_a_sensor",
        "def stream():\n    yield [[1, 2], [3, 4]], [0, 1]\n    raise OSError('sensor broke')\n",
    )
    keeper, steps = kept_by(home, Learner()), []
    what = TrainOrder(data=reference, import_paths=tuple(paths), stream=StreamOptions(idle_s=3.0))
    with pytest.raises(InvalidInputError, match="sensor broke"):
        async for step in keeper.follow(what):
            steps.append(step)
    assert len(files(home)) == 1
    assert any("tried again" in step.message and "sensor broke" in step.message for step in steps)


async def test_a_result_that_could_not_be_laid_down_is_laid_down_when_the_stream_is_tried_again(
    home: NodeHome,
) -> None:
    learner = Learner()
    learner.fails, learner.progress = SwarmError("disk", found="full"), "learned"
    keeper, stages = kept_by(home, learner), []
    async for step in keeper.follow(order(home, most=3)):
        stages.append(step.stage)
        if step.stage == "trouble":
            assert "learned, but not laid down" in step.message
            learner.fails = None
    assert "trouble" in stages and learner.numbers == ["000001", "000002", "000003"]


async def test_a_streams_job_that_failed_is_carried_out_anew_and_a_persons_is_told_again(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[OrderRun] = []

    async def carry_out(trainer: Trainer, run: OrderRun) -> None:
        runs.append(run)
        await run.end(SwarmError("disk", found="full") if len(runs) < 2 else None)

    monkeypatch.setattr(Trainer, "_carry_out", carry_out)
    parts: dict[str, Any] = dict.fromkeys(
        ("identity", "book", "outbox", "courier", "cache", "knowledge"), None
    )
    for accumulate, ends in ((False, ["full", "full"]), (True, ["full", ""])):
        runs.clear()
        trainer = Trainer(home=home, default_net="linear", threads=1, **parts)
        what = TrainOrder(data="digits", idempotency_key="k", accumulate=accumulate)
        for end in ends:
            found = ""
            try:
                assert [step async for step in trainer.train(what)] == []
            except SwarmError as error:
                found = error.found
            assert found == end


async def test_a_new_stream_whose_source_cannot_be_is_refused(home: NodeHome, tmp_path: Path) -> None:
    keeper = kept_by(home, Learner())
    wrong = TrainOrder(data="nowhere_at_all:stream", stream=StreamOptions())
    with pytest.raises(SwarmError, match="no module nowhere_at_all"):
        async for _ in keeper.follow(wrong):
            pass
    assert not keeper.is_running and keeper.trouble is None


def test_an_intake_says_that_the_disk_was_full_and_does_not_blame_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job_folder(tmp_path)
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(intake, "say", lines.append)

    def told() -> dict[str, Any]:
        assert main(folder) == 2
        return lines[-1]

    def raising(error: Exception) -> Callable[..., Any]:
        def load(*arguments: Any, **named: Any) -> Any:
            raise error

        return load

    for error, reason in ((FULL, "No space left on device"), (MemoryError("1 TB"), "out of memory")):
        monkeypatch.setattr(intake, "load_training", raising(error))
        said = told()
        assert (said["of"], said["reason"]) == ("machine", reason) and reason != said["problem"]["found"]

    def damaged(cause: OSError) -> Callable[..., Any]:
        def load(*arguments: Any, **named: Any) -> Any:
            raise InvalidInputError("a.npz", found="damaged") from cause

        return load

    monkeypatch.setattr(intake, "load_training", damaged(OSError(errno.EIO, "Input/output error")))
    assert told()["of"] == "machine"
    monkeypatch.setattr(intake, "load_training", damaged(OSError(errno.EINVAL, "Invalid argument")))
    assert told()["of"] == "samples"


def job_folder(tmp_path: Path) -> Path:
    folder, cache = tmp_path / "taking", BlobFiles(tmp_path / "cache")
    folder.mkdir(parents=True)
    (tmp_path / "state").mkdir()
    made_job(tmp_path, cache).write(folder)
    return folder


def made_job(tmp_path: Path, cache: BlobFiles) -> IntakeJob:
    return IntakeJob(
        number=1,
        source=str(tmp_path / "a.npz"),
        import_paths=(),
        specification=make_specification(cache, min_leaf_count=5),
        blob_folder=str(cache.folder),
        state=str(tmp_path / "state"),
        answering=(),
    )


class Reader:
    """A process that says something and ends."""

    def __init__(self, status: int, *says: dict[str, Any]) -> None:
        self.status, self.says, self.starts = status, says, 0

    async def start(self, module: str, arguments: list[str], *, log: Path) -> "Reader":
        self.starts += 1
        return self

    async def lines(self) -> Any:
        for each in self.says:
            yield each

    async def wait(self) -> int:
        return self.status

    async def stop(self) -> None: ...

    def last_words(self) -> str:
        return "OSError: [Errno 28]"


@pytest.mark.parametrize(
    ("reader", "error", "reason"),
    [
        (Reader(-9), NotTakenError, "its process ended with signal 9"),
        (Reader(1), NotTakenError, "its process ended with status 1"),
        (
            Reader(2, {"problem": {"code": "internal", "subject": "s"}, "of": "machine", "reason": "full"}),
            NotTakenError,
            "full",
        ),
        (
            Reader(2, {"problem": {"code": "internal", "subject": "s"}, "of": "samples"}),
            BadMegaBatchError,
            "",
        ),
    ],
)
async def test_only_what_a_reader_says_of_the_samples_is_their_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader, error: type[SwarmError], reason: str
) -> None:
    monkeypatch.setattr(taking, "Child", reader)
    folder = job_folder(tmp_path)
    with pytest.raises(error) as found:
        await carried_out(IntakeJob.read(folder), folder, tmp_path / "log")
    assert reader.starts == 1 and getattr(found.value, "reason", "") == reason


def iterator(tmp_path: Path, name: str, body: str) -> tuple[str, list[str]]:
    (tmp_path / f"{name}.py").write_text(body)
    return f"{name}:stream", [str(tmp_path)]


def test_an_item_that_cannot_be_written_is_kept_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, paths = iterator(
        tmp_path, "arriving_on_a_full_disk", "def stream():\n    yield [[1, 2], [3, 4]], [0, 1]\n"
    )
    whole, attempts = feeder.save_npz, iter(range(100))

    def full(*arguments: Any) -> None:
        if next(attempts) < 3:
            raise FULL
        whole(*arguments)

    said: list[dict[str, Any]] = []
    monkeypatch.setattr(feeder, "say", said.append)
    monkeypatch.setattr(feeder, "save_npz", full)
    (tmp_path / "items").mkdir()
    feed(tmp_path / "items", reference, paths)
    assert len(list((tmp_path / "items").glob("*.npz"))) == 1
    assert [each["trouble"] for each in said] == ["No space left on device"] * 3 + [""]


def test_an_iterator_that_breaks_is_told_at_which_item(tmp_path: Path) -> None:
    reference, paths = iterator(
        tmp_path,
        "arriving_until_it_breaks",
        "def stream():\n    yield [[1, 2], [3, 4]], [0, 1]\n    raise OSError('sensor broke')\n",
    )
    (tmp_path / "items").mkdir()
    with pytest.raises(InvalidInputError) as found:
        feed(tmp_path / "items", reference, paths)
    assert "sensor broke" in found.value.found and found.value.expected == "item 2, or the end"


def test_an_item_put_aside_holds_up_no_other_and_is_not_dropped_for_room(tmp_path: Path) -> None:
    source = IteratorSource(tmp_path, "m:stream", (), keep_mb=1e-6, log=tmp_path / "log")
    arrivals = []
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", x=np.zeros(4))
        arrivals.append(Arrival(path=tmp_path / f"{name}.npz", signature="s"))
    a, b, c = arrivals
    source.note_aside(a)
    for each in (b, c):
        source.note_taken(each)
    assert json.loads((tmp_path / ".taken.json").read_bytes()) == 3
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["a.npz", "c.npz"]
    source.note_taken(a)
    assert json.loads((tmp_path / ".taken.json").read_bytes()) == 3
