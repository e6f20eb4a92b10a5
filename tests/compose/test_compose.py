"""The containers, really run: up, predict, kill, cut and heal, restart, join, down. `make test-compose`."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import NoContainersError, compose_command

ROOT = Path(__file__).parents[2]
PROJECT = f"swarmtest{os.getpid()}"
FILES = ("-f", "docker-compose.yml")
JOINED = (*FILES, "-f", "compose.join.yaml")
ENVIRONMENT = {**os.environ, "SWARM_JOIN_PORT": "17070", "SWARM_COORDINATOR_PORT": "17071"}
pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]


def run(*command: str, check: bool = True, timeout_s: float = 900, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=timeout_s
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        )
    return done.stdout


probed = functools.cache(compose_command)


def compose(*arguments: str, files: tuple[str, ...] = FILES, check: bool = True, **environment: str) -> str:
    return run(*probed(), *files, "-p", PROJECT, *arguments, check=check, **environment)


def operator(*command: str, check: bool = True) -> str:
    return compose("exec", "-T", "operator", "swarm", *command, check=check)


def container(service: str) -> str:
    return compose("ps", "-q", service).split()[0]


def gate_owners() -> set[str]:
    said = operator("gate", "show", "--json", check=False)
    try:
        return {leaf["owner"] for leaf in json.loads(said)["gate"]["leaves"]}
    except (ValueError, KeyError):
        return set()


def live() -> set[str]:
    """Nobody while the coordinator does not answer."""
    said = json.loads(operator("status", "--json", check=False))
    return {node["id"] for node in said["swarm"]["nodes"] if node["alive"]} if "swarm" in said else set()


def until(what: str, holds: Callable[[], bool], within_s: float = 240) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what}: not within {within_s:g} s\n{compose('logs', '--tail=40', check=False)[-9000:]}"
            )
        time.sleep(2)


def accuracy() -> float:
    said = operator("eval", "samples:everything", "--import-path", "/opt/examples", "--json")
    return float(json.loads(said)["accuracy"])


def predicted() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        operator("predict", "/opt/examples/digits.npy", "--explain", "--json")
    )["answer"]
    return answer


@pytest.fixture(scope="module")
def swarm() -> Iterator[None]:
    try:
        probed()
    except NoContainersError as missing:
        pytest.skip(str(missing))
    try:
        compose("up", "-d", "--build")
        yield
    finally:
        compose("down", "-v", "--remove-orphans", "-t", "10", files=JOINED, SWARM_JOIN="none")
    left = run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
    assert left.split() == [], "containers stayed behind"


def test_a_swarm_in_containers_answers_and_outlives_what_happens_to_it(swarm: None) -> None:
    until("three nodes in the gate", lambda: gate_owners() == {"ada", "ben", "cleo"}, 420)
    assert accuracy() > 0.85
    first = predicted()
    named = [first["class_names"][row.index(max(row))] for row in first["probabilities"]]
    assert sum(name == said for name, said in zip(named, "055", strict=True)) >= 2, named
    assert not any(first["degraded"])

    user = run("docker", "exec", container("ada"), "id", "-u").strip()
    assert user == "10001"
    assert run("docker", "exec", container("ada"), "touch", "/opt/mark", check=False) == ""
    assert (
        run("docker", "exec", container("ada"), "sh", "-c", "test -e /opt/mark && echo there", check=False)
        == ""
    )
    mounts = json.loads(run("docker", "inspect", container("ada")))[0]["Mounts"]
    assert {Path(mount["Destination"]).name for mount in mounts if mount["Type"] == "volume"} == {
        "data",
        "invitation",
    }

    run("docker", "kill", container("ben"))
    assert accuracy() > 0.5, "others, other holders or the root answer for a node that was killed"
    compose("up", "-d", "ben")
    until("ben is back", lambda: "ben" in live())

    network = f"{PROJECT}_edge"
    cut = container("cleo")
    run("docker", "network", "disconnect", network, cut)
    until("cleo's lease is over", lambda: "cleo" not in live(), 60)
    assert accuracy() > 0.5
    other = run(
        "docker", "run", "-d", "--rm", "--network", network, "--entrypoint", "sleep", "swarm:local", "600"
    ).strip()
    try:  # its old address is taken now, so it comes back under another one
        run("docker", "network", "connect", network, cut)
        until("cleo is back under another address", lambda: "cleo" in live())
    finally:
        run("docker", "kill", other, check=False)
    assert accuracy() > 0.85

    run("docker", "kill", container("coordinator"))
    assert len(predicted()["probabilities"]) == 3, "a node routes"
    compose("up", "-d", "coordinator")
    until("all nodes are back after the coordinator was killed", lambda: live() >= {"ada", "ben", "cleo"})

    compose("restart", "-t", "10", "coordinator")
    until("all nodes are back after the coordinator's restart", lambda: live() >= {"ada", "ben", "cleo"})
    assert accuracy() > 0.85
    compose("restart", "-t", "10", "redis")
    until("all nodes live after Redis's restart", lambda: live() >= {"ada", "ben", "cleo"})
    assert accuracy() > 0.85

    line = operator("token", "create").strip().removeprefix("swarm join ")
    compose("up", "-d", "dan", files=JOINED, SWARM_JOIN=line)
    until("dan is in the gate", lambda: "dan" in gate_owners(), 300)
    assert "9" in predicted()["class_names"]
    assert accuracy() > 0.85
