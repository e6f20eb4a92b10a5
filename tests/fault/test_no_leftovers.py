"""Ended at any moment, by whatever signal, the command leaves no process, no socket and no file."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from swarm.cli.up.supervisor import free_ports
from tests.support.commands import Running, Shell, shell

UP = (
    *("up", "--nodes", "2", "--partition", "classes:5", "--steps", "200"),
    *("--fedavg-rounds", "0", "--no-refine"),
)


def group(pid: int) -> None:
    """Ctrl-C as a terminal sends it: to the whole process group."""
    os.killpg(pid, signal.SIGINT)


def twice(first: signal.Signals, second: signal.Signals) -> Callable[[int], None]:
    """One signal, and another once the first has ended some of what the command started."""

    def send(pid: int) -> None:
        deadline = time.monotonic() + 10
        while not (started := psutil.Process(pid).children(recursive=True)):
            assert time.monotonic() < deadline, "nothing was started"
            time.sleep(0.01)
        os.kill(pid, first)
        while all(map(lives, started)):
            assert time.monotonic() < deadline, "nothing was ended"
            time.sleep(0.01)
        os.kill(pid, second)

    return send


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def once(number: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


@pytest.fixture
def sh() -> Iterator[Shell]:
    with shell() as found:
        yield found


def nothing_is_left(sh: Shell) -> None:
    assert sh.wait_for_nothing() == []
    assert [path.name for path in sh.scratch.iterdir()] == []


@pytest.mark.parametrize("after_s", [0.3, 0.8])
def test_an_early_ctrl_c_is_quiet(sh: Shell, after_s: float) -> None:
    log = sh.scratch.with_name("log")
    with log.open("w") as sink:
        process = sh.start(*UP, stderr=sink)
    time.sleep(after_s)
    group(process.pid)
    code, said = Running(process, log).end()
    assert code == 130 and said.strip().endswith("interrupted") and "Traceback" not in said
    nothing_is_left(sh)


@pytest.mark.parametrize(
    ("moment", "send"),
    [
        pytest.param("founding a swarm", twice(signal.SIGTERM, signal.SIGTERM), id="founding-term-twice"),
        pytest.param("run as processes", once(signal.SIGHUP), id="services-closed-terminal"),
        pytest.param("private samples", twice(signal.SIGINT, signal.SIGTERM), id="joining-ctrl-c-then-term"),
        pytest.param("clusters", once(signal.SIGINT), id="learning-ctrl-c"),
        pytest.param("publish", once(signal.SIGINT), id="publishing-ctrl-c", marks=pytest.mark.chaos),
        pytest.param("routing held-out", once(signal.SIGINT), id="reporting-ctrl-c", marks=pytest.mark.chaos),
    ],
)
def test_an_end_at_any_moment_leaves_no_process_and_no_file(
    sh: Shell, moment: str, send: Callable[[int], None]
) -> None:
    with sh.until(moment, *UP) as running:
        send(running.process.pid)
        code, said = running.end()
    assert code == 130, said
    assert said.strip().endswith("interrupted") and "Traceback" not in said
    nothing_is_left(sh)


def test_a_killed_supervisor_leaves_no_process(sh: Shell) -> None:
    with sh.until("private samples", *UP) as running:
        assert len(sh.running()) >= 4
        running.process.kill()
        running.end()
    assert sh.wait_for_nothing(30) == []


class Founded:
    """A founded swarm without services, and the ports that were chosen for it."""

    def __init__(self, sh: Shell) -> None:
        self.sh, self.home = sh, sh.scratch.with_name("founder")
        join, port, registry, http = free_ports(4)
        self.environment = {
            "SWARM_HOME": str(self.home),
            "SWARM_JOIN_PORT": str(join),
            "SWARM_COORDINATOR_PORT": str(port),
            "SWARM_REGISTRY_PORT": str(registry),
            "SWARM_HTTP_PORT": str(http),
        }
        self.line = sh.json("init", "garden", "--data", "digits", **self.environment)["join_line"]

    def service(self, name: str, ready: str) -> "subprocess.Popen[str]":
        log = self.home / f"{name}.said"
        with log.open("w") as sink:
            process = self.sh.start(name, stderr=sink, **self.environment)
        deadline = time.monotonic() + 60
        while ready not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return process


def test_down_ends_what_runs_from_a_folder_and_nothing_else(sh: Shell) -> None:
    founded = Founded(sh)
    services = [founded.service(name, f"{name}.ready") for name in ("redis", "registry", "coordinator")]
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        record = {"name": "gone", "pid": bystander.pid, "started": 1.0, "scratch": ""}
        (founded.home / "run" / "gone.process.json").write_text(json.dumps(record))
        stopped = sh.json("down", "--home", str(founded.home.parent))["stopped"]
        assert sorted(stopped) == ["coordinator", "redis", "registry"]
        for service in services:
            service.communicate(timeout=10)
        assert bystander.poll() is None, "the process that now has that id is somebody else's"
        assert not list((founded.home / "run").glob("*.process.json"))
        nothing_is_left(sh)
        assert sh.json("down", "--home", str(founded.home.parent))["stopped"] == []
    finally:
        bystander.kill()
        bystander.wait()


def test_what_cannot_be_reached_or_bound_is_said_with_its_exit_code(sh: Shell) -> None:
    founded = Founded(sh)
    nowhere = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    astray = founded.line.replace("127.0.0.1", "no-such-host.invalid")
    for words, code, said in (
        (("status",), 3, "nobody listens there"),
        (("predict", "missing.npy"), 2, "missing.npy"),
        (("registry",), 5, "swarm redis"),
        (("registry", "--redis-url", nowhere), 3, "Redis"),
        (("registry", "--redis-url", f"unix://{sh.scratch}/no.sock"), 3, "Redis"),
        (("join", astray, "--home", str(sh.scratch / "n")), 3, "no-such-host"),
        (("join", founded.line, "--home", str(sh.scratch / "n")), 3, "127.0.0.1"),
    ):
        done = sh.swarm(*words, **founded.environment)
        assert done.returncode == code, (words, done.returncode, done.stderr)
        assert said in done.stderr and "Traceback" not in done.stderr, done.stderr
    founded.service("redis", "redis.ready")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words in (
            ("registry", "--port", port),
            ("coordinator", "--port", port),
            ("coordinator", "--join-port", port),
        ):
            done = sh.swarm(*words, **founded.environment)
            assert done.returncode == 2, (words, done.returncode, done.stderr)
            assert port in done.stderr and "Traceback" not in done.stderr, done.stderr
    again = sh.swarm("redis", **founded.environment)
    assert again.returncode == 6 and "redis" in again.stderr
    assert len([p for p in sh.running() if "redis" in " ".join(p.cmdline())]) == 2, "the first runs on"
    sh.json("down", "--home", str(founded.home))
    assert sh.wait_for_nothing() == []
