"""Writes that go past the page cache: large files that nobody here reads soon.

What goes through the cache is copied into pages that the kernel has to find first. In a virtual machine that
gives unused memory back the host has to find them, too, which keeps the
processors busy (`benchmarks.serving.hops`). Past the cache, a disk takes whole blocks from memory that stays.
"""

import errno
import mmap
import os
from pathlib import Path
from typing import Final

ALIGNED: Final = 4096
"""Offset, length and memory of a write: what every common disk and file system takes."""
DIRECT_FROM_BYTES: Final = 32 << 20
"""Smaller files stay in the cache: whoever reads them soon finds them there."""
_BUFFER_BYTES: Final = 1 << 20
_REFUSED: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_O_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class DirectWrites:
    """A second way into a file, past the cache, for as long as the file system has one. For one thread at a
    time."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        if _O_DIRECT:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | _O_DIRECT)
            except OSError:
                return
            self._buffer = mmap.mmap(-1, _BUFFER_BYTES)

    def write_at(self, offset: int, data: memoryview) -> int:
        """Write as many whole blocks from the beginning of data as go; return their bytes, 0 where none do.

        OSError where the disk is full.
        """
        written = 0
        while self._descriptor >= 0 and not (offset + written) % ALIGNED:
            length = min(len(data) - written, _BUFFER_BYTES) // ALIGNED * ALIGNED
            if not length:
                break
            self._buffer[:length] = data[written : written + length]
            try:
                with memoryview(self._buffer) as buffer, buffer[:length] as piece:
                    written += os.pwrite(self._descriptor, piece, offset + written)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self.close()  # larger blocks, or none after all
        return written

    def close(self) -> None:
        """Write nothing any more; safe to call again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._buffer.close()
