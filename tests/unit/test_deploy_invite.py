"""deploy/invite.sh: a line for each node, a new one only where the old one can let nobody in any more."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripts import Stubs, stubs

_SWARM = """
case "$1 $2" in
  "token list") cat "$STATE/tokens" ;;
  "status --json") cat "$STATE/status" ;;
  "token create")
    made=$(($(cat "$STATE/made") + 1)); echo "$made" > "$STATE/made"
    echo "swarm join swm1.new$made.pin.secret@coordinator:7070" ;;
  *) exit 2 ;;
esac
"""
OLD = "swm1.old.pin.secret@coordinator:7070\n"


class Invitations:
    """Invitation folders of ada and ben, and what the coordinator says of tokens and nodes."""

    def __init__(self, folder: Path, programs: Stubs) -> None:
        self.programs, self.folder, self._state = programs, folder / "invitations", folder / "state"
        self._state.mkdir()
        for name in ("ada", "ben"):
            (self.folder / name).mkdir(parents=True)
        (self._state / "made").write_text("0")
        programs.add("swarm", _SWARM)
        self.tokens: list[dict[str, Any]] = []
        self.nodes: list[str] = []

    def run(self) -> int:
        (self._state / "tokens").write_text(json.dumps({"tokens": self.tokens}))
        nodes = [{"id": name} for name in self.nodes]
        (self._state / "status").write_text(json.dumps({"swarm": {"nodes": nodes}}))
        done = self.programs.run(
            "invite.sh", "ada", "ben", SWARM_INVITATIONS=str(self.folder), STATE=str(self._state)
        )
        return done.returncode

    def line(self, name: str) -> str:
        return (self.folder / name / "line").read_text()

    def put(self, name: str) -> None:
        (self.folder / name / "line").write_text(OLD)

    def listed(self, uses: int = 1, lasts_s: float = 3600) -> None:
        self.tokens = [{"id": "old", "role": "node", "uses_left": uses, "expires_at": time.time() + lasts_s}]


@pytest.fixture
def invitations(tmp_path: Path) -> Iterator[Invitations]:
    with stubs(tmp_path / "bin") as programs:
        yield Invitations(tmp_path, programs)


def test_each_node_has_a_line_of_its_own(invitations: Invitations) -> None:
    assert invitations.run() == 0
    assert invitations.line("ada") == "swm1.new1.pin.secret@coordinator:7070\n"
    assert invitations.line("ben") == "swm1.new2.pin.secret@coordinator:7070\n"
    assert sorted(path.name for path in invitations.folder.rglob("*")) == ["ada", "ben", "line", "line"]


def test_a_line_that_still_lets_somebody_in_stays(invitations: Invitations) -> None:
    invitations.put("ada")
    invitations.listed()
    assert invitations.run() == 0
    assert invitations.line("ada") == OLD and "new1" in invitations.line("ben")


@pytest.mark.parametrize("why", ["expired", "used", "revoked"])
def test_a_line_that_is_worth_nothing_is_renewed_unless_its_node_has_joined(
    invitations: Invitations, why: str
) -> None:
    for name in ("ada", "ben"):
        invitations.put(name)
    if why != "revoked":
        invitations.listed(uses=int(why == "expired"), lasts_s=-1 if why == "expired" else 3600)
    invitations.nodes = ["ben"]
    assert invitations.run() == 0
    assert "new1" in invitations.line("ada") and invitations.line("ben") == OLD


def test_where_the_coordinator_does_not_answer_no_line_changes(invitations: Invitations) -> None:
    invitations.put("ada")
    invitations.programs.add("swarm", "exit 5")
    assert invitations.run() != 0
    assert invitations.line("ada") == OLD
