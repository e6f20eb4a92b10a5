"""A cache of blobs on their way through: empty after use, but for what a broken-off transfer goes on with."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swarm.modules.blobs import BlobFiles


@contextmanager
def passing_cache(folder: Path) -> Iterator[BlobFiles]:
    """Yield a cache in folder that commands may share; the last of them empties it if it ends well.

    After an error what came stays: the next try does not fetch it again.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        cache = BlobFiles(folder)
        yield cache
        with suppress(BlockingIOError):  # another command is at it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for blob in list(cache.digests()):
                cache.remove(blob)
