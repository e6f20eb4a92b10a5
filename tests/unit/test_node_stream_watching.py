"""A watched folder: what is complete is taken, by name; what is being written is waited for."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.stream.watching import Arrival, Watch, content_digest, signature_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock) -> Watch:
    return Watch(tmp_path, clock, settle_s=1.0, patience_s=60.0)


def unknown(file: str, signature: str) -> bool:
    return False


def seen(watch: Watch, clock: Clock, after_s: float) -> list[str]:
    clock.now += after_s
    return [arrival.path.name for arrival in watch.look(unknown) if not arrival.fault]


def save(path: Path, value: int = 0) -> Path:
    np.savez(path, x=np.full((4, 2), value), y=np.arange(4))
    return path


def idx_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (folder / name).write_bytes(b"1")
    return folder


def refuse_to_open(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let files of that name be unreadable, for root too."""
    whole = Path.open

    def refused(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *arguments, **named)

    patch.setattr(Path, "open", refused)


def test_an_entry_is_taken_once_it_has_not_changed_for_a_while(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    save(tmp_path / "a.npz")
    assert seen(watch, clock, 0.0) == []
    assert seen(watch, clock, 0.9) == []
    assert seen(watch, clock, 0.2) == ["a.npz"]


def test_a_file_that_grows_is_waited_for(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    whole = save(tmp_path / ".whole.npz").read_bytes()
    growing = tmp_path / "a.npz"
    for size in range(1, len(whole), len(whole) // 4):
        growing.write_bytes(whole[:size])
        assert seen(watch, clock, 5.0) == []
    growing.write_bytes(whole)
    assert seen(watch, clock, 5.0) == []
    assert seen(watch, clock, 1.5) == ["a.npz"]


def test_a_slow_writer_has_time_and_half_a_file_is_given_up_with_its_reason(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    whole = save(tmp_path / ".whole.npz").read_bytes()
    half = tmp_path / "a.npz"
    half.write_bytes(whole[: len(whole) // 2])
    assert seen(watch, clock, 0.0) == []
    clock.now += 59.0
    assert watch.look(unknown) == []
    clock.now += 2.0
    (given_up,) = watch.look(unknown)
    assert "the beginning of an .npz file" in given_up.fault
    half.write_bytes(whole)
    assert seen(watch, clock, 0.0) == []
    assert seen(watch, clock, 2.0) == ["a.npz"]


def test_entries_come_by_name_and_unfinished_or_hidden_ones_do_not(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    for name in ("c.npz", "a.npz", "b.npz", ".hidden.npz"):
        save(tmp_path / name)
    for name in ("d.npz.part", "e.npz.tmp", "f.npz~"):
        (tmp_path / name).write_bytes(b"half")
    assert seen(watch, clock, 0.0) == []
    assert seen(watch, clock, 2.0) == ["a.npz", "b.npz", "c.npz"]


def test_a_folder_is_complete_when_its_idx_files_are_there_and_still(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(b"images")
    assert seen(watch, clock, 0.0) == []
    assert seen(watch, clock, 5.0) == []
    (folder / "train-labels-idx1-ubyte").write_bytes(b"labels")
    assert seen(watch, clock, 5.0) == []
    assert seen(watch, clock, 5.0) == ["a"]


def test_what_is_known_as_it_is_comes_back_only_when_it_changes(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    path = save(tmp_path / "a.npz")
    known = {(str(path), signature_of(path))}

    def is_known(file: str, signature: str) -> bool:
        return (file, signature) in known

    watch.look(is_known)
    clock.now += 5.0
    assert watch.look(is_known) == []
    save(path, 1)
    os.utime(path, (1, 1))
    watch.look(is_known)
    clock.now += 5.0
    assert [arrival.path for arrival in watch.look(is_known)] == [path]


def test_another_kind_of_file_can_be_no_mega_batch_and_a_folder_that_is_away_has_none(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    watch.look(unknown)
    clock.now += 2.0
    (found,) = watch.look(unknown)
    assert isinstance(found, Arrival) and "neither .npz nor a folder" in found.fault
    assert Watch(tmp_path / "away", clock).look(unknown) == []


def test_the_same_content_has_one_digest_whatever_it_is_called(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.npz"), save(tmp_path / "b.npz")
    assert content_digest(first) == content_digest(second)
    assert content_digest(first) != content_digest(save(tmp_path / "c.npz", 1))
    one, two = (idx_folder(tmp_path / name) for name in ("one", "two"))
    assert content_digest(one) == content_digest(two)
    (two / "t10k-labels-idx1-ubyte").write_bytes(b"not read")
    assert content_digest(one) == content_digest(two)
    (two / "class_names.txt").write_text("ant")
    assert content_digest(one) != content_digest(two)
    (two / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError):
        content_digest(two)


def test_what_cannot_be_read_is_waited_for_named_once_and_taken_when_it_can(
    tmp_path: Path, watch: Watch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = idx_folder(tmp_path / "a")
    given_up: set[tuple[str, str]] = set()

    def is_known(file: str, signature: str) -> bool:
        return (file, signature) in given_up

    def look(after_s: float) -> list[Arrival]:
        clock.now += after_s
        return watch.look(is_known)

    with monkeypatch.context() as patch:
        refuse_to_open(patch, "train-labels-idx1-ubyte")
        assert look(0.0) == [] and look(59.0) == []
        (found,) = look(2.0)
        assert found.fault == "cannot be read: Permission denied"
        given_up.add((str(found.path), found.signature))
        assert look(60.0) == []
    (found,) = look(1.0)
    assert (found.path, found.fault) == (folder, "")


def test_a_folder_with_ever_so_many_files_costs_a_look_at_those_that_count(
    tmp_path: Path, watch: Watch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("much", "a"):
        (tmp_path / name / "below").mkdir(parents=True)
        for number in range(300):
            (tmp_path / name / "below" / f"{number}").touch()
    idx_folder(tmp_path / "a")
    looked_at: list[Path] = []
    whole = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **named: looked_at.append(path) or whole(path, **named))
    watch.look(unknown)
    clock.now += 61.0
    found = {arrival.path.name: arrival.fault for arrival in watch.look(unknown)}
    assert found["a"] == "" and "no train-images-idx3-ubyte" in found["much"]
    assert len(looked_at) < 100


def test_what_is_no_plain_file_is_not_opened_and_a_name_that_is_no_text_is_refused(
    tmp_path: Path, watch: Watch, clock: Clock
) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / os.fsdecode(b"\xff.npz")).write_bytes(b"")
    watch.look(unknown)
    clock.now += 2.0
    faults = [arrival.fault for arrival in watch.look(unknown)]
    assert len(faults) == 2 and "neither a regular file" in faults[0] and "not UTF-8" in faults[1]


@pytest.mark.parametrize("target", ["away.npz", "a.npz"])
def test_a_link_to_nothing_is_named_once_and_taken_when_its_target_is_there(
    tmp_path: Path, watch: Watch, clock: Clock, target: str
) -> None:
    link = tmp_path / "a.npz"
    link.symlink_to(tmp_path / "elsewhere" / target if target != link.name else link)
    known: set[tuple[str, str]] = set()

    def look(after_s: float) -> list[Arrival]:
        clock.now += after_s
        return watch.look(lambda file, signature: (file, signature) in known)

    assert look(0.0) == [] and look(59.0) == []
    (found,) = look(2.0)
    assert (found.path, found.fault) == (link, "a link to what is not there")
    known.add((str(found.path), found.signature))
    assert look(60.0) == [] and look(60.0) == []
    link.unlink()
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(save(tmp_path / "elsewhere" / "whole.npz"))
    assert look(1.0) == []
    (found,) = look(2.0)
    assert (found.path, found.fault) == (link, "")
