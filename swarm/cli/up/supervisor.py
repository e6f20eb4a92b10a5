"""Many operating-system processes under one roof: started in order, watched, and always ended.

Each child leads a session of its own, so that Ctrl-C in the terminal reaches the supervisor only, which then
ends them in order. Without `keep` the kernel ends them too should the supervisor be killed.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from swarm.cli.output import let_nothing_interrupt
from swarm.cli.processes import record_process, remove_tree
from swarm.domain.errors import NotReadyError, SwarmError, UnreachableError, error_classes
from swarm.end_with_parent import command_that_ends_with_us

TERM_SECONDS = 12.0


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports on the loopback interface that nobody listens on now.

    They are none that the system gives to outgoing connections, where it leaves some, and other ones than a
    process beside this one picks at the same moment.
    """
    usable = _usable_ports()
    found: list[int] = []
    for place in itertools.islice(_PLACES, len(usable)):
        port = usable[place % len(usable)]
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


_PLACES = itertools.count(os.getpid() * 101)
"""Processes that begin one after the other look at different ports first."""


@functools.cache
def _usable_ports() -> Sequence[int]:
    """Return the ports that no outgoing connection gets, as Linux says; elsewhere as IANA does."""
    first, last = 49_152, (1 << 16) - 1
    with contextlib.suppress(OSError, ValueError):
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return [port for port in range(10_000, 1 << 16) if not first <= port <= last]


def told_error(name: str, output: bytes) -> SwarmError | None:
    """Return the error that a command told as its JSON on stdout, with the command's name; None if none."""
    try:
        told = json.loads(output)
        cls = error_classes()[told["code"]]
        return cls(
            f"{name}: {told['subject']}", found=told["found"], expected=told["expected"], remedy=told["try"]
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Service:
    """One long-running child: its name, its process and where it writes its log."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def last_words(self) -> str:
        """Return the end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " / ".join(lines[-3:])[-600:] or "nothing in its log"


class Supervisor:
    """Starts `swarm ...` commands as processes and ends every one of them when it is left.

    `root/run` records them, `root/logs` holds their logs. Their temporary files go to one folder, which is
    removed with them. With `keep` they go on after the block has ended well; `swarm down` ends them.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: bool = False,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.root, self._keep, self._tell = root, keep, tell
        self._services: list[Service] = []
        self._commands: set[asyncio.subprocess.Process] = set()
        self.scratch = Path(tempfile.mkdtemp(prefix="swarm-up-"))
        self._environment = {
            **os.environ,
            "TMPDIR": str(self.scratch),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (self._keep and error is None):
            self._tell("stopping every process")
            await self.stop()

    async def start(self, name: str, arguments: Sequence[str], *, cwd: Path | None = None) -> Service:
        """Start `python -m arguments...` as a service."""
        log = self.root / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            process = await self._spawn(arguments, cwd, stdout=sink.fileno(), stderr=sink.fileno())
        service = Service(name, process, log)
        self._services.append(service)
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended at once; whoever waits for it says why
            record_process(self.root / "run", name, process.pid, str(self.scratch) if self._keep else "")
        return service

    async def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run `python -m arguments...` to its end and return its stdout; on_line gets its stderr.

        When its exit code is not 0, raises the error that it told with --json, else a SwarmError naming it.
        """
        process = await self._spawn(
            arguments, cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        self._commands.add(process)
        said: list[str] = []

        async def listen() -> None:
            assert process.stderr is not None
            while line := await process.stderr.readline():
                said.append(line.decode(errors="replace").rstrip())
                if on_line is not None:
                    on_line(said[-1])

        try:
            assert process.stdout is not None
            output, _ = await asyncio.gather(process.stdout.read(), listen())
            code = await process.wait()
        finally:
            if process.returncode is not None:
                self._commands.discard(process)
        if code != 0:
            raise told_error(name, output) or SwarmError(
                name,
                found=f"exit code {code}: {' / '.join(said[-4:])[-800:]}",
                expected="exit code 0",
                remedy="run it again with --keep --home DIR and read DIR/logs, which then stay",
            )
        return output.decode()

    async def wait_for_port(self, service: Service, port: int, timeout_s: float = 30.0) -> None:
        """Return when the service listens; UnreachableError with its last words if it does not."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            self.check(service)
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            if asyncio.get_running_loop().time() > deadline:
                raise UnreachableError(
                    service.name,
                    found=f"no listener on port {port} after {timeout_s:g} s: {service.last_words()}",
                )
            await asyncio.sleep(0.1)

    async def wait_for_line(self, service: Service, text: str, timeout_s: float = 30.0) -> None:
        """Return when the service's log holds text; errors as in `wait_for_port`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while text not in service.log.read_text(errors="replace"):
            self.check(service)
            if asyncio.get_running_loop().time() > deadline:
                raise UnreachableError(
                    service.name, found=f"no {text!r} after {timeout_s:g} s: {service.last_words()}"
                )
            await asyncio.sleep(0.05)

    def check(self, service: Service) -> None:
        """Raise NotReadyError with the service's last words if it has ended."""
        if service.process.returncode is not None:
            raise NotReadyError(
                service.name,
                found=f"it ended with exit code {service.process.returncode}: {service.last_words()}",
                expected="a running process",
                remedy=f"read {service.log}",
            )

    async def stop(self) -> None:
        """End every process, the last started first, and remove their temporary files."""
        let_nothing_interrupt()
        await asyncio.gather(*(self._end(process) for process in list(self._commands)))
        names = [service.name for service in self._services]
        nodes = [s for s in reversed(self._services) if s.name.startswith("node-")]
        await asyncio.gather(*(self._end(service.process) for service in nodes))
        for service in reversed(self._services):
            await self._end(service.process)
        self._services.clear()
        for name in names:
            (self.root / "run" / f"{name}.process.json").unlink(missing_ok=True)
        await asyncio.to_thread(remove_tree, self.scratch)

    async def _spawn(
        self, arguments: Sequence[str], cwd: Path | None, *, stdout: int, stderr: int
    ) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", *arguments]
        return await asyncio.create_subprocess_exec(
            *(command if self._keep else command_that_ends_with_us(command)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=self._environment,
            start_new_session=True,
        )

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), TERM_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # the session it led: whatever it left
        await process.wait()
