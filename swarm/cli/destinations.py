"""Where a command may write a file: checked before it does any work."""

import shlex
from pathlib import Path

from swarm.domain.errors import ConflictError, NotFoundError, UsageError


def check_destination(file: Path, subject: str) -> None:
    """Raise NotFoundError where the file's folder is missing, UsageError where the path is a folder."""
    if file.is_dir():
        raise UsageError(
            f"{subject} {file}", found="a folder", expected="a file", remedy=f"name a file in it: {file}/NAME"
        )
    if not file.parent.is_dir():
        raise NotFoundError(
            f"{subject} {file}",
            found=f"no folder {file.parent}",
            expected="a file in a folder that exists",
            remedy=f"mkdir -p {shlex.quote(str(file.parent))}",
        )


def check_new(file: Path, subject: str) -> None:
    """Raise ConflictError where a file is at this path already."""
    if file.exists():
        raise ConflictError(
            f"{subject} {file}",
            found="a file already",
            expected="a path where nothing is yet",
            remedy="choose another, or replace it: --overwrite",
        )
