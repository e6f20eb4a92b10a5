"""The node's last contributions, whole: one that carries out a proposal changes the last one and no more."""

import json
from collections.abc import Collection
from pathlib import Path

from node.durable import link_durably, sync_folder, write_durably, write_json
from swarm.domain.contributions import Contribution
from swarm.domain.ids import Digest
from swarm.trust.statements import Statement, read_statement

_NEWEST = 4
_ACTIVE = "active.json"


class KeptContributions:
    """`<digest>.json` the signed statement, `<digest>.bin` its arrays: the newest ones, the one that the gate
    has, and the one that it had before, to which it goes back where a split does not pay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, envelope: bytes, arrays: Path) -> None:
        """Keep a contribution that is about to go out; `arrays` is whole and never written to again."""
        digest = read_statement(envelope, Contribution).digest
        link_durably(arrays, self._folder / f"{digest}.bin")
        write_durably(self._folder / f"{digest}.json", envelope)
        self._forget_old_ones()

    def note_active(self, envelope: bytes) -> None:
        """Keep that the coordinator took this contribution up."""
        self._note(read_statement(envelope, Contribution).digest)

    def note_gate(self, contributions: Collection[Digest]) -> None:
        """Keep which contribution of this node a gate has, if it has one."""
        for digest in contributions:
            if (self._folder / f"{digest}.json").exists():
                self._note(digest)

    def find(self, digest: str) -> tuple[Statement[Contribution], Path] | None:
        """Return a contribution and the file of its arrays, None where it is not kept any more."""
        statement, arrays = self._folder / f"{digest}.json", self._folder / f"{digest}.bin"
        if not digest or not statement.exists() or not arrays.exists():
            return None
        return read_statement(statement.read_bytes(), Contribution), arrays

    def _note(self, digest: Digest) -> None:
        known = self._active()
        if (self._folder / f"{digest}.json").exists() and known.get("digest") != digest:
            write_json(self._folder / _ACTIVE, {"digest": digest, "before": known.get("digest", "")})

    def _active(self) -> dict[str, str]:
        path = self._folder / _ACTIVE
        found: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _forget_old_ones(self) -> None:
        kept = set(self._active().values())
        statements = [path for path in self._folder.glob("*.json") if path.name != _ACTIVE]
        epochs = {
            path.stem: read_statement(path.read_bytes(), Contribution).value.epoch for path in statements
        }
        kept |= set(sorted(epochs, key=lambda digest: epochs[digest])[-_NEWEST:])
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".bin") and path.name != _ACTIVE and path.stem not in kept:
                path.unlink(missing_ok=True)
        sync_folder(self._folder)
