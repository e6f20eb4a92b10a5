"""Files that hold keys: made 0600 and atomically, refused where others may read them."""

import os
import secrets
from pathlib import Path

from swarm.domain.errors import NotFoundError, UsageError


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write data durably and atomically: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_key(path: Path, data: bytes) -> None:
    """Write a secret: mode 0600."""
    write_file(path, data, 0o600)


def read_file(path: Path) -> bytes:
    """Return a file's bytes; NotFoundError or UsageError (no permission) where that cannot be."""
    return _read(path)[0]


def read_key(path: Path) -> bytes:
    """Return a secret's bytes; also UsageError where group or others may read or write the file."""
    data, mode = _read(path)
    if mode & 0o077:
        raise UsageError(
            f"key file {path}",
            found=f"mode {mode:04o}, readable by others",
            expected="mode 0600",
            remedy=f"run: chmod 600 {path}",
        )
    return data


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mode & 0o777
    except FileNotFoundError as error:
        raise NotFoundError(
            str(path),
            found="no such file",
            expected="a complete folder",
            remedy="restore it from a backup (swarm restore), or join again under another name",
        ) from error
    except PermissionError as error:
        raise UsageError(
            str(path),
            found="no permission to read it",
            remedy=f"run the command as the owner of {path.parent}",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
