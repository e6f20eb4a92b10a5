"""Files that are whole under their name or not there: written aside, synced, renamed, the folder synced."""

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from swarm.domain.errors import ExhaustedError
from swarm.fault_points import reached

_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

_CLOCK_STEP_NS: Final = 50_000_000
"""Longer than a file's times may stand still: a later change of the file shows in them."""

_COARSEST_CLOCK_NS: Final = 2_000_000_000
"""No file system's times are coarser."""

FileState = tuple[int, int, int]
"""What changes with a file's bytes."""


def state_of(stat: os.stat_result) -> FileState:
    """Return what a file's bytes are known by."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def settled_state(file: BinaryIO) -> FileState | None:
    """Return the state by which the bytes of a file that was just written are known; None where a change that
    comes now might not show in it. The file's time is put back, so that whatever comes now shows."""
    stat = os.fstat(file.fileno())
    try:
        os.utime(file.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns - _COARSEST_CLOCK_NS))
    except OSError:  # a file system that keeps times to itself
        return state_of(stat) if time.time_ns() - stat.st_mtime_ns > _CLOCK_STEP_NS else None
    return state_of(os.fstat(file.fileno()))


def put_in_place(file: BinaryIO, temporary: Path, target: Path) -> None:
    """Make a file's bytes durable and give them the name target, all at once."""
    file.flush()
    reached("registry.blob.before_sync")
    os.fsync(file.fileno())
    if not target.parent.is_dir():
        target.parent.mkdir(exist_ok=True)
        sync_folder(target.parent.parent)
    reached("registry.blob.before_rename")
    temporary.rename(target)
    reached("registry.blob.after_rename")
    sync_folder(target.parent)


def begin_writing_back(file: BinaryIO, offset: int, size_bytes: int) -> None:
    """Let the disk begin with bytes that were just written, so that the sync at the end has little left to
    wait for. Promises nothing; does nothing for few bytes, or where the system cannot (others than Linux)."""
    if _SYNC_FILE_RANGE is not None and size_bytes >= _WORTH_A_WRITE:
        _SYNC_FILE_RANGE(file.fileno(), offset, size_bytes, _START_ONLY)


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast(Callable[[int, int, int, int], int], found)


_SYNC_FILE_RANGE: Final = _sync_file_range()
_START_ONLY: Final = 2
"""SYNC_FILE_RANGE_WRITE: start, and wait for nothing."""

_WORTH_A_WRITE: Final = 256 << 10


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_named(target: Path) -> Iterator[None]:
    """Raise ExhaustedError, naming blob and disk, where the disk has no room for target."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise ExhaustedError(
            f"disk of {target.parent.parent}",
            found=os.strerror(error.errno or errno.ENOSPC),
            expected=f"room for blob {target.name[:12]}",
            remedy="free some space and try again; nothing was stored",
        ) from error
