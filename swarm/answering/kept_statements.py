"""What a router knows of its swarm, as files: it goes on with them when it starts while nobody answers."""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import structlog

from swarm.trust.key_files import write_file

_log = structlog.get_logger(__name__)
_KINDS = ("record", "manifest")


class KeptStatements:
    """A folder with envelopes (`gate.json`, `record/<id>.json`, `manifest/<digest>.json`) and lists.

    Nothing that is read back is believed: whoever reads envelopes verifies them again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True, mode=0o700)

    def envelope(self, name: str) -> bytes:
        """Return an envelope by name (`gate`, `manifest/<digest>`); empty where none is kept."""
        try:
            return (self._folder / f"{name}.json").read_bytes()
        except FileNotFoundError:
            return b""

    def keep(self, name: str, envelope: bytes) -> None:
        """Keep an envelope under its name."""
        if self.envelope(name) != envelope:
            write_file(self._folder / f"{name}.json", envelope, 0o600)

    def all_of(self, kind: str) -> Iterator[bytes]:
        """Yield all envelopes of a kind (`record`, `manifest`)."""
        for file in sorted((self._folder / kind).glob("[!.]*.json")):
            yield file.read_bytes()

    def drop_others(self, kind: str, kept: Collection[str]) -> None:
        """Remove the envelopes of a kind that are not among these names."""
        for file in (self._folder / kind).glob("[!.]*.json"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)

    def table(self, name: str) -> dict[str, str]:
        """Return a table of texts; empty where none is kept, or what is there is none."""
        found = self.envelope(name)
        try:
            return {str(key): str(value) for key, value in json.loads(found or b"{}").items()}
        except (ValueError, AttributeError, RecursionError):
            _log.warning("state.not_used", file=name, because="it is no table")
            return {}

    def keep_table(self, name: str, rows: Iterable[tuple[str, str]]) -> None:
        """Keep a table of texts under its name."""
        self.keep(name, json.dumps(dict(sorted(rows))).encode())
