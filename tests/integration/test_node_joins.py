"""Joining: everything is checked before the secret leaves, and every failure says what was wrong."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from node.enrol import join
from swarm.cli.up.supervisor import free_ports
from swarm.config import NodeHome
from swarm.domain.errors import (
    ConflictError,
    ShapeMismatchError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.trust.identity import Identity
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, whole_swarm


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("joins")) as running:
        yield running


def changed(line: str, old: int, new: str) -> str:
    """Replace one dot-separated part of a join line's token."""
    token, _, address = line.rpartition("@")
    parts = token.split(".")
    parts[old] = new
    return ".".join(parts) + "@" + address


def test_a_joiner_gets_an_identity_and_the_trunk(swarm: WholeSwarm, tmp_path: Path) -> None:
    said: list[str] = []
    home = NodeHome(tmp_path / "rose")
    data = str(write_digits(tmp_path / "d.npz"))
    identity = join(swarm.line, home, name="rose", data=data, on_step=said.append)
    assert (identity.id, identity.swarm, identity.role) == ("rose", "garden", "node")
    assert Identity.load(home.identity).coordinator == identity.coordinator
    assert len(said) == 5
    assert not (home.root / "joining.json").exists()
    with pytest.raises(ConflictError, match="rose"):
        join(swarm.line, home, name="tulip")


def test_a_wrong_pin_ends_the_attempt_before_anything_is_sent(swarm: WholeSwarm, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="pin"):
        join(changed(swarm.line, 2, "0" * 64), NodeHome(tmp_path / "n"), name="pinned")
    assert not (tmp_path / "n" / "joining.json").exists()


def test_a_wrong_secret_is_refused_and_the_same_home_can_try_again(swarm: WholeSwarm, tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "n")
    with pytest.raises(UnauthenticatedError):
        join(changed(swarm.line, 3, "A" * 43), home, name="second-try")
    assert not (home.identity / "identity.json").exists()
    assert join(swarm.line, home, name="second-try").id == "second-try"


def test_data_that_do_not_fit_are_refused_before_the_secret_is_sent(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((60, 9, 9), np.uint8), y=np.arange(60) % 2)
    home = NodeHome(tmp_path / "n")
    with pytest.raises(ShapeMismatchError, match="9, 9"):
        join(swarm.line, home, name="wide", data=str(tmp_path / "wide.npz"))
    assert not (home.root / "joining.json").exists()
    assert join(swarm.line, home, name="wide").id == "wide"


def test_a_taken_name_is_refused(swarm: WholeSwarm, tmp_path: Path) -> None:
    join(swarm.line, NodeHome(tmp_path / "a"), name="oak")
    with pytest.raises(ConflictError, match="oak"):
        join(swarm.line, NodeHome(tmp_path / "b"), name="oak")


def test_a_joiner_that_lost_the_answer_asks_again_and_gets_its_name(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    home = NodeHome(tmp_path / "n")
    home.identity.mkdir(parents=True)
    (home.identity / "stray").touch()
    with pytest.raises(ConflictError, match="identity"):
        join(swarm.line, home, name="elm")
    (home.identity / "stray").unlink()
    assert join(swarm.line, home, name="elm").id == "elm"


def test_an_unknown_host_and_a_refused_port_are_named(swarm: WholeSwarm, tmp_path: Path) -> None:
    token = swarm.line.rpartition("@")[0]
    with pytest.raises(UnreachableError, match="no such host"):
        join(f"{token}@nowhere.invalid:7070", NodeHome(tmp_path / "n"), name="n")
    with pytest.raises(UnreachableError, match="connection refused"):
        join(f"{token}@127.0.0.1:{free_ports(1)[0]}", NodeHome(tmp_path / "n"), name="n")


def test_something_else_that_listens_there_is_named(swarm: WholeSwarm, tmp_path: Path) -> None:
    token = swarm.line.rpartition("@")[0]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        thread = threading.Thread(target=lambda: other.accept()[0].close())
        thread.start()
        with pytest.raises(UnreachableError, match=str(port)):
            join(f"{token}@127.0.0.1:{port}", NodeHome(tmp_path / "n"), name="n")
        thread.join()


def test_a_storm_of_strangers_ends_no_service(swarm: WholeSwarm) -> None:
    """Every connection once freed the TLS context that another's handshake was about to use: a crash."""

    def stranger(port: int) -> None:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as plain:
                    plain.sendall(b"\x16\x03\x01\xff\xff")
            except OSError:
                pass

    operator = Identity.load(swarm.home.operator / "identity")
    ports = [int(address.rsplit(":")[-1]) for address in (operator.coordinator, operator.registry)]
    with ThreadPoolExecutor(8) as strangers:
        list(strangers.map(stranger, ports * 4))
    running = {name: process.poll() for name, process in swarm.processes.items()}
    assert running == {"registry": None, "coordinator": None}
