"""How this process's heap treats what transfers leave behind: messages of 1 MiB, freed as fast as they come.

By default glibc maps such chunks anew or gives each thread a heap of its own: the kernel clears every page
again and again, or 50 to 75 MiB stay. With few heaps, of which 32 MiB stay, neither is so; `make
bench-registry` measures it.
"""

import ctypes
from typing import Final

KEPT_BYTES: Final = 32 << 20
"""What the heap keeps of freed memory unless a process wants more."""

MAPPED_BYTES: Final = 32 << 20
"""From which size on a chunk is mapped by itself: the most that glibc takes."""

HEAPS: Final = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def suit_transfers(kept_bytes: int = KEPT_BYTES) -> None:
    """Let the heap keep what is freed, up to so much, in few places. For a process of our own that moves
    blobs, before its first thread; nothing happens where the C library has no `mallopt` (musl, macOS)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    mallopt(_M_ARENA_MAX, HEAPS)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, kept_bytes)
