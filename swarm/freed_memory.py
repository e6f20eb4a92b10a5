"""Freed memory goes back to the machine while much of it passes through.

glibc keeps what messages of 1 MiB leave behind in its heaps: some 50 to 75 MiB, whatever a transfer's size.
Where the C library has no `malloc_trim` (musl, macOS) nothing is done.
"""

import ctypes
from collections.abc import Callable
from typing import Final

EVERY_BYTES: Final = 32 << 20


def _found() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_TRIM: Final = _found()


class FreedMemory:
    """Counts bytes that passed through, and gives back what they left each `EVERY_BYTES`."""

    def __init__(self) -> None:
        self._passed = 0

    def passed(self, size_bytes: int) -> None:
        """Note bytes that were freed, or are about to be; milliseconds where it is time to give back."""
        self._passed += size_bytes
        if self._passed >= EVERY_BYTES:
            self._passed = 0
            if _TRIM is not None:
                _TRIM(0)
