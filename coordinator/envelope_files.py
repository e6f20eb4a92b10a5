"""Signed statements as files, one folder per kind: what the coordinator starts from without Redis."""

import re
from pathlib import Path

from swarm.domain.errors import InvalidInputError
from swarm.trust.key_files import sync_folder, write_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class EnvelopeFiles:
    """`<name>.json` holds one signed envelope. Written durably and atomically; checked by whoever reads.

    Raises InvalidInputError for a name that is none: names may come from a store that somebody wrote into.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)

    def put(self, name: str | int, envelope: bytes) -> None:
        """Keep envelope under name, in place of what was there."""
        path = self._path(name)
        if not path.exists() or path.read_bytes() != envelope:
            write_file(path, envelope, 0o600)

    def get(self, name: str | int) -> bytes | None:
        """Return the envelope of this name, None if there is none."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, *names: str | int) -> None:
        """Forget these envelopes; again is harmless."""
        for name in names:
            self._path(name).unlink(missing_ok=True)
        sync_folder(self._folder)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def newest(self) -> int:
        """Return the largest number among names that are numbers, 0 if there is none."""
        return max((int(name) for name in self.names() if name.isdecimal()), default=0)

    def _path(self, name: str | int) -> Path:
        if not _NAME.fullmatch(str(name)):
            raise InvalidInputError("name of a statement", found=str(name)[:60], expected="a plain name")
        return self._folder / f"{name}.json"


def sweep_unfinished(folder: Path) -> None:
    """Remove what writes that a crash cut short left in folder."""
    for beside in folder.glob(".*"):
        if beside.is_file():
            beside.unlink(missing_ok=True)
