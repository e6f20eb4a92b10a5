"""Large uploads past the page cache: the same bytes, whatever the pieces and the file system."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import ExhaustedError
from swarm.modules import BlobFiles, direct_writes
from swarm.modules.direct_writes import ALIGNED, DIRECT_FROM_BYTES

MIB = 1 << 20
DATA = random.Random(7).randbytes(DIRECT_FROM_BYTES + 3 * ALIGNED + 17)
NAME = digest_of(DATA)


def upload(files: BlobFiles, pieces: Sequence[int], data: bytes = DATA) -> None:
    """Send data in pieces of these sizes, again and again."""
    with files.writer(digest_of(data), len(data), sender="node-ada") as writer:
        start, turn = 0, 0
        while start < len(data):
            size = pieces[turn % len(pieces)]
            writer.write(memoryview(data)[start : start + size])
            start, turn = start + size, turn + 1
        writer.commit()


def in_cache(path: Path) -> bool:
    """Say whether the first bytes of a file are in the page cache."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(ALIGNED)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError:
            pytest.skip("this file system does not say what it has cached")


def takes_direct_writes(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("pieces", [(MIB,), (4 * MIB,), (MIB, 4000), (1000, 2 * MIB + 5), (len(DATA),)])
def test_what_comes_in_pieces_of_any_size_is_there(tmp_path: Path, pieces: tuple[int, ...]) -> None:
    files = BlobFiles(tmp_path, direct_io=True)
    upload(files, pieces)
    assert bytes(BlobFiles(tmp_path).open_verified(NAME)) == DATA


def test_only_large_uploads_pass_the_cache(tmp_path: Path) -> None:
    if not takes_direct_writes(tmp_path):
        pytest.skip("this file system has no direct writes")
    files, small = BlobFiles(tmp_path, direct_io=True), DATA[: 8 * MIB]
    upload(files, (MIB,))
    upload(files, (MIB,), small)
    assert not in_cache(files.path(NAME)) and in_cache(files.path(digest_of(small)))
    cached = BlobFiles(tmp_path / "cached")
    upload(cached, (MIB,))
    assert in_cache(cached.path(NAME))


def test_an_upload_goes_on_at_any_offset(tmp_path: Path) -> None:
    files, half = BlobFiles(tmp_path, direct_io=True), len(DATA) // 2 + 3
    with files.writer(NAME, len(DATA), sender="node-ada") as writer:
        writer.write(DATA[:half])
    assert files.kept("node-ada") == {NAME: half}
    with files.writer(NAME, len(DATA), "node-ada", half) as writer:
        writer.write(DATA[half:])
        writer.commit()
    assert bytes(files.open_verified(NAME)) == DATA


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_refuses_the_first_block_gets_all_by_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    asked: list[int] = []

    def refused(descriptor: int, data: memoryview, offset: int) -> int:
        if isinstance(data.obj, direct_writes.mmap.mmap):
            asked.append(offset)
            raise OSError(reason, "larger blocks, or none")
        return written(descriptor, data, offset)

    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", refused)
    files = BlobFiles(tmp_path, direct_io=True)
    upload(files, (MIB,))
    assert len(asked) <= 1
    assert bytes(files.open_verified(NAME)) == DATA


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ExhaustedError, match="room for blob"):
        upload(BlobFiles(tmp_path, direct_io=True), (MIB,))
