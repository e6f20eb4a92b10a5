"""One registry for each home, and for each folder of blobs: a locked file beside its identity, and in it.

Journal, claims and the collection's clock are written by one process alone; two would each cut off what the
other acknowledged. Over one folder of blobs each would collect what the other's swarm or home needs. The lock
ends with its process however that dies. It holds between containers of one machine that share a volume, and
between machines over NFS that locks.
"""

import asyncio
import errno
import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from swarm.domain.errors import ConflictError, NotReadyError

ENDING_S: Final = 10.0
"""So long a registry that was told to end, or was killed, may take until its successor gives up."""

_LOOK_AGAIN_S: Final = 0.05
_TAKES_NOTHING: Final = {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_TAKEN: Final = {errno.EWOULDBLOCK, errno.EACCES}
_CANNOT_LOCK: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
_log = structlog.get_logger(__name__)


class RegistrySeat:
    """The place of the one registry of a home; held while the context lasts."""

    def __init__(self, path: Path, ending_s: float = ENDING_S, *, of: str = "home") -> None:
        """`of`: what there is one registry for, in words."""
        self._path, self._ending_s, self._of = path, ending_s, of
        self._handle: int | None = None

    async def __aenter__(self) -> Self:
        """Take the seat, also from one that is just ending; ConflictError, naming it, where it stays taken.

        NotReadyError where the file cannot be opened. A disk that cannot lock, or takes nothing at all, is
        logged: the journal refuses a second writer there too, but later.
        """
        handle = self._opened()
        if handle is None:
            return self
        try:
            await self._locked(handle)
            with suppress(OSError):  # a disk that takes nothing: the lock holds all the same
                self._path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _opened(self) -> int | None:
        """Open the file for reading alone, so that its disk can be made read-only while it is held; None
        where a disk that takes nothing has no such file."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError as error:
            if error.errno not in _TAKES_NOTHING:
                raise self._cannot_open(error) from error
            if not self._path.exists():
                self._not_alone_for_sure(error)
                return None
        try:
            return os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise self._cannot_open(error) from error

    async def _locked(self, handle: int) -> None:
        """Lock it; where the disk locks only what is open for writing (NFS), the handle becomes one."""
        deadline = time.monotonic() + self._ending_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.EBADF and not _is_for_writing(handle):
                    with suppress(OSError):
                        writing = os.open(self._path, os.O_RDWR)
                        os.dup2(writing, handle, inheritable=False)
                        os.close(writing)
                        continue
                if error.errno in _CANNOT_LOCK:
                    self._not_alone_for_sure(error)
                    return
                if error.errno not in _TAKEN:
                    raise self._cannot_open(error) from error
            else:
                return
            if time.monotonic() > deadline:
                raise self._taken(handle)
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _not_alone_for_sure(self, error: OSError) -> None:
        reason = os.strerror(error.errno or 0)
        _log.warning("registry.not_alone_for_sure", lock=str(self._path), reason=reason)

    def _taken(self, handle: int) -> ConflictError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
        return ConflictError(
            f"registry in {self._path.parent}",
            found=f"one that runs already ({holder})",
            expected=f"one registry for each {self._of}",
            remedy=f"use that one, or stop it: swarm down; or give this one another {self._of}",
        )

    def _cannot_open(self, error: OSError) -> NotReadyError:
        return NotReadyError(
            f"lock {self._path}",
            found=error.strerror or str(error),
            expected="a file that this registry may write and lock",
            remedy="look who owns the folder, and whether its disk is mounted",
        )


def _is_for_writing(handle: int) -> bool:
    return fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
