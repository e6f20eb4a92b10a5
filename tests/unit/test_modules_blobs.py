"""Blob files: whole or absent, whatever happens; damaged bytes are never handed out."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles

DATA = bytes(range(256)) * 40
NAME = digest_of(DATA)

_WRITE_AND_WAIT = """
import sys
from pathlib import Path
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles
data = bytes(range(256)) * 40
with BlobFiles(Path(sys.argv[1])).writer(Digest(sys.argv[2]), len(data)) as writer:
    writer.write(data)
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFiles:
    return BlobFiles(tmp_path / "blobs")


def incoming(blobs: BlobFiles) -> list[Path]:
    return list((blobs.folder / "incoming").iterdir())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_was_put_is_there_under_its_digest(blobs: BlobFiles) -> None:
    assert blobs.put(DATA) == NAME
    assert blobs.has(NAME)
    assert bytes(blobs.open_verified(NAME)) == DATA
    assert blobs.path(NAME) == blobs.folder / NAME[:2] / NAME
    assert blobs.size(NAME) == len(DATA)
    assert blobs.missing([NAME, digest_of(b"x"), digest_of(b"x")]) == [digest_of(b"x")]
    assert blobs.stats() == (1, len(DATA))
    assert list(blobs.digests()) == [NAME]
    blobs.remove(NAME)
    blobs.remove(NAME)
    assert not blobs.has(NAME)


def test_the_empty_blob_is_a_blob(blobs: BlobFiles) -> None:
    assert bytes(blobs.open_verified(blobs.put(b""))) == b""


@settings(max_examples=25, deadline=None)
@given(chunks=st.lists(st.binary(max_size=300), max_size=6))
def test_a_blob_in_chunks_is_the_blob_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    data = b"".join(chunks)
    blobs = BlobFiles(tmp_path_factory.mktemp("blobs"))
    with blobs.writer(digest_of(data), len(data)) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()
    assert bytes(blobs.open_verified(digest_of(data))) == data


@pytest.mark.parametrize("position", [0, 5000, len(DATA) - 1])
def test_one_flipped_byte_is_refused_by_name_and_healed_by_the_next_copy(
    blobs: BlobFiles, position: int
) -> None:
    blobs.put(DATA)
    assert blobs.open_verified(NAME)
    flip(blobs.path(NAME), position)
    for _ in range(2):
        with pytest.raises(VerificationError, match=NAME[:12]):
            blobs.open_verified(NAME)
    assert not blobs.has(NAME)
    assert blobs.missing([NAME]) == [NAME]
    blobs.put(DATA)
    assert blobs.has(NAME)
    assert bytes(blobs.open_verified(NAME)) == DATA


def test_a_truncated_file_is_refused(blobs: BlobFiles) -> None:
    blobs.put(DATA)
    os.truncate(blobs.path(NAME), 100)
    with pytest.raises(VerificationError, match=NAME[:12]):
        blobs.open_verified(NAME)


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x"], ids=["short", "long", "other"])
def test_bytes_other_than_promised_are_refused_and_leave_nothing(blobs: BlobFiles, sent: bytes) -> None:
    with pytest.raises(VerificationError, match=NAME[:12]), blobs.writer(NAME, len(DATA)) as writer:
        writer.write(sent)
        writer.commit()
    assert not blobs.has(NAME)
    assert incoming(blobs) == []


def test_a_writer_without_commit_leaves_nothing(blobs: BlobFiles) -> None:
    with blobs.writer(NAME, len(DATA)) as writer:
        writer.write(DATA)
    assert not blobs.has(NAME)
    assert incoming(blobs) == []


def test_a_killed_writer_leaves_garbage_that_the_next_start_sweeps_and_a_living_one_goes_on(
    tmp_path: Path,
) -> None:
    blobs = BlobFiles(tmp_path)
    command = [sys.executable, "-c", _WRITE_AND_WAIT, str(tmp_path), NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        BlobFiles(tmp_path)
        assert len(incoming(blobs)) == 1, "a file that a living process writes is no garbage"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not blobs.has(NAME)
    assert len(incoming(blobs)) == 1
    BlobFiles(tmp_path)
    assert incoming(blobs) == []
    assert blobs.stats() == (0, 0)


def test_a_view_outlives_removal(blobs: BlobFiles) -> None:
    view = blobs.open_verified(blobs.put(DATA))
    blobs.remove(NAME)
    assert bytes(view) == DATA
    with pytest.raises(NotFoundError, match=NAME[:12]):
        blobs.open_verified(NAME)
    with pytest.raises(TypeError):
        view[0] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_blob_that_many_read_at_once_is_open_once(blobs: BlobFiles) -> None:
    blobs.put(DATA)
    before = len(os.listdir("/proc/self/fd"))
    views = [blobs.open_verified(NAME) for _ in range(100)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    views[0].release()
    assert all(bytes(view) == DATA for view in views[1:])
    del views
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_only_digests_name_files(blobs: BlobFiles, name: str) -> None:
    with pytest.raises(InvalidInputError, match="digest"):
        blobs.has(Digest(name))


def test_what_is_no_blob_in_its_own_folder_is_not_listed(blobs: BlobFiles) -> None:
    blobs.put(DATA)
    other = "00" if NAME[:2] != "00" else "01"
    for name in ("lost+found", other):
        (blobs.folder / name).mkdir()
    folder = blobs.folder / NAME[:2]
    (folder / ".nfs0000001").write_bytes(b"held open by another machine")
    (folder / f"{NAME[:2]}{'e' * 62}").mkdir()
    (blobs.folder / other / NAME).write_bytes(DATA)
    (blobs.folder / "lost+found" / digest_of(b"x")).write_bytes(b"x")
    (blobs.folder / "lost+found").chmod(0)
    (blobs.folder / "note.txt").write_text("somebody's own")
    assert list(blobs.digests()) == [NAME]
    assert blobs.stats() == (1, len(DATA))


def test_a_full_disk_is_a_clear_error_and_tears_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the kernel refuses the same write."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from swarm.domain.errors import ExhaustedError\n"
        "from swarm.digests import digest_of\n"
        "from swarm.modules import BlobFiles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "blobs = BlobFiles(Path(sys.argv[1]))\n"
        "blobs.put(b'small')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    blobs.put(bytes(100_000))\n"
        "except ExhaustedError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "free some space" in done.stdout
    blobs = BlobFiles(tmp_path)
    assert blobs.stats() == (1, 5)
    assert incoming(blobs) == []


def test_a_folder_that_went_away_is_named_and_not_made_again(blobs: BlobFiles) -> None:
    blobs.put(DATA)
    shutil.rmtree(blobs.folder)
    blobs.folder.mkdir()  # as the place of a disk that was mounted there
    for call in (blobs.stats, blobs.free_bytes, blobs.sweep, lambda: blobs.put(DATA)):
        with pytest.raises(NotReadyError, match="mount its disk again"):
            call()  # type: ignore[operator]
    assert blobs.missing([NAME]) == [NAME] and not list(blobs.folder.iterdir())
    assert BlobFiles(blobs.folder).put(DATA) == NAME
