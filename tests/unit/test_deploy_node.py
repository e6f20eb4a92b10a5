"""deploy/node.sh: a first training that fails is tried again, and a signal ends agent and script at once."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.scripts import Stubs, stubs

_SWARM = """
echo "$1 $2" >> "$STATE/calls"
case $1 in
  join) mkdir -p "$SWARM_HOME/identity" "$SWARM_HOME/state"; touch "$SWARM_HOME/identity/identity.json" ;;
  node) echo $$ > "$STATE/agent"; trap 'echo ended > "$STATE/agent-said"; exit 0' TERM
    while [ ! -e "$STATE/agent-dies" ]; do sleep 0.02; done; exit 7 ;;
  health) [ -e "$STATE/agent" ] && [ ! -e "$STATE/unhealthy" ] ;;
  train)
    tried=$(($(cat "$STATE/tried") + 1)); echo "$tried" > "$STATE/tried"
    if [ -e "$STATE/hangs" ]; then exec sleep 60; fi
    if [ "$tried" -le "$FAILURES" ]; then echo "coordinator: found nobody" >&2; exit 5; fi ;;
esac
"""


class Node:
    """One node's folders; `start` runs its script."""

    def __init__(self, folder: Path, programs: Stubs) -> None:
        self._stubs, self.folder, self.home, self.state = programs, folder, folder / "home", folder / "state"
        (folder / "invitation").mkdir()
        (folder / "invitation" / "line").write_text("swm1.aa.pin.secret@coordinator:7070\n")
        self.state.mkdir()
        (self.state / "tried").write_text("0")
        programs.add("swarm", _SWARM)

    def start(self, failures: int = 0, pause: str = "0") -> "subprocess.Popen[str]":
        return self._stubs.start(
            "node.sh",
            SWARM_HOME=str(self.home),
            SWARM_NODE="ada",
            SWARM_DATA="samples:ada",
            SWARM_INVITATION=str(self.folder / "invitation"),
            SWARM_TRAIN_PAUSE_S=pause,
            STATE=str(self.state),
            FAILURES=str(failures),
        )

    def mark(self, name: str) -> None:
        (self.state / name).touch()

    def calls(self, what: str) -> int:
        file = self.state / "calls"
        return sum(line.split()[0] == what for line in file.read_text().splitlines()) if file.exists() else 0

    @property
    def trained(self) -> bool:
        return (self.home / "state" / "trained").exists()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with stubs(tmp_path / "bin") as programs:
        yield Node(tmp_path, programs)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return the exit code of a script that is to end soon, and what it said on stderr."""
    _, err = process.communicate(timeout=10)
    return process.returncode, err


def stopped(
    process: "subprocess.Popen[str]", with_signal: signal.Signals = signal.SIGTERM
) -> tuple[int, str]:
    process.send_signal(with_signal)
    return ended(process)


def test_a_node_joins_and_trains_once(node: Node) -> None:
    process = node.start()
    until(lambda: node.trained)
    assert process.poll() is None
    assert stopped(process) == (0, "")
    assert (node.state / "agent-said").read_text() == "ended\n"
    (node.state / "agent").unlink()
    process = node.start()
    until(lambda: node.calls("node") == 2 and (node.state / "agent").exists())
    assert stopped(process) == (0, "")
    assert (node.calls("join"), node.calls("train")) == (1, 1)


def test_a_first_training_that_fails_is_tried_again_and_said(node: Node) -> None:
    process = node.start(failures=3)
    until(lambda: node.trained)
    code, said = stopped(process)
    assert code == 0 and node.calls("train") == 4
    assert said.count("coordinator: found nobody") == 3
    assert said.count("first training of ada: found exit code 5") == 3


def test_the_pause_grows(node: Node) -> None:
    process = node.start(failures=2, pause="1")
    until(lambda: node.trained)
    _, said = stopped(process)
    assert "again in 1 s" in said and "again in 2 s" in said


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_at_once_whatever_is_under_way(node: Node, with_signal: signal.Signals) -> None:
    node.mark("hangs")
    process = node.start()
    until(lambda: node.calls("train") == 1)
    began = time.monotonic()
    assert stopped(process, with_signal)[0] == 0
    assert time.monotonic() - began < 5 and not node.trained


def test_a_signal_ends_the_pause(node: Node) -> None:
    process = node.start(failures=1, pause="60")
    until(lambda: node.calls("train") == 1)
    time.sleep(0.2)
    assert stopped(process)[0] == 0


@pytest.mark.parametrize("when", ["unhealthy", "failing", "trained"])
def test_the_script_ends_with_its_agent(node: Node, when: str) -> None:
    if when == "unhealthy":
        node.mark("unhealthy")
    process = node.start(failures=10**6 if when == "failing" else 0, pause="1")
    until(lambda: node.trained if when == "trained" else node.calls("node") == 1)
    time.sleep(0.2)
    node.mark("agent-dies")
    assert ended(process)[0] == 7
