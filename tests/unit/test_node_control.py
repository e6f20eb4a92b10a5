"""An agent's seat: who waits for its end, and what is swept of agents that were killed."""

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.control import AgentSeat, await_end, sweep_sockets
from swarm.config import NodeHome


@pytest.fixture
def among() -> Iterator[Path]:
    """A folder with a name that is short enough for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="among-") as folder:
        yield Path(folder)


def bound(path: Path) -> socket.socket:
    """Return a socket at path that nobody listens to yet."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


def left_behind(folder: Path) -> Path:
    """Make what a killed agent leaves."""
    for name in ("agent.sock", "experts.sock"):
        bound(folder / name).close()
    return folder


def test_what_a_killed_agent_left_is_removed(among: Path) -> None:
    folder = left_behind(among / "swarm-ab12_xyz")
    sweep_sockets(among)
    assert not folder.exists()


def test_an_agent_that_listens_keeps_its_folder(among: Path) -> None:
    with bound(among / "swarm-ab12_xyz" / "agent.sock") as served:
        served.listen()
        sweep_sockets(among)
        assert (among / "swarm-ab12_xyz" / "agent.sock").exists()


def test_an_agent_that_is_just_starting_keeps_its_folder(among: Path) -> None:
    fresh = among / "swarm-ab12_xyz"
    fresh.mkdir()
    sweep_sockets(among)
    assert fresh.exists(), "no socket yet"
    handle = os.open(fresh, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with bound(fresh / "agent.sock"):
            sweep_sockets(among)
            assert (fresh / "agent.sock").exists(), "bound, and about to listen"
    finally:
        os.close(handle)


def test_a_seat_is_locked_against_sweeps_until_it_is_left(
    among: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(among))
    old = left_behind(among / "swarm-ab12_xyz")
    seat = AgentSeat.take(NodeHome(among / "home"))
    assert not old.exists()
    with bound(seat.control_socket):
        sweep_sockets(among)
        assert seat.control_socket.exists()
    seat.leave()
    assert not seat.sockets.exists()


def test_who_waits_for_an_agents_end_waits_until_its_seat_is_left(
    among: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(among))
    home = NodeHome(among / "home")
    assert await_end(home), "there never was one"
    seat = AgentSeat.take(home)
    seat.announce(0.0)
    assert not await_end(home, timeout_s=0.2)
    leaving = threading.Timer(0.3, seat.leave)
    leaving.start()
    assert await_end(home)
    assert not (home.run / "agent.json").exists()
    leaving.join()


def test_what_is_not_certain_to_be_an_agents_stays(among: Path) -> None:
    others = [left_behind(among / name) for name in ("swarm-up-ab12_xyz", "swarm-ab12", "other-ab12_xyz")]
    mixed = left_behind(among / "swarm-mixed_12")
    (mixed / "notes.txt").write_text("mine")
    with ExitStack() as stack:
        target = stack.enter_context(tempfile.TemporaryDirectory(prefix="else-"))
        elsewhere = left_behind(Path(target) / "agent")
        (among / "swarm-linked_1").symlink_to(elsewhere)
        plain = among / "swarm-plain_12"
        plain.mkdir()
        (plain / "agent.sock").write_text("no socket")
        sweep_sockets(among)
        kept = [*others, mixed, elsewhere, plain]
        assert all((folder / "agent.sock").exists() for folder in kept)
