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
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import structlog

from swarm.forking.server import CANNOT, ORDER_BYTES

LINE_LIMIT = 16 << 20
EMPTY: Mapping[str, str] = MappingProxyType({})
SERVER_MODULE = "swarm.forking.server"
_STATUS_PATIENCE_S, _KILLED_PATIENCE_S = 30.0, 1.0
"""How long a server that may be importing is waited for to say how a child ended that has ended."""
_ATTEMPTS = 3
_SAID_BYTES = 64
_log = structlog.get_logger(__name__)


class Forked:
    """A forked child, as `asyncio.subprocess.Process` is one that was started.

    `stdout` is None where its output goes elsewhere.
    """

    def __init__(
        self, pid: int, ends: int, told: socket.socket, stdin: int | None, stdout: asyncio.StreamReader | None
    ) -> None:
        """`ends` is a pidfd of the child, `told` the socket on which the server says how it ended."""
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._ends, self._told, self._stdin = ends, told, stdin
        self._writer: asyncio.StreamWriter | None = None
        self._is_killed = False
        self._end = asyncio.create_task(self._until_ended(), name=f"child-{pid}")

    async def wait(self) -> int:
        """Return the exit status, negative for a signal, once the child has gone."""
        return await asyncio.shield(self._end)

    async def writer(self) -> asyncio.StreamWriter | None:
        """Return the stream to the child's input; None where there is none, or it was closed."""
        if self._writer is None and self._stdin is not None:
            pipe, self._stdin = os.fdopen(self._stdin, "wb", 0), None
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
            )
            self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        return self._writer

    def close_input(self) -> None:
        """Close the child's input; what is on its way to it by its writer still arrives."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        if self._writer is not None:
            self._writer.close()

    def kill(self) -> None:
        if self.returncode is None:
            self._is_killed = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ends, signal.SIGKILL)

    async def _until_ended(self) -> int:
        try:
            await _readable(self._ends)
            self.returncode = await self._status()
        finally:
            self.close_input()
            self._told.close()
            os.close(self._ends)
        return self.returncode

    async def _status(self) -> int:
        said = b""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KILLED_PATIENCE_S if self._is_killed else _STATUS_PATIENCE_S):
                await _readable(self._told)
            said = self._told.recv(_SAID_BYTES)
        # A fork server that went took its children along.
        return int(said.split()[1]) if said.startswith(b"ended ") else -signal.SIGKILL


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A fork server's process, and the socket on which it is given orders."""

    process: "subprocess.Popen[bytes]"
    orders: socket.socket


class _NoServerError(Exception):
    """A server has gone, or takes no more orders."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server


class Forks:
    """A fork server, which is started when it is first needed, and again if it went.

    It has this process's environment of then, with `environment` for what is other.
    """

    of_this_process: ClassVar["Forks | None"] = None
    """What this process's children are forked by; None where each is started anew."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log, self._environment = log, dict(environment)
        self._server: Server | None = None
        self._retired: list[subprocess.Popen[bytes]] = []
        """Servers that take no more orders and may have children still."""
        self._is_closed = False

    def provides(self, environment: Mapping[str, str]) -> bool:
        """Return whether children have these settings in their environment."""
        return environment.items() <= {**os.environ, **self._environment}.items()

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

        Its standard error goes to the descriptor errors. Its output goes to output, and its input is empty;
        or its output is its `stdout`, and its input ends with `close_input`.
        """
        said = {"module": module, "arguments": list(arguments), "needs": list(needs)}
        order = json.dumps(said).encode()
        if len(order) > ORDER_BYTES:
            return None
        for _ in range(_ATTEMPTS):
            try:
                server = self._running()
                return None if server is None else await self._forked(server, order, errors, output)
            except _NoServerError as lost:
                _log.warning("fork_server.lost", module=module, log=str(self._log))
                self._retire(lost.server)
            except OSError as error:
                _log.warning("fork_server.failed", module=module, error=str(error))
                return None
        return None

    def close(self) -> None:
        """End the server, and with it what still runs of its children. Nothing is forked any more."""
        self._is_closed = True
        if self._server is not None:
            self._retire(self._server)
        for process in self._retired:
            process.kill()
            process.wait()
        self._retired.clear()

    async def _forked(self, server: Server, order: bytes, errors: int, output: int | None) -> Forked | None:
        """Return the child; None where the server cannot fork. Raises _NoServerError."""
        with ExitStack() as ours, ExitStack() as theirs:
            told, told_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(told.close)
            theirs.callback(told_end.close)
            stdin: int | None = None
            stdout: asyncio.StreamReader | None = None
            if output is None:
                source, stdin = os.pipe()
                ours.callback(os.close, stdin)
                stdout, output = await _pipe_to_read(ours)
                theirs.callback(os.close, output)
            else:
                source = os.open(os.devnull, os.O_RDONLY)
            theirs.callback(os.close, source)
            try:
                socket.send_fds(server.orders, [order], [source, output, errors, told_end.fileno()])
                theirs.close()
                told.setblocking(False)
                await _readable(told)
                said, descriptors, _, _ = socket.recv_fds(told, _SAID_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise _NoServerError(server) from error
            if said == CANNOT:
                return None
            if not said.startswith(b"started ") or not descriptors:
                raise _NoServerError(server)
            ours.pop_all()
        return Forked(int(said.split()[1]), descriptors[0], told, stdin, stdout)

    def _running(self) -> Server | None:
        """Return the server, started now if none runs; None after the end."""
        if self._is_closed:
            return None
        self._forget_ended()
        if self._server is not None:
            status = self._server.process.poll()
            if status is None:
                return self._server
            _log.warning("fork_server.ended", status=status, log=str(self._log))
            self._retire(self._server)
        self._server = start_server(self._log, self._environment)
        _log.info("fork_server.started", pid=self._server.process.pid)
        return self._server

    def _retire(self, server: Server) -> None:
        """Give a server no more orders; it ends with its last child."""
        if self._server is server:
            self._server = None
        if server.orders.fileno() >= 0:
            server.orders.close()
            self._retired.append(server.process)
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._retired = [process for process in self._retired if process.poll() is None]


def start_server(log: Path, environment: Mapping[str, str]) -> Server:
    """Return a new fork server with this process's environment, and `environment` for what is other; its
    standard error is appended to log."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", SERVER_MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
            )
    except OSError:
        ours.close()
        raise
    return Server(process, ours)


async def _readable(source: int | socket.socket) -> None:
    """Wait until a descriptor has something to read, or its end."""
    loop = asyncio.get_running_loop()
    is_ready = asyncio.Event()
    loop.add_reader(source, is_ready.set)
    try:
        await is_ready.wait()
    finally:
        loop.remove_reader(source)


async def _pipe_to_read(stack: ExitStack) -> tuple[asyncio.StreamReader, int]:
    """Return a new pipe's stream, closed by stack, and the descriptor to write to."""
    end, output = os.pipe()
    stdout = asyncio.StreamReader(limit=LINE_LIMIT)
    protocol = asyncio.StreamReaderProtocol(stdout)
    loop = asyncio.get_running_loop()
    try:
        pipe, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(end, "rb", 0))
    except BaseException:
        os.close(output)
        raise
    stack.callback(pipe.close)
    return stdout, output


def _can_fork() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another platform, an old kernel, or a sandbox that forbids it
        return False
    return True


@contextmanager
def forking(log: Path, environment: Mapping[str, str] = EMPTY) -> Iterator[None]:
    """Within it this process's children are forked where the platform can, and ended at its end (`Forks`).

    The fork server's standard error is appended to log. Where they are forked already, they go on to be, by
    the same server.
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
