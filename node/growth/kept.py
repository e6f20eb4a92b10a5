"""The node's last contributions, whole: one that carries out a proposal changes the last one and no more."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from node.durable import link_durably, sync_folder, write_durably, write_json
from node.growth.order_files import orders_in
from swarm.domain.contributions import Contribution
from swarm.domain.ids import Digest
from swarm.trust.statements import Statement, read_statement

_NEWEST = 4
_ACTIVE = "active.json"


class KeptContributions:
    """`<digest>.json` the signed statement, `<digest>.bin` its arrays, of these: the newest ones, the one
    that the gate has, the one that it had before, and those that orders under way are about.

    `active.json` says what the gate has: `digest` of this node, `before` that another, `gate` of all nodes.
    """

    def __init__(self, folder: Path, orders: Path | None = None) -> None:
        """`orders` is the folder of orders under way: each `*/order.json` there names one (`before`)."""
        self._folder, self._orders = folder, orders

    def put(self, envelope: bytes, arrays: Path) -> None:
        """Keep a contribution that is about to go out, or is needed again; `arrays` is whole and never
        written to again."""
        digest = read_statement(envelope, Contribution).digest
        link_durably(arrays, self._folder / f"{digest}.bin")
        write_durably(self._folder / f"{digest}.json", envelope)
        self._forget_old_ones(digest)

    def note_active(self, envelope: bytes) -> None:
        """Keep that the coordinator took this contribution up."""
        digest = read_statement(envelope, Contribution).digest
        if self._has(digest):
            self._note(digest, self._active().get("gate", ()))

    def note_gate(self, contributions: Collection[Digest]) -> None:
        """Keep which contributions the present gate has; of this node it has one at most."""
        own = next((digest for digest in contributions if self._has(digest)), "")
        self._note(own or self._active().get("digest", ""), contributions)

    def find(self, digest: str) -> tuple[Statement[Contribution], Path] | None:
        """Return a contribution and the file of its arrays, None where it is not kept any more."""
        statement, arrays = self._folder / f"{digest}.json", self._folder / f"{digest}.bin"
        if not digest or not statement.exists() or not arrays.exists():
            return None
        return read_statement(statement.read_bytes(), Contribution), arrays

    def _has(self, digest: Digest) -> bool:
        return (self._folder / f"{digest}.json").exists()

    def _note(self, digest: str, gate: Collection[str]) -> None:
        known = self._active()
        is_same = digest == known.get("digest", "")
        before = known.get("before" if is_same else "digest", "")
        noted = {"digest": digest, "before": before, "gate": list(gate)}
        if noted != known:
            write_json(self._folder / _ACTIVE, noted)

    def _active(self) -> dict[str, Any]:
        path = self._folder / _ACTIVE
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _forget_old_ones(self, needed: Digest) -> None:
        active = self._active()
        kept = {needed, active.get("digest"), active.get("before"), *active.get("gate", ())}
        if self._orders is not None:
            kept |= {order.before for order in orders_in(self._orders)}
        statements = [path for path in self._folder.glob("*.json") if path.name != _ACTIVE]
        epochs = {
            path.stem: read_statement(path.read_bytes(), Contribution).value.epoch for path in statements
        }
        kept |= set(sorted(epochs, key=lambda digest: epochs[digest])[-_NEWEST:])
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".bin") and path.name != _ACTIVE and path.stem not in kept:
                path.unlink(missing_ok=True)
        sync_folder(self._folder)
