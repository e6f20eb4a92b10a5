"""Child processes that cannot outlive their agent, and one that is started again when it crashes.

A child dies with its parent in two ways: Linux kills it (PDEATHSIG), and everywhere the end of its
standard input tells it to go. What a child says comes as JSON lines on its standard output. An agent's are
forked from a process that has imported what they need (`swarm.forking`).
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

from swarm.forking.forks import LINE_LIMIT, Forked, Forks

NEEDS = {
    "node.learner": ("node.learning", "node.growth.working"),
    "node.stream.intake": ("node.stream.intake",),
    "node.stream.feeder": ("node.stream.feeder",),
    "node.expert_server": ("node.expert_server",),
    "node.blob_sender": ("node.blob_sender",),
}
"""What takes each kind of child long to import."""
_PR_SET_PDEATHSIG = 1
_log = structlog.get_logger(__name__)


def die_with_parent() -> None:
    """Make this process end when its parent does. A child's main calls it first.

    The end of standard input ends the process as SIGTERM would; a child that ignores it for 5 s is killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_stdin, name="end-with-parent", daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    timer = threading.Timer(5.0, os._exit, args=(1,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


class Child:
    """One running child process: what it says, how it ended, and the way to end it."""

    def __init__(self, process: asyncio.subprocess.Process | Forked, name: str, log: Path) -> None:
        self._process, self._name, self._log = process, name, log

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], *, log: Path) -> Self:
        """Start `python -m module arguments...`, forked where this process forks (`swarm.forking`); its
        standard error is appended to log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process: asyncio.subprocess.Process | Forked | None = None
        with log.open("ab") as errors:
            if (prepared := Forks.of_this_process) is not None:
                needs = NEEDS.get(module, ())
                process = await prepared.fork(module, arguments, needs=needs, errors=errors.fileno())
            if process is None:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    *arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=LINE_LIMIT,
                )
        _log.info("child.started", module=module, pid=process.pid)
        return cls(process, module, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the child says until it closes its output; text that is not JSON is logged."""
        stream = self._process.stdout
        if stream is None:
            return
        while line := await stream.readline():
            try:
                said = json.loads(line)
            except ValueError:
                _log.info("child.said", module=self._name, text=line.decode(errors="replace").strip()[:500])
                continue
            if isinstance(said, dict):
                yield said

    async def wait(self) -> int:
        """Return the exit status, negative for a signal."""
        return await self._process.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the child: close its input, then SIGKILL after grace_s."""
        if self._process.returncode is not None:
            return
        if isinstance(self._process, Forked):
            self._process.close_input()
        elif self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def last_words(self, limit: int = 400) -> str:
        """Return the last line of the child's log, for an error message."""
        if not self._log.exists():
            return ""
        lines = self._log.read_bytes()[-8192:].decode(errors="replace").strip().splitlines()
        return lines[-1][-limit:] if lines else ""


class KeptChild:
    """A child that is started again whenever it ends, sooner at first and more slowly if it keeps dying."""

    def __init__(
        self,
        module: str,
        arguments: Callable[[], Sequence[str]],
        *,
        log: Path,
        on_line: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        steady_s: float = 30.0,
    ) -> None:
        self._module, self._arguments, self._log = module, arguments, log
        self._on_line, self._on_end, self._steady_s = on_line, on_end, steady_s
        self.child: Child | None = None

    async def run(self) -> None:
        """Keep the child running until this task is cancelled; then end it."""
        delay = 0.2
        loop = asyncio.get_running_loop()
        try:
            while True:
                started = loop.time()
                self.child = await Child.start(self._module, self._arguments(), log=self._log)
                async for said in self.child.lines():
                    self._on_line(said)
                status = await self.child.wait()
                words = self.child.last_words()
                self.child = None
                self._on_end()
                _log.warning("child.ended", module=self._module, status=status, last_words=words)
                delay = 0.2 if loop.time() - started > self._steady_s else min(delay * 2, 15.0)
                await asyncio.sleep(delay)
        finally:
            if self.child is not None:
                await self.child.stop()
                self.child = None
