"""An update's memory on disk: whole, private, and never a reason to stop."""

import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Samples
from swarm.experts.updating import Memory, read_memory, write_memory


def memory() -> Memory:
    rng = np.random.default_rng(0)
    samples = Samples(
        inputs=rng.integers(0, 256, (4, 3, 3)).astype(np.uint8),
        labels=np.array([0, 1, 1, 0]),
        weights=np.array([1, 2, 3, 4], np.float32),
    )
    return Memory(
        class_names=("äpfel", "pears"),
        seen=10,
        held_out_seen=3,
        importance={"head.weight": rng.random((2, 5)).astype(np.float32)},
        anchor={"head.weight": rng.random((2, 5)).astype(np.float32)},
        samples=samples,
        held_out=samples.at(np.array([2], dtype=np.int64)),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, told = tmp_path / "expert.memory", list[str]()
    write_memory(path, memory())
    found = read_memory(path, told.append)
    assert found is not None and not told
    assert (found.class_names, found.seen, found.held_out_seen) == (("äpfel", "pears"), 10, 3)
    for name, array in memory().arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
        assert found.arrays()[name].dtype == array.dtype
    assert found.digest() == memory().digest()
    assert found.size_bytes == memory().size_bytes == 2 * 40 + 4 * (9 + 8 + 4) + (9 + 8 + 4)


def test_an_empty_memory_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "expert.memory"
    write_memory(path, Memory(class_names=("a",)))
    found = read_memory(path)
    assert found is not None and found.samples is None and not found.importance


def test_only_the_owner_may_read_it_and_nothing_lies_beside(tmp_path: Path) -> None:
    path = tmp_path / "expert.memory"
    write_memory(path, memory())
    write_memory(path, memory())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_no_memory_and_no_message(tmp_path: Path) -> None:
    told: list[str] = []
    assert read_memory(tmp_path / "none", told.append) is None
    assert not told


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "folder", "other schema", "labels", "nan"])
def test_a_damaged_memory_is_none_and_says_so(tmp_path: Path, damage: str) -> None:
    path, told = tmp_path / "expert.memory", list[str]()
    write_memory(path, memory())
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-10])
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 20)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "other schema":
        save_file(load_file(path), path, {"schema": "swarm.checkpoint/1"})
    elif damage == "labels":
        at = whole.index(memory().samples.arrays()["labels"].tobytes())  # type: ignore[union-attr]
        path.write_bytes(whole[:at] + b"\x09" + whole[at + 1 :])
    else:
        at = whole.index(memory().importance["head.weight"].tobytes())
        path.write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
    found = read_memory(path, told.append)
    assert found is None
    assert len(told) == 1 and "expert.memory" in told[0] and "goes on without it" in told[0]


def test_a_memory_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="different class names"):
        Memory(class_names=("a", "a"))
    with pytest.raises(InvalidInputError, match="same names and shapes"):
        Memory(class_names=("a",), importance={"w": np.ones(2, np.float32)})
    samples = Samples(inputs=np.zeros((1, 2), np.uint8), labels=np.array([3]))
    with pytest.raises(InvalidInputError, match="remembered labels"):
        Memory(class_names=("a",), samples=samples)
