"""What left this machine: append-only JSON lines, written before the bytes go.

A line that is here may not have arrived; nothing arrives that is not here. Answers to routed queries are
not listed one by one: they tell about the asker's inputs, not about this node's data.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarm.domain.inference import Listing


class OutboundLog:
    """The node's record of everything that it handed to somebody else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, listings: Sequence[Listing]) -> None:
        """Append listings, one line each, and bring them to disk."""
        if not listings:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = b"".join(json.dumps(asdict(item), sort_keys=True).encode() + b"\n" for item in listings)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "r+b") as file:
            if not _ends_a_line(file):
                lines = b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def read(self, limit: int = 0) -> list[Listing]:
        """Return the newest `limit` lines (0: all), oldest first. A line torn by a power cut is left out."""
        if not self._path.exists():
            return []
        found: list[Listing] = []
        for line in self._path.read_bytes().splitlines():
            try:
                found.append(Listing(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found[-limit:] if limit else found


def _ends_a_line(file: Any) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
