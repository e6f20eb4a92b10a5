"""What `swarm up` refuses before it founds anything, and what it says at its end."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swarm.cli.app import build
from swarm.cli.output import run_guarded
from swarm.cli.processes import note_ports
from swarm.cli.up import command
from swarm.cli.up.command import claim_folder, how_to_use
from swarm.cli.up.deal import Deal, deal
from swarm.cli.up.story import Outcome
from swarm.cli.up.supervisor import free_ports
from swarm.domain.errors import ConflictError, UsageError


@pytest.mark.parametrize(
    "flag", [*(f"--sums-mb={megabytes}" for megabytes in ("nan", "inf", "-inf", "0", "-1")), "--sums=some"]
)
def test_senseless_sums_are_refused_at_the_door_as_by_train(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_up", lambda *_, **__: pytest.fail("it ran"))
    said = {}
    for words in (["up"], ["train", "digits", "--home", str(tmp_path)]):
        assert run_guarded(build(), [*words, flag]) == 2
        said[words[0]] = capsys.readouterr().err
    assert said["up"] == said["train"] and said["up"].startswith(f"error: {flag.partition('=')[0]}\n")


def test_a_file_is_no_folder_for_a_swarm(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UsageError) as refused:
        claim_folder(file, keep=True)
    assert refused.value.subject == f"folder {file}" and refused.value.found == "a file"
    assert "--home DIR" in refused.value.remedy and file.read_text() == "mine"
    with pytest.raises(UsageError, match="--home DIR"):
        claim_folder(file / "deeper", keep=True)


def test_a_file_as_home_ends_the_command_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert run_guarded(build(), ["up", "--keep", "--home", str(file)]) == 2
    told = capsys.readouterr().err
    assert f"error: folder {file}" in told and "found:    a file" in told and "swarm doctor" not in told


def test_a_folder_is_claimed_for_its_owner_alone_and_only_if_it_is_empty(tmp_path: Path) -> None:
    root = claim_folder(tmp_path / "new" / "home", keep=True)
    assert root.is_dir() and root.stat().st_mode & 0o777 == 0o700
    assert claim_folder(root, keep=True) == root
    (root / "something").write_text("mine")
    with pytest.raises(ConflictError, match="an empty folder"):
        claim_folder(root, keep=True)


@pytest.fixture(scope="module")
def dealt() -> Deal:
    return deal("digits", "iid", 2, 0)


@pytest.mark.parametrize(
    ("source", "command_line"),
    [
        ("digits", "swarm eval digits;"),
        ("/data/fashion-mnist", "swarm eval /data/fashion-mnist;"),
        ("/my data/own.npz", "swarm eval '/my data/own.npz';"),
        ("mine.samples:all", "swarm eval mine.samples:all --import-path /code --import-path '/more code';"),
    ],
)
def test_a_kept_swarm_is_to_be_scored_on_the_data_that_it_was_dealt(
    dealt: Deal, source: str, command_line: str
) -> None:
    said = how_to_use(Path("/kept"), dealt, source, ("/code", "/more code"))
    assert command_line in said and "curl" not in said


def test_a_kept_swarm_says_where_it_is_asked_over_http(dealt: Deal, tmp_path: Path) -> None:
    (tmp_path / "founder" / "run").mkdir(parents=True)
    note_ports(tmp_path / "founder" / "run", "coordinator", {"--port": 41, "--http-port": 42})
    assert "curl -s http://127.0.0.1:42/v2/models/swarm" in how_to_use(tmp_path, dealt, "digits", ())


def test_the_closing_hint_names_a_file_as_any_folder_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((120, 4), dtype=np.float32), np.arange(120) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)

    async def play(*_: object, **__: object) -> Outcome:
        return Outcome()

    monkeypatch.setattr(command, "play", play)
    monkeypatch.chdir(tmp_path)
    words = ["up", "--keep", "--home", "kept", "--data", "own.npz", "--partition", "iid"]
    assert run_guarded(build(), words) == 0
    said = capsys.readouterr().err
    assert f"swarm eval {os.path.realpath(tmp_path)}/own.npz;" in said
    asked = re.search(r"swarm predict (\S+/kept/queries.npy) --explain", said)
    assert asked is not None
    kept = np.load(asked[1])
    assert kept.shape == (8, 4) and all((row == x).all(axis=1).any() for row in kept)


def test_free_ports_are_taken_by_no_outgoing_connection_and_never_given_twice() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if first <= 10_000 and last >= 65_535:
        pytest.skip("this system gives all ports to outgoing connections")
    found = [port for _ in range(20) for port in free_ports(3)]
    assert len(set(found)) == 60
    assert not [port for port in found if first <= port <= last]


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as taken:
        following = free_ports(1)[0] + 1
        try:
            taken.bind(("127.0.0.1", following))
        except OSError:
            pytest.skip("somebody else has it")
        taken.listen()
        assert following not in free_ports(5)


def test_processes_that_start_together_pick_different_ports() -> None:
    command = [sys.executable, "-c", "from swarm.cli.up.supervisor import free_ports; print(free_ports(5))"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = [json.loads(each.communicate()[0]) for each in started]
    assert len({port for ports in found for port in ports}) == 15
