"""Taking a mega-batch: split once, judged by who answers now, and looked through for what is new."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.held_out import MOST_HELD_OUT, link_validation, read_validation, validation_with, write_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import VALIDATION_FILE
from node.learning import learn
from node.shard_source import ShardSource
from node.statements import manifest_of
from node.stream.gathered import Gathered
from node.stream.intake import take
from node.stream.novelty import (
    FRESH_FILE,
    MOST_MEGA_BATCHES,
    NOVEL_FILE,
    Known,
    drop_added,
    forget_novel,
    fresh_counts,
    keep_novel,
    known_reach,
    reach_of,
)
from node.stream.taking import HELD_OUT_FILE, TRAINING_FILE, Answering, IntakeJob
from swarm.data.dataset import make_dataset
from swarm.data.sources import load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.ids import NodeId
from swarm.gating.regions import MIN_CLASS_COUNT, summarise_leaf
from swarm.modules.blobs import BlobFiles
from tests.support.learning import continued, digits_like, make_job, make_specification


@pytest.fixture
def job(tmp_path: Path) -> IntakeJob:
    (tmp_path / "state").mkdir()
    cache = BlobFiles(tmp_path / "cache")
    return IntakeJob(
        number=1,
        source=str(mega_batch(tmp_path / "a.npz", 1)),
        import_paths=(),
        specification=make_specification(cache, min_leaf_count=5),
        blob_folder=str(cache.folder),
        state=str(tmp_path / "state"),
        answering=(),
    )


def mega_batch(path: Path, seed: int, only: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
    images, labels = digits_like(300, 5, seed=seed, noise=1.0)
    rows = np.isin(labels, only)
    np.savez(path, x=images[rows], y=labels[rows])
    return path


def answered_by(tmp_path: Path, job: IntakeJob) -> IntakeJob:
    """Return the job for a node that learned classes 0 to 3 before, and kept its validation samples."""
    source = str(mega_batch(tmp_path / "before.npz", 9))
    order = TrainOrder(data=source, net="mlp:16x1", steps=80)
    learning = make_job(tmp_path / "job", order, specification=job.specification)
    result = learn(learning, tmp_path / "job", lambda stage, message, fraction: None)
    result.write(tmp_path / "job")
    (Path(job.state) / VALIDATION_FILE).write_bytes((tmp_path / "job" / VALIDATION_FILE).read_bytes())
    existing = continued(tmp_path / "job", BlobFiles(Path(job.blob_folder)))
    manifests = [
        manifest_of(
            leaf, owner=NodeId("rose"), specification=job.specification, known=None, share="borrow",
            gate_version=0, now=0.0,
        )
        for leaf in result.leaves
    ]  # fmt: skip
    answering = [
        Answering(manifest=manifest, prototypes=leaf.prototypes)
        for manifest, leaf in zip(manifests, existing, strict=True)
    ]
    return replace(job, answering=tuple(answering))


def test_samples_are_split_by_their_own_bytes_and_before_anybody_answers_all_is_wrong(
    tmp_path: Path, job: IntakeJob
) -> None:
    folder = tmp_path / "taking"
    folder.mkdir()
    found = take(job, folder)
    dataset = load_training(job.source)
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    assert (found.samples, found.held_out) == (len(dataset), len(held_out))
    training = Gathered.read(folder / TRAINING_FILE)
    np.testing.assert_array_equal(training.rows, kept)
    assert len(read_validation(folder / VALIDATION_FILE)) == len(held_out)
    assert (found.error, found.error_before, found.novel, found.novelty_by) == (1.0, None, 0, "")


def test_experts_that_answer_are_judged_on_its_own_held_out_samples_and_on_all_so_far(
    tmp_path: Path, job: IntakeJob
) -> None:
    job = answered_by(tmp_path, job)
    folder = tmp_path / "taking"
    folder.mkdir()
    found = take(job, folder)
    assert found.error_before is not None and found.error_before < 0.2 and found.error < 0.2
    assert found.novelty_by.startswith("rose.e1@1")
    assert found.flops_total > found.flops_forward > 0
    test = replace(job, test=str(mega_batch(tmp_path / "test.npz", 4, only=(4,))), judge_only=True)
    judged = take(test, folder)
    assert judged.error == 1.0 and judged.measured_on == test.test


def test_a_mega_batch_of_fewer_samples_than_a_leaf_needs_is_taken_and_waits(
    tmp_path: Path, job: IntakeJob
) -> None:
    job = answered_by(tmp_path, job)
    before = len(read_validation(Path(job.state) / VALIDATION_FILE))
    images, labels = digits_like(3, 3, seed=5, noise=1.0)
    np.savez(tmp_path / "few.npz", x=images, y=labels)
    folder = tmp_path / "taking"
    folder.mkdir()
    found = take(replace(job, source=str(tmp_path / "few.npz")), folder)
    assert (found.samples, found.fresh) == (3, 3) and found.error_before is None
    assert len(Gathered.read(folder / TRAINING_FILE)) == 3
    assert len(read_validation(folder / VALIDATION_FILE)) == before == found.judged


def test_a_class_that_is_validated_already_is_not_made_to_give_a_sample_of_each_mega_batch(
    tmp_path: Path, job: IntakeJob
) -> None:
    job = answered_by(tmp_path, job)
    images, labels = digits_like(30, 5, seed=5, noise=1.0)
    np.savez(tmp_path / "small.npz", x=images, y=labels)
    folder = tmp_path / "taking"
    folder.mkdir()
    found = take(replace(job, source=str(tmp_path / "small.npz")), folder)
    kept, held_out = hold_out(images, labels, VALIDATION_FRACTION, [0, 1, 2, 3])
    assert (found.fresh, found.held_out) == (len(kept), len(held_out))
    assert 4 in labels[held_out] and "4" in read_validation(folder / VALIDATION_FILE).class_names
    assert len(held_out) < len(hold_out(images, labels, VALIDATION_FRACTION)[1])


def test_samples_of_a_class_that_nobody_has_seen_are_novel_and_can_be_found_again(
    tmp_path: Path, job: IntakeJob
) -> None:
    job = answered_by(tmp_path, job)
    state = Path(job.state)
    shares = []
    for number, only in ((1, (0, 1, 2, 3)), (2, (0, 4))):
        source = mega_batch(tmp_path / f"{number}.npz", number + 20, only=only)
        folder = tmp_path / f"taking{number}"
        folder.mkdir()
        found = take(replace(job, number=number, source=str(source)), folder)
        shares.append(found.novel / found.fresh)
        for name in (NOVEL_FILE, FRESH_FILE):
            (state / name).write_bytes((folder / name).read_bytes())
    assert shares[0] < 0.2 and shares[1] > 0.4
    fresh, novel = fresh_counts(state)
    samples = ShardSource.read(state / NOVEL_FILE).load(job.specification, "novel samples")
    of_classes = samples.class_counts()
    enough = [count for count in of_classes.values() if count >= MIN_CLASS_COUNT]
    assert novel == (sum(enough) if len(enough) > 1 else 0) and fresh > len(samples)
    assert of_classes["4"] > 0.5 * len(samples)
    forget_novel(state, state)
    assert fresh_counts(state) == (0, 0)
    assert known_reach(state, found.novelty_by) is not None


def test_a_survey_tells_the_novel_samples_that_a_leaf_can_be_made_of(tmp_path: Path) -> None:
    images, labels = digits_like(20, 2)
    found = Gathered.of(make_dataset(images, labels, name="a"), np.arange(20), "a.npz")

    def told(*mega_batches: dict[str, int]) -> int:
        state = tmp_path / str(len(list(tmp_path.iterdir())))
        state.mkdir()
        for number, classes in enumerate(mega_batches):
            source = found.source(np.arange(sum(classes.values())))
            keep_novel(state, state, number, source, 20, classes=classes)
        return fresh_counts(state)[1]

    assert told({"0": 8, "1": 4}) == 0
    assert told({"0": 8, "1": 4}, {"1": 1, "2": 3}) == 13
    assert told({"0": 8}, {"1": 5}) == 13
    assert told({}, {"0": 8}) == 0


def test_only_the_newest_mega_batches_count_as_fresh(tmp_path: Path) -> None:
    state = tmp_path
    images, labels = digits_like(20, 2)
    found = Gathered.of(make_dataset(images, labels, name="a"), np.arange(20), "a.npz")
    for number in range(1, MOST_MEGA_BATCHES + 6):
        keep_novel(state, state, number, found.source(np.arange(number % 3)), 20)
    assert fresh_counts(state)[0] == 20 * MOST_MEGA_BATCHES
    kept = range(6, MOST_MEGA_BATCHES + 6)
    assert fresh_counts(state)[1] == sum(number % 3 for number in kept)
    assert len(ShardSource.read(state / NOVEL_FILE)) == fresh_counts(state)[1]


def test_what_came_while_an_add_was_on_trial_stays_novel(tmp_path: Path) -> None:
    state, taken, taking = (tmp_path / name for name in ("state", "taken", "taking"))
    for folder in (state, taken, taking):
        folder.mkdir()
    images, labels = digits_like(20, 2)
    found = Gathered.of(make_dataset(images, labels, name="a"), np.arange(20), "a.npz")

    def kept() -> list[int]:
        return [len(part.rows) for part in ShardSource.read(state / NOVEL_FILE).parts]

    for number in (1, 2, 3):
        keep_novel(state, state, number, found.source(np.arange(2 * number - 2)), 20)
        if number == 2:
            for name in (NOVEL_FILE, FRESH_FILE):
                (taken / name).write_bytes((state / name).read_bytes())
    # An intake that is under way when the add is accepted knows nothing of it, and ends after it.
    keep_novel(state, taking, 4, found.source(np.arange(6)), 20)
    assert kept() == [2, 4]
    forget_novel(state, taken)
    assert kept() == [4] and fresh_counts(state) == (20, 4)
    for name in (NOVEL_FILE, FRESH_FILE):
        (state / name).write_bytes((taking / name).read_bytes())
    drop_added(state)
    assert kept() == [4, 6] and fresh_counts(state) == (40, 10)
    drop_added(state)
    assert kept() == [4, 6]


def test_what_is_known_reaches_as_far_as_99_of_100_validation_samples() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(2, 400, 30)).astype(np.float32)
    summary = summarise_leaf(points, prototypes=20, seed=0)
    known = Known(prototypes=summary.prototypes, radii=summary.radii, by="a test")
    distances, flops = known.distances(others)
    assert (distances > 1).mean() > 0.05 and flops > 0, "by radii alone, known samples would be novel"
    reach = reach_of(distances)
    later = rng.normal(size=(400, 30)).astype(np.float32)
    assert (known.distances(later)[0] > reach).mean() < 0.03
    assert (known.distances(later + 5)[0] > reach).all()
    assert reach_of(np.array([0.5], np.float32)) == 1.0


def test_the_reach_of_what_is_known_is_found_once_for_the_same_prototypes(tmp_path: Path) -> None:
    images, labels = digits_like(20, 2)
    found = Gathered.of(make_dataset(images, labels, name="a"), np.arange(20), "a.npz")
    keep_novel(tmp_path, tmp_path, 1, found.source(np.arange(2)), 20, "gate 3", 1.5)
    assert known_reach(tmp_path, "gate 3") == 1.5 and known_reach(tmp_path, "gate 4") is None


@pytest.mark.parametrize("crash", ["none", "before the link", "after the link"])
def test_a_training_that_ended_while_a_mega_batch_was_taken_keeps_its_validation_samples(
    tmp_path: Path, job: IntakeJob, crash: str
) -> None:
    state, folder = Path(job.state) / VALIDATION_FILE, tmp_path / "taking"
    folder.mkdir()
    old = make_dataset(np.zeros((4, 8, 8), dtype=np.uint8), [0, 1] * 2, name="of a training long ago")
    write_validation(state, old, len(old))
    found = take(job, folder)
    own = read_validation(folder / HELD_OUT_FILE)
    newer = make_dataset(np.ones((6, 8, 8), dtype=np.uint8), [0, 1, 2] * 2, name="of a training meanwhile")
    write_validation(state, newer, len(newer))

    def link() -> None:
        link_validation(folder / VALIDATION_FILE, state, folder / HELD_OUT_FILE, found.added_to, seed=0)

    if crash == "before the link":
        both = validation_with(state, own, 0)
        write_validation(folder / VALIDATION_FILE, *both)
    link()
    if crash == "after the link":
        link()
    kept = read_validation(state)
    assert len(kept) == len(newer) + len(own) and found.held_out == len(own)
    assert {each.tobytes() for each in newer.inputs} < {each.tobytes() for each in kept.inputs}
    assert old.inputs[0].tobytes() not in {each.tobytes() for each in kept.inputs}


def test_where_no_training_ended_meanwhile_validation_is_as_the_intake_left_it(
    tmp_path: Path, job: IntakeJob
) -> None:
    folder, state = tmp_path / "taking", Path(job.state) / VALIDATION_FILE
    folder.mkdir()
    found = take(job, folder)
    whole = (folder / VALIDATION_FILE).read_bytes()
    assert found.added_to == "" and not state.exists()
    link_validation(folder / VALIDATION_FILE, state, folder / HELD_OUT_FILE, found.added_to, seed=0)
    assert state.read_bytes() == whole == (folder / VALIDATION_FILE).read_bytes()


def test_validation_samples_gather_up_to_a_limit_and_each_has_the_same_chance(tmp_path: Path) -> None:
    path = tmp_path / "validation.npz"
    for part in range(4):
        count = MOST_HELD_OUT // 2
        inputs = np.full((count, 1), part, dtype=np.float32)
        new = make_dataset(inputs, np.arange(count) % 2, name="new")
        kept, seen = validation_with(path, new, seed=5)
        write_validation(path, kept, seen)
    assert len(kept) == MOST_HELD_OUT and seen == 2 * MOST_HELD_OUT
    parts = np.bincount(read_validation(path).inputs[:, 0].astype(np.int64))
    assert (np.abs(parts / MOST_HELD_OUT - 0.25) < 0.02).all()
