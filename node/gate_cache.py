"""The arrays of gates in a node's cache: those of the newest few stay, older ones go.

Noted in `state/gate-arrays.json`, so that a restart forgets none. A job under way reads those of the gate
that it began with, so a few stay. What a manifest here names as well stays with it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from node.durable import write_durably
from swarm.config import NodeHome
from swarm.domain.errors import SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import read_statement

GATES_KEPT: Final = 4
_log = structlog.get_logger(__name__)


class GateCache:
    """Remembers which blobs of the cache are gates' arrays, and removes those of old gates."""

    def __init__(self, home: NodeHome, cache: BlobFiles) -> None:
        self._file, self._cache = home.state / "gate-arrays.json", cache
        self._manifests = (home.state / "manifests", home.cache / "manifests")
        self._noted: dict[int, set[Digest]] = _read(self._file)

    def note(self, gate: GateStatement, keep: Iterable[Digest] = ()) -> None:
        """Note that this gate's arrays are, or will be, in the cache, and remove those of gates older than
        the newest few. `keep`: blobs that stay whatever they are (the trunk's)."""
        blobs = {entry.blob for entry in gate.arrays}
        if self._noted.get(gate.version) == blobs:
            return
        noted = self._noted | {gate.version: blobs}
        newest = set(sorted(noted)[-GATES_KEPT:]) | {gate.version}
        stays = set(keep).union(*(noted[version] for version in newest))
        old = {blob for version in noted.keys() - newest for blob in noted[version]} - stays
        for blob in old - self._blobs_of_manifests() if old else ():
            self._cache.remove(blob)
        self._noted = {version: noted[version] for version in sorted(newest)}
        rows = {str(version): sorted(found) for version, found in self._noted.items()}
        write_durably(self._file, json.dumps(rows).encode())

    def _blobs_of_manifests(self) -> set[Digest]:
        found: set[Digest] = set()
        for file in (file for folder in self._manifests for file in folder.glob("*.json")):
            try:
                found |= set(read_statement(file.read_bytes(), Manifest).value.blobs())
            except SwarmError as error:
                _log.warning("manifest.unreadable", file=str(file), because=str(error))
        return found


def _read(file: Path) -> dict[int, set[Digest]]:
    try:
        return {int(version): set(map(Digest, row)) for version, row in json.loads(file.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        _log.warning("state.not_used", file=str(file), because="it is no list of gates' arrays")
        return {}
