"""This process's side of its fork server (`swarm.forking.server`)."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import structlog

from swarm.forking.server import KILL

LINE_LIMIT = 16 << 20
EMPTY: Mapping[str, str] = MappingProxyType({})
SERVER_MODULE = "swarm.forking.server"
_log = structlog.get_logger(__name__)


class Forked:
    """A forked child, as `asyncio.subprocess.Process` is one that was started.

    `stdout` is None where its output goes elsewhere.
    """

    def __init__(
        self,
        pid: int,
        stdout: asyncio.StreamReader | None,
        stdin: int,
        told: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._stdin: int | None = stdin
        self._told, self._telling = told
        self._end = asyncio.create_task(self._until_ended(), name=f"child-{pid}")

    async def wait(self) -> int:
        """Return the exit status, negative for a signal."""
        return await asyncio.shield(self._end)

    def close_input(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def kill(self) -> None:
        with suppress(OSError):
            self._telling.write(KILL)

    async def _until_ended(self) -> int:
        try:
            line = await self._told.readline()
        except OSError:
            line = b""
        # A fork server that went took its children along.
        self.returncode = int(line.split()[1]) if line.startswith(b"ended ") else -signal.SIGKILL
        self.close_input()
        self._telling.close()
        return self.returncode


class Forks:
    """A fork server, which is started when it is first needed, and again if it went.

    It has this process's environment of then, with `environment` for what is other.
    """

    of_this_process: ClassVar["Forks | None"] = None
    """What this process's children are forked by; None where each is started anew."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log, self._environment = log, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    async def fork(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        needs: Sequence[str],
        errors: int,
        output: int | None = None,
    ) -> Forked | None:
        """Return a new child that does what `python -m module arguments...` does; None where it cannot be
        forked. The server imports first, if it has not yet, the modules that the child needs.

        Its standard error goes to the descriptor errors, its output to output, or else to its `stdout`.
        """
        said = {"module": module, "arguments": list(arguments), "needs": list(needs)}
        for _ in range(2):  # the server may have gone since the last time
            try:
                return await self._forked(json.dumps(said).encode(), errors, output)
            except OSError as error:
                _log.warning("fork_server.failed", module=module, error=str(error), log=str(self._log))
                if self._runs:
                    break
        return None

    def close(self) -> None:
        """End the server, and with it what still runs of its children."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def _forked(self, order: bytes, errors: int, output: int | None) -> Forked:
        server = self._server()
        with ExitStack() as ours, ExitStack() as theirs:
            input_end, stdin = os.pipe()
            theirs.callback(os.close, input_end)
            ours.callback(os.close, stdin)
            told, told_end = socket.socketpair()
            theirs.callback(told_end.close)
            stdout: asyncio.StreamReader | None = None
            if output is None:
                end, output = os.pipe()
                theirs.callback(os.close, output)
                stdout = asyncio.StreamReader(limit=LINE_LIMIT)
                protocol = asyncio.StreamReaderProtocol(stdout)
                pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                    lambda: protocol, os.fdopen(end, "rb", 0)
                )
                ours.callback(pipe.close)
            telling = await asyncio.open_connection(sock=told)
            ours.callback(telling[1].close)
            socket.send_fds(server, [order], [input_end, output, errors, told_end.fileno()])
            theirs.close()
            line = await telling[0].readline()
            if not line.startswith(b"started "):
                raise ConnectionResetError("the fork server has gone")
            ours.pop_all()
        return Forked(int(line.split()[1]), stdout, stdin, telling)

    def _server(self) -> socket.socket:
        """Return the socket of the server that runs, started now if none does."""
        if self._socket is not None and self._runs:
            return self._socket
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER_MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment},
            )
        ours.setblocking(False)
        self._socket = ours
        _log.info("fork_server.started", pid=self._process.pid)
        return ours


def _can_fork() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another platform, an old kernel, or a sandbox that forbids it
        return False
    return True


@contextmanager
def forking(log: Path, environment: Mapping[str, str] = EMPTY) -> Iterator[None]:
    """Within it this process's children are forked where the platform can, and ended at its end (`Forks`).

    The fork server's standard error is appended to log. Where they are forked already, they go on to be.
    """
    if not _can_fork() or Forks.of_this_process is not None:
        yield
        return
    forks = Forks.of_this_process = Forks(log, environment)
    try:
        yield
    finally:
        Forks.of_this_process = None
        forks.close()
