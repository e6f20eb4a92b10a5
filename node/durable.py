"""Files that are either the old or the new version after a crash, never a mixture."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace path by data: write beside it, fsync, rename, fsync the folder. Keeps nothing half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link_durably(source: Path, target: Path) -> None:
    """Let target be the very file that source is, in one step; a copy where the disk has no links.

    source lies there durably and is never written to again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        try:
            os.link(source, beside)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        beside.chmod(0o600)
        beside.rename(target)
        # Renaming one name of a file onto another one does nothing, by POSIX.
        beside.unlink(missing_ok=True)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace path by value as JSON, durably."""
    write_durably(path, json.dumps(value, sort_keys=True, allow_nan=False).encode())


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_unfinished(folder: Path) -> None:
    """Remove what a killed writer left half-written in folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
