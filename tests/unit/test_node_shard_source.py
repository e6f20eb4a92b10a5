"""A leaf's samples are found again where they came from, and data that have changed are noticed."""

from pathlib import Path

import numpy as np
import pytest

from node.shard_source import ShardPart, ShardSource
from swarm.data.sources import load_training
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError
from swarm.modules.blobs import BlobFiles
from tests.support.learning import digits_like, make_specification

ROWS = np.array([3, 5, 8, 13, *range(40, 80)])


def written(path: Path, count: int = 100, seed: int = 0) -> str:
    images, labels = digits_like(count, 4, seed=seed)
    np.savez(path, x=images, y=labels)
    return str(path)


def kept(path: Path, source: str) -> ShardSource:
    dataset = load_training(source)
    ShardSource(parts=(ShardPart.of(dataset, ROWS, source),)).save(path)
    return ShardSource.read(path)


def test_exactly_the_samples_of_the_leaf_come_back_in_order(tmp_path: Path) -> None:
    source = written(tmp_path / "a.npz")
    shard = kept(tmp_path / "shard.npz", source)
    specification = make_specification(BlobFiles(tmp_path / "cache"))
    found, whole = shard.load(specification, "ada.l1"), load_training(source)
    assert len(shard) == len(found) == len(ROWS)
    assert np.array_equal(found.inputs, whole.inputs[ROWS])
    assert [found.class_names[label] for label in found.labels] == [
        whole.class_names[label] for label in whole.labels[ROWS]
    ]


def test_samples_of_several_sources_lie_one_after_the_other(tmp_path: Path) -> None:
    first = kept(tmp_path / "1.npz", written(tmp_path / "a.npz"))
    second = kept(tmp_path / "2.npz", written(tmp_path / "b.npz", seed=1))
    specification = make_specification(BlobFiles(tmp_path / "cache"))
    both = first.joined(second)
    samples = both.load(specification, "ada.l1")
    assert np.array_equal(samples.inputs[len(ROWS) :], second.load(specification, "ada.l1").inputs)
    half = np.array([1, 2, len(ROWS) + 7])
    chosen = both.subset(samples, half)
    specification = make_specification(BlobFiles(tmp_path / "cache"), min_leaf_count=1)
    assert np.array_equal(chosen.load(specification, "ada.l2").inputs, samples.inputs[half])


def test_too_few_samples_are_named_by_whose_they_are(tmp_path: Path) -> None:
    shard = kept(tmp_path / "shard.npz", written(tmp_path / "a.npz"))
    specification = make_specification(BlobFiles(tmp_path / "cache"), min_leaf_count=1000)
    expected = f"novel samples of node ben: found {len(ROWS)} samples; expected at least 1000"
    with pytest.raises(InvalidInputError, match=expected):
        shard.load(specification, "novel samples of node ben")


def test_a_file_that_has_grown_is_still_good_and_one_that_has_changed_is_not(tmp_path: Path) -> None:
    source = written(tmp_path / "a.npz")
    shard = kept(tmp_path / "shard.npz", source)
    specification = make_specification(BlobFiles(tmp_path / "cache"))
    images, labels = digits_like(100, 4)
    more, names = digits_like(20, 4, seed=5)
    np.savez(source, x=np.concatenate([images, more]), y=np.concatenate([labels, names]))
    assert len(shard.load(specification, "ada.l1")) == len(ROWS)
    labels[ROWS[0]] = (labels[ROWS[0]] + 1) % 4
    np.savez(source, x=images, y=labels)
    with pytest.raises(VerificationError, match=r"the data of ada\.l1 at .*swarm train"):
        shard.load(specification, "ada.l1")


def test_a_source_that_is_gone_and_a_record_that_never_was_are_named(tmp_path: Path) -> None:
    source = written(tmp_path / "a.npz")
    shard = kept(tmp_path / "shard.npz", source)
    Path(source).unlink()
    with pytest.raises(NotFoundError, match=r"a\.npz"):
        shard.load(make_specification(BlobFiles(tmp_path / "cache")), "ada.l1")
    with pytest.raises(NotFoundError, match="train it once more"):
        ShardSource.read(tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK")
    with pytest.raises(VerificationError, match="unreadable"):
        ShardSource.read(tmp_path / "torn.npz")
