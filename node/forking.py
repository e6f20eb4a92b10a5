"""Children that are forked from one that has imported what they need (`node.fork_server`)."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import structlog

from node.fork_server import KILL

LINE_LIMIT = 16 << 20
SERVER_MODULE = "node.fork_server"
_log = structlog.get_logger(__name__)


class Forked:
    """A forked child, as `asyncio.subprocess.Process` is one that was started."""

    def __init__(
        self,
        pid: int,
        stdout: asyncio.StreamReader,
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
    """The agent's side of a fork server, which is started when it is first needed, and again if it went."""

    of_this_process: ClassVar["Forks | None"] = None
    """What this process's children are forked by; None where each is started anew."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    async def fork(self, module: str, arguments: Sequence[str], errors: int) -> Forked | None:
        """Return a new child that does what `python -m module arguments...` does, its standard error going
        to errors; None where it cannot be forked."""
        for _ in range(2):  # the server may have gone since the last time
            try:
                return await self._forked(module, arguments, errors)
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

    async def _forked(self, module: str, arguments: Sequence[str], errors: int) -> Forked:
        server = self._server()
        with ExitStack() as ours, ExitStack() as theirs:
            input_end, stdin = os.pipe()
            theirs.callback(os.close, input_end)
            ours.callback(os.close, stdin)
            output, output_end = os.pipe()
            theirs.callback(os.close, output_end)
            told, told_end = socket.socketpair()
            theirs.callback(told_end.close)
            reader = asyncio.StreamReader(limit=LINE_LIMIT)
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
            )
            ours.callback(pipe.close)
            telling = await asyncio.open_connection(sock=told)
            ours.callback(telling[1].close)
            said = json.dumps({"module": module, "arguments": list(arguments)}).encode()
            socket.send_fds(server, [said], [input_end, output_end, errors, told_end.fileno()])
            theirs.close()
            line = await telling[0].readline()
            if not line.startswith(b"started "):
                raise ConnectionResetError("the fork server has gone")
            ours.pop_all()
        return Forked(int(line.split()[1]), reader, stdin, telling)

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
            )
        ours.setblocking(False)
        self._socket = ours
        _log.info("fork_server.started", pid=self._process.pid)
        return ours


@contextmanager
def forking(log: Path) -> Iterator[None]:
    """Within it this process's children are forked where the platform can, and ended at its end. The fork
    server's standard error is appended to log."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    forks = Forks.of_this_process = Forks(log)
    try:
        yield
    finally:
        Forks.of_this_process = None
        forks.close()
