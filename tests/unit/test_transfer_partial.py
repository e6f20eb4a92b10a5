"""A blob as far as it came: whatever happened to the file, only whole and right bytes get its name."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import ConflictError, VerificationError
from swarm.modules import BlobFiles
from swarm.modules.outlines import BLOCK_BYTES, block_bytes, blocks_in, outline_of
from swarm.modules.partial_blobs import DOWNLOAD_KEPT_S, UPLOAD_KEPT_S

DATA = random.Random(5).randbytes(3 * BLOCK_BYTES + 1234)
NAME, OUTLINE = digest_of(DATA), outline_of(memoryview(DATA))
BLOCKS = range(blocks_in(len(DATA)))

_WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles
data = Path(sys.argv[2]).read_bytes()
with BlobFiles(Path(sys.argv[1])).partial(Digest(sys.argv[3]), len(data)) as partial:
    partial.write_at(0, data[: int(sys.argv[4])])
    os.kill(os.getpid(), 9)
"""


def parts(files: BlobFiles) -> list[Path]:
    return sorted((files.folder / "incoming").iterdir())


def block(number: int) -> bytes:
    start = number * BLOCK_BYTES
    return DATA[start : start + block_bytes(number, len(DATA))]


def finish(files: BlobFiles) -> set[int]:
    """Do what a download does: keep what is right, write the rest, commit. Returns what was right."""
    with files.partial(NAME, len(DATA)) as partial:
        whole = partial.whole_blocks(OUTLINE)
        for number in sorted(set(BLOCKS) - whole):
            partial.write_at(number * BLOCK_BYTES, block(number))
        partial.commit()
    assert bytes(files.open_verified(NAME)) == DATA
    assert parts(files) == []
    return whole


@settings(max_examples=8, deadline=None)
@given(
    order=st.permutations(BLOCKS),
    written=st.integers(0, len(BLOCKS)),
    torn_bytes=st.integers(0, BLOCK_BYTES - 1),
    flips=st.lists(st.integers(0, len(DATA) - 1), max_size=3),
    cut=st.none() | st.integers(0, len(DATA)),
)
def test_blocks_in_any_order_a_crash_at_any_point_and_a_damaged_file_end_in_the_blob(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    written: int,
    torn_bytes: int,
    flips: list[int],
    cut: int | None,
) -> None:
    files = BlobFiles(tmp_path_factory.mktemp("blobs"))
    with files.partial(NAME, len(DATA)) as partial:
        for number in order[:written]:
            partial.write_at(number * BLOCK_BYTES, block(number))
        if written < len(order):
            torn = block(order[written])
            partial.write_at(order[written] * BLOCK_BYTES, torn[: min(torn_bytes, len(torn) - 1)])
    damaged = set()
    for path in parts(files):
        kept = bytearray(path.read_bytes())
        for position in flips:
            if position < len(kept):
                kept[position] ^= 1
                damaged ^= {position}
        path.write_bytes(kept if cut is None else kept[:cut])
    held = len(DATA) if cut is None else cut
    expected = {
        number
        for number in order[:written]
        if number not in {position // BLOCK_BYTES for position in damaged}
        and number * BLOCK_BYTES + block_bytes(number, len(DATA)) <= held
    }
    assert finish(BlobFiles(files.folder)) == expected


@pytest.mark.parametrize("written", [0, 1, BLOCK_BYTES, len(DATA) - 1, len(DATA)])
def test_what_a_killed_process_wrote_is_gone_on_with(tmp_path: Path, written: int) -> None:
    source = tmp_path / "data"
    source.write_bytes(DATA)
    command = [sys.executable, "-c", _WRITE_AND_DIE, str(tmp_path / "blobs"), str(source), NAME, str(written)]
    assert subprocess.run(command, check=False).returncode == -9
    files = BlobFiles(tmp_path / "blobs")
    assert not files.has(NAME)
    held = sum(written >= n * BLOCK_BYTES + block_bytes(n, len(DATA)) for n in BLOCKS)
    assert finish(files) == set(range(held))


def test_two_writers_of_one_blob_do_not_disturb_each_other(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    with files.partial(NAME, len(DATA)) as first, BlobFiles(tmp_path).partial(NAME, len(DATA)) as second:
        second.write_at(0, bytes(len(DATA)))
        first.write_at(0, DATA)
        with pytest.raises(VerificationError, match=NAME[:12]):
            second.commit()
        first.commit()
    assert bytes(files.open_verified(NAME)) == DATA
    assert parts(files) == []


def test_bytes_that_were_refused_are_not_kept(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    with files.partial(NAME, len(DATA)) as partial, pytest.raises(VerificationError, match=NAME[:12]):
        partial.write_at(0, DATA[:-1] + b"?")
        partial.commit()
    assert parts(files) == [] and not files.has(NAME)
    with files.partial(NAME, len(DATA)) as partial, pytest.raises(VerificationError, match="more than"):
        partial.write_at(len(DATA), b"x")
    assert parts(files) == []


def test_an_upload_goes_on_where_it_stopped_for_its_sender_alone(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    with files.writer(NAME, len(DATA), "node-ada") as writer:
        writer.write(DATA[:5_000_000])
    assert files.kept("node-ada") == {NAME: 5_000_000}
    assert files.kept("node-bob") == files.kept("ada") == {}
    with pytest.raises(ConflictError, match="0 bytes kept"):
        files.writer(NAME, len(DATA), "node-bob", 5_000_000).__enter__()
    with files.writer(NAME, len(DATA), "node-ada", 4_000_000) as writer:
        writer.write(DATA[4_000_000:])
        writer.commit()
    assert bytes(files.open_verified(NAME)) == DATA
    assert parts(files) == [] and files.kept("node-ada") == {}


def test_a_damaged_beginning_of_an_upload_is_found_at_its_end(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    with files.writer(NAME, len(DATA), "node-ada") as writer:
        writer.write(DATA[:5_000_000])
    (kept,) = parts(files)
    kept.write_bytes(b"?" + DATA[1:5_000_000])
    with files.writer(NAME, len(DATA), "node-ada", 5_000_000) as writer:
        writer.write(DATA[5_000_000:])
        with pytest.raises(VerificationError, match=NAME[:12]):
            writer.commit()
    assert files.kept("node-ada") == {} and not files.has(NAME)


def test_a_small_upload_is_not_kept(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    small = b"x" * 1000
    with files.writer(digest_of(small), len(small), "node-ada") as writer:
        writer.write(small[:10])
    assert parts(files) == []


def test_what_nobody_goes_on_with_is_swept_uploads_after_a_day_downloads_after_a_week(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    with files.partial(NAME, len(DATA)) as partial:
        partial.write_at(0, b"download")
    with files.writer(NAME, len(DATA), "node-ada") as writer:
        writer.write(b"upload")
    download, upload = sorted(parts(files), key=lambda path: len(path.name))

    def age(seconds: float) -> None:
        for path in parts(files):
            os.utime(path, (time.time() - seconds,) * 2)

    age(UPLOAD_KEPT_S - 60)
    files.sweep()
    assert len(parts(files)) == 2
    age(UPLOAD_KEPT_S + 60)
    with files.partial(NAME, len(DATA), "node-ada"):
        files.sweep()
        assert upload.exists(), "a file that a living process writes is no garbage"
    files.sweep()
    assert parts(files) == [download]
    age(DOWNLOAD_KEPT_S + 60)
    BlobFiles(tmp_path)
    assert parts(files) == []
