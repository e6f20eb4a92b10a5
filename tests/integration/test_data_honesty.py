"""Nothing is trained, tuned or chosen on test samples, and nothing is judged on what it was trained on."""

import os
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import LearningResult
from swarm.cli.up.deal import deal
from swarm.data.sources import load_test, load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import InvalidInputError, NotFoundError
from tests.support.learning import digits_like, make_job, run_learner

OWN_DATA = """
import os

import numpy as np


def dataset(split):
    if split != "train":
        open(os.environ["OPENED"], "a").write(split)
        raise RuntimeError("the test samples are not to be looked at yet")
    labels = np.arange(240) % 4
    images = np.random.default_rng(0).integers(0, 4, (240, 8, 8)) + 3 * labels[:, None, None]
    return images.astype(np.uint8), labels
"""


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def idx_folder(folder: Path, test: bytes | None = None) -> Path:
    """Return a folder in MNIST's layout; test: what its test files hold instead of samples."""
    folder.mkdir()
    for stem, seed in (("train", 0), ("t10k", 1)):
        images, labels = digits_like(300, 4, seed)
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels.astype(np.uint8))
    if test is not None:
        for path in folder.glob("t10k*"):
            path.write_bytes(test)
    return folder


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_training_ends_well_though_the_test_files_cannot_be_read(tmp_path: Path) -> None:
    source = idx_folder(tmp_path / "idx", test=b"not samples at all")
    with pytest.raises(InvalidInputError):
        load_test(str(source))
    job = tmp_path / "job"
    make_job(job, TrainOrder(data=str(source), steps=50))
    code, _, errors = run_learner(job)
    assert code == 0, errors
    assert LearningResult.read(job).samples > 200


def test_a_dataset_function_is_never_asked_for_its_test_split_while_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watched.py").write_text(OWN_DATA)
    monkeypatch.setenv("OPENED", str(tmp_path / "opened"))
    job = tmp_path / "job"
    make_job(job, TrainOrder(data="watched:dataset", steps=50, import_paths=(str(tmp_path),)))
    code, _, errors = run_learner(job)
    assert code == 0, errors
    assert not (tmp_path / "opened").exists()


def test_a_deal_opens_test_samples_only_when_queries_are_asked_for(tmp_path: Path) -> None:
    source = idx_folder(tmp_path / "idx")
    tests = list(source.glob("t10k*"))
    kept = {path: path.read_bytes() for path in tests}
    for path in tests:
        path.write_bytes(b"not yet")
    dealt = deal(str(source), "classes:2", 2, seed=0)
    assert dealt.class_names == ("0", "1", "2") and dealt.new_class == "3"
    with pytest.raises(InvalidInputError):
        _ = dealt.old_queries
    for path, data in kept.items():
        path.write_bytes(data)
    dealt = deal(str(source), "classes:2", 2, seed=0)
    assert set(dealt.old_queries.class_names) == {"0", "1", "2"}
    assert dealt.new_queries is not None and dealt.new_queries.class_names == ("3",)


def test_a_source_without_test_samples_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    images, labels = digits_like(200, 4)
    np.savez(tmp_path / "own.npz", x=images, y=labels)
    source = idx_folder(tmp_path / "idx")
    os.remove(source / "t10k-labels-idx1-ubyte")
    for name in (str(tmp_path / "own.npz"), str(source)):
        with pytest.raises(NotFoundError):
            deal(name, "iid", 2, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_who_trains_who_validates_and_who_is_asked_never_share_a_sample(seed: int) -> None:
    dealt = deal("digits", "classes:4", 3, seed)
    assert dealt.newcomer is not None and dealt.new_queries is not None
    asked = [*dealt.old_queries.inputs, *dealt.new_queries.inputs]
    everybody = [*dealt.nodes.values(), dealt.newcomer]
    for part in everybody:
        training, validation = hold_out(part.inputs, part.labels, VALIDATION_FRACTION)
        assert len(training) + len(validation) == len(part)
        assert not rows(part.inputs[training]) & rows(part.inputs[validation])
        assert not rows(part.inputs) & rows(np.stack(asked))
    assert sum(map(len, everybody)) == len(load_training("digits"))
    assert len(asked) == len(load_test("digits"))


def test_the_learner_keeps_exactly_the_held_out_samples_for_judging(tmp_path: Path) -> None:
    job = tmp_path / "job"
    make_job(job, TrainOrder(data="digits", steps=20))
    code, _, errors = run_learner(job)
    assert code == 0, errors
    data = load_training("digits")
    training, validation = hold_out(data.inputs, data.labels, VALIDATION_FRACTION)
    with np.load(job / "validation.npz", allow_pickle=False) as kept:
        judged = kept["inputs"]
    assert rows(judged) == rows(data.inputs[validation])
    assert not rows(judged) & rows(data.inputs[training])
    assert not rows(judged) & rows(load_test("digits").inputs)
    assert LearningResult.read(job).samples == len(training)


def test_copies_of_one_sample_are_never_on_both_sides() -> None:
    images, labels = digits_like(60, 3)
    doubled = np.concatenate([images, images, images])
    split = partial(hold_out, doubled, np.tile(labels, 3))
    for fraction in (0.001, 0.1, 0.999):
        training, validation = split(fraction)
        assert len(training) and len(validation)
        assert not rows(doubled[training]) & rows(doubled[validation])
    with pytest.raises(InvalidInputError, match="no class with two different"):
        hold_out(np.zeros((8, 2, 2), dtype=np.uint8), np.array([0, 1] * 4), 0.1)
