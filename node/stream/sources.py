"""Where a stream's mega-batches come from: a folder, or a Python iterator that a process turns into one."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from node.children import Child
from node.durable import write_json
from node.stream.feeder import TAKEN_FILE
from node.stream.trouble import Trouble
from node.stream.watching import Arrival, Watch
from swarm.data.user_code import is_reference
from swarm.domain.errors import NotFoundError, SwarmError
from swarm.domain.problems import Problem

_ITEM_SETTLE_S = 0.0
"""The feeder renames its files into place."""


class Source(Protocol):
    """What brings mega-batches."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def look(self, is_known: Callable[[str, str], bool]) -> list[Arrival]:
        """Return what can be taken now, in order."""

    def note_taken(self, arrival: Arrival) -> None:
        """Take note that one was taken."""

    def note_aside(self, arrival: Arrival) -> None:
        """Take note that one cannot be taken for now, and that others shall come nevertheless."""

    def refused(self) -> list[tuple[str, str]]:
        """Return (name, reason) of items that were no mega-batches, each once."""

    @property
    def trouble(self) -> Trouble | None:
        """Why it brings nothing for now."""

    @property
    def has_ended(self) -> bool:
        """Nothing more will come than what a `look` finds now."""

    @property
    def error(self) -> SwarmError | None:
        """Why it ended before its end."""


class FolderSource:
    """A folder that others write into."""

    has_ended = False
    error = None
    trouble = None

    def __init__(self, folder: Path, settle_s: float) -> None:
        self._watch = Watch(folder, time.monotonic, settle_s=settle_s)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def look(self, is_known: Callable[[str, str], bool]) -> list[Arrival]:
        return await asyncio.to_thread(self._watch.look, is_known)

    def note_taken(self, arrival: Arrival) -> None: ...

    def note_aside(self, arrival: Arrival) -> None: ...

    def refused(self) -> list[tuple[str, str]]:
        return []


class IteratorSource:
    """An iterator in a process of its own, whose items are files of the node's state.

    Of those that were taken, the newest are kept up to `keep_mb` megabytes: experts that are split later are
    trained on them.
    """

    def __init__(
        self, folder: Path, reference: str, import_paths: Sequence[str], keep_mb: float, log: Path
    ) -> None:
        self._folder, self._reference, self._import_paths = folder, reference, import_paths
        self._keep_bytes, self._log = keep_mb * 1e6, log
        self._watch = Watch(folder, time.monotonic, settle_s=_ITEM_SETTLE_S)
        self._child: Child | None = None
        self._listening: asyncio.Task[None] | None = None
        self._taken: set[Path] = set()
        """Those that the feeder need not wait for, with those put aside."""
        self._aside: set[Path] = set()
        self._told = 0
        self._refused: list[tuple[str, str]] = []
        self.error: SwarmError | None = None
        self.has_ended = False
        self.trouble: Trouble | None = None

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self._folder / TAKEN_FILE, 0)
        arguments = [str(self._folder), self._reference, *self._import_paths]
        self._child = await Child.start("node.stream.feeder", arguments, log=self._log)
        self._listening = asyncio.create_task(self._listen(self._child), name="stream-feeder")

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)

    async def look(self, is_known: Callable[[str, str], bool]) -> list[Arrival]:
        self._tell_taken()
        return await asyncio.to_thread(self._watch.look, is_known)

    def note_taken(self, arrival: Arrival) -> None:
        self._aside.discard(arrival.path)
        self._taken.add(arrival.path)
        self._tell_taken()
        kept = sorted(self._folder.glob("*.npz"))
        newest = kept.index(arrival.path) if arrival.path in kept else len(kept)
        old = [path for path in kept[: newest + 1] if path not in self._aside]
        sizes = [path.stat().st_size for path in old]
        while len(sizes) > 1 and sum(sizes) > self._keep_bytes:
            old.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def note_aside(self, arrival: Arrival) -> None:
        self._aside.add(arrival.path)
        self._taken.add(arrival.path)

    def _tell_taken(self) -> None:
        if self._told != len(self._taken):
            write_json(self._folder / TAKEN_FILE, len(self._taken))
            self._told = len(self._taken)

    def refused(self) -> list[tuple[str, str]]:
        found, self._refused = self._refused, []
        return found

    async def _listen(self, child: Child) -> None:
        async for said in child.lines():
            if "problem" in said:
                self.error = Problem(**said["problem"]).as_error()
            if "trouble" in said:
                reason, told = str(said["trouble"]), str(said["told"])
                self.trouble = Trouble(reason=reason, told=told) if reason else None
            if "skipped" in said:
                self._refused.append((f"{self._reference}, item {said['item']}", str(said["skipped"])))
        status = await child.wait()
        if status and self.error is None:
            self.error = SwarmError(
                f"stream {self._reference}",
                found=f"its process ended with status {status} ({child.last_words()})",
                expected="an iterator that ends",
                remedy=f"read {self._log}",
            )
        self.trouble = None
        self.has_ended = True


def opened(
    data: str,
    import_paths: Sequence[str],
    *,
    items: Path,
    keep_mb: float,
    log: Path,
    settle_s: float,
) -> Source:
    """Return the source that a stream's order names; NotFoundError where there is none of that name."""
    folder = Path(data)
    if folder.is_dir():
        return FolderSource(folder, settle_s)
    if is_reference(data):
        return IteratorSource(items, data, import_paths, keep_mb, log)
    raise NotFoundError(
        f"stream {data}",
        found="no such folder",
        expected="a folder in which mega-batches arrive, or package.module:stream",
        remedy="make the folder first",
    )
