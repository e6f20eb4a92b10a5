"""The folder beside an export in which it is made: locked for as long as that takes, and swept after that.

An export that was killed leaves its own, with all weights; the next one to the same place removes it.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

REPLACED: Final = ".replaced"
"""What ends the name under which an earlier export waits until a new one has its place."""


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside an export's, removed in the end."""
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    beside.mkdir()
    try:
        with _locked(beside):
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed exports left beside an export that is whole; what somebody is at stays."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}({re.escape(REPLACED)})?")
    for entry in folder.parent.iterdir():
        if not name.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        with suppress(OSError), _locked(entry.with_name(entry.name.removesuffix(REPLACED))):
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, if there is one; BlockingIOError where somebody else holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
