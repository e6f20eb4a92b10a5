"""What `swarm doctor` says of the swarm."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from swarm.cli.checks import owners_check, start_again, stopped_redis
from swarm.cli.processes import listens_on, note_ports, noted_ports, record_process
from swarm.config import home_flag
from tests.support.answers import KNOWS, gate


def seen(**experts: bool) -> Any:
    """A status of live nodes, with experts or without; and of one that is away."""
    nodes = [
        SimpleNamespace(id=name, alive=True, experts=(f"{name}.e0",) if has else ())
        for name, has in experts.items()
    ]
    return cast(
        Any, SimpleNamespace(nodes=[*nodes, SimpleNamespace(id="zoe", alive=False, experts=("zoe.e0",))])
    )


def test_the_doctor_names_live_owners_that_the_gate_is_without() -> None:
    value = gate(version=7).value
    in_the_gate = dict.fromkeys(KNOWS, True)
    assert owners_check(seen(**in_the_gate, new=False), value).ok
    found = owners_check(seen(**in_the_gate, fay=True, gil=True), value)
    assert not found.ok and found.found == "fay, gil with experts, but without a leaf in gate 7"
    assert "swarm gate rollback VERSION" in found.remedy and "swarm train DATA" in found.remedy


def test_the_doctor_names_the_homes_own_redis_where_it_stopped(tmp_path: Path) -> None:
    assert stopped_redis(tmp_path) == [], "another one was used, or none yet"
    (tmp_path / "redis").mkdir()
    (check,) = stopped_redis(tmp_path)
    assert not check.ok and check.remedy.startswith(f"swarm redis {home_flag(tmp_path)}")
    (tmp_path / "run").mkdir()
    record_process(tmp_path / "run", "redis", os.getpid())
    assert stopped_redis(tmp_path) == []


def test_a_coordinator_is_started_again_at_the_ports_that_it_had(tmp_path: Path) -> None:
    known = cast(Any, SimpleNamespace(coordinator="h:7071", join="h:1234", registry="h:7072"))
    elsewhere = start_again("coordinator", known, tmp_path)
    assert elsewhere.startswith("swarm coordinator --join-port 1234, on the founder's machine")
    for service in ("coordinator", "registry"):
        (tmp_path / service / "identity").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    home = home_flag(tmp_path)
    for http_port, flags in ((0, ""), (7080, ""), (8080, " --http-port 8080")):
        note_ports(tmp_path / "run", "coordinator", {"--http-port": http_port, "--loopback-port": 0})
        line = start_again("coordinator", known, tmp_path)
        assert line == f"swarm coordinator --join-port 1234{flags} {home}"
    note_ports(tmp_path / "run", "coordinator", {"--port": 7, "--http-port": 7080, "--loopback-port": 99})
    again = start_again("coordinator", known, tmp_path)
    assert again == f"swarm coordinator --join-port 1234 --loopback-port 99 {home}"
    assert listens_on(tmp_path / "run", "coordinator") == 0, "it does not run"
    record_process(tmp_path / "run", "coordinator", os.getpid())
    assert listens_on(tmp_path / "run", "coordinator") == 7
    assert start_again("registry", known, tmp_path) == f"swarm registry {home}"
    (tmp_path / "run" / "coordinator.ports.json").write_text("[")
    assert noted_ports(tmp_path / "run", "coordinator") == {}
    note_ports(tmp_path / "nowhere", "coordinator", {"--http-port": 1})
