"""Files that are either the old or the new version after a crash, never a mixture."""

import json
import os
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
