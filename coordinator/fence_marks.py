"""The newest fence that each node was given, on disk before the node hears of it.

A store that was lost, or went back, would count from an older one: a writer that was fenced off long ago
could then hold the newest fence again. `newest` is what the next one must be larger than.
"""

import asyncio
import json
from pathlib import Path

import structlog

from coordinator.envelope_files import sweep_unfinished
from swarm.domain.ids import NodeId
from swarm.trust.key_files import write_file

log = structlog.get_logger()


class FenceMarks:
    """One small file for each node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        self._newest = {NodeId(path.stem): _read(path) for path in folder.glob("*.json")}

    def newest(self, node: NodeId) -> int:
        """Return the newest fence that node was given, 0 if none is known."""
        return self._newest.get(node, 0)

    async def note(self, node: NodeId, fence: int) -> None:
        """Keep that node is given this fence; it is on disk when this returns."""
        if fence > self.newest(node):
            data = json.dumps({"fence": fence}).encode()
            await asyncio.to_thread(write_file, self._folder / f"{node}.json", data, 0o600)
            self._newest[node] = max(fence, self.newest(node))


def _read(path: Path) -> int:
    try:
        return int(json.loads(path.read_bytes())["fence"])
    except (ValueError, KeyError, TypeError) as error:
        log.error("fence.unreadable", file=path.name, reason=repr(error))
        return 0
