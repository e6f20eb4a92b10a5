"""Real processes, forked from one that has imported what they need, as an agent's children are.

A service imports for a second before it begins, an agent's or a coordinator's fork server for two more; what
they do from there on is the same. Tests whose subject is a start, and all of `e2e`, start theirs anew.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from coordinator.solver_process import ROOT_NEEDS, SOLVER_NEEDS
from node import children
from swarm.federation import child
from swarm.forking.forks import SERVER_MODULE

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SWARM_THREADS": "1"}
NEEDS = (
    *("swarm.cli.app", "swarm.registry.app", "coordinator.app", "node.app"),
    *(module for modules in children.NEEDS.values() for module in modules),
    *(*SOLVER_NEEDS, *ROOT_NEEDS, *child.NEEDS),
)
PATIENCE_S = 120.0


class ForkedProcess:
    """A forked process, as `subprocess.Popen` is one that was started."""

    def __init__(self, args: Sequence[str], pid: int, told: socket.socket) -> None:
        """`told` is the socket on which the fork server says how the process ended."""
        self.args, self.pid, self._told = tuple(args), pid, told
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and _readable(self._told, 0):
            said = self._told.recv(64)
            self.returncode = int(said.split()[1]) if said.startswith(b"ended ") else -signal.SIGKILL
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not _readable(self._told, timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Forker:
    """This process's fork server for tests, started when it is first needed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", SERVER_MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**ENVIRONMENT, **child.FLOWER_ENVIRONMENT, "GRPC_VERBOSITY": "INFO"},
            )
        self._orders = ours
        atexit.register(self._end)

    def start(self, module: str, arguments: Sequence[str], streams: Sequence[int]) -> ForkedProcess:
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"module": module, "arguments": list(arguments), "needs": NEEDS}
        with theirs:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [*streams, theirs.fileno()])
        assert _readable(told, PATIENCE_S), "the fork server does not answer"
        said, descriptors, _, _ = socket.recv_fds(told, 64, 1)
        for descriptor in descriptors:
            os.close(descriptor)
        assert said.startswith(b"started "), said
        return ForkedProcess((module, *arguments), int(said.split()[1]), told)

    def _end(self) -> None:
        self._orders.close()
        self._server.kill()
        self._server.wait()


_forkers: list[_Forker] = []


def start_process(module: str, arguments: Sequence[str], streams: Sequence[int]) -> ForkedProcess:
    """Start what `python -m module arguments...` does, in `ENVIRONMENT`, on three descriptors."""
    if not _forkers:
        _forkers.append(_Forker())
    return _forkers[0].start(module, arguments, streams)


def start_service(module: str, arguments: Sequence[str], log: IO[bytes]) -> ForkedProcess:
    """Start a service, whose own fork server is forked as well; what it says goes to log."""
    with Path(os.devnull).open() as nothing:
        streams = nothing.fileno(), log.fileno(), log.fileno()
        return start_process("tests.support.forked_service", [module, *arguments], streams)


def run_process(module: str, *arguments: str, timeout_s: float = 200) -> "subprocess.CompletedProcess[str]":
    """Run what `python -m module arguments...` does, without input, to its end."""
    with (
        Path(os.devnull).open() as nothing,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        process = start_process(module, arguments, (nothing.fileno(), output.fileno(), errors.fileno()))
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            process.args, process.returncode or 0, output.read(), errors.read()
        )


def _readable(source: socket.socket, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
