"""What the coordinator is about to make count in the store, on disk before the store is asked.

After a crash, or a lost answer, the store may have a version that the coordinator's folder has not. It is
taken over from there only if it is noted here: nodes that try gates see signed ones that are never meant to
count, and who can write the store must not make one of those the next.
"""

import asyncio
import json
from pathlib import Path

import structlog

from swarm.digests import digest_of
from swarm.trust.key_files import write_file

log = structlog.get_logger()


class Intended:
    """The digests of what was meant as one version, the newest; a file holds them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version, self._digests = 0, frozenset[str]()
        try:
            kept = json.loads(path.read_bytes())
            self._version, self._digests = int(kept["version"]), frozenset(map(str, kept["digests"]))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            log.error("intended.unreadable", file=path.name, reason=repr(error))

    async def note(self, version: int, envelope: bytes) -> None:
        """Keep that this shall be a version; it is on disk when this returns."""
        digests = {*(self._digests if version == self._version else ()), digest_of(envelope)}
        data = json.dumps({"version": version, "digests": sorted(digests)}).encode()
        await asyncio.to_thread(write_file, self._path, data, 0o600)
        self._version, self._digests = version, frozenset(digests)

    def has(self, version: int, envelope: bytes) -> bool:
        """Say whether this very envelope was meant as that version."""
        return version == self._version and digest_of(envelope) in self._digests
