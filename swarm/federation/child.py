"""The parent's end of a federated child process: started, spoken to in frames, ended with its parent."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import structlog

from swarm.end_with_parent import command_that_ends_with_us
from swarm.federation.frames import Frame, frame, receive_frame
from swarm.forking.forks import Forked, Forks

FLOWER_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
)
"""What a process that imports Flower is to have in its environment, so that it calls nobody."""
NEEDS = ("torch", "scipy.linalg", "flwr.app", "flwr.serverapp", "swarm.federation.apps")
"""What takes these children long to import."""
_log = structlog.get_logger(__name__)


class FrameChild:
    """One child: `send` frames to it, `receive` frames from it until None, `stop` it.

    It ends when its standard input does, and on Linux the kernel ends it with its parent in any case.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process | Forked,
        stdin: asyncio.StreamWriter | None,
        module: str,
        log: Path,
    ) -> None:
        self._process, self._stdin, self._module, self._log = process, stdin, module, log
        self._writing = asyncio.Lock()

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], log: Path) -> Self:
        """Start `python -m module arguments...`, forked where this process forks (`swarm.forking`) with
        FLOWER_ENVIRONMENT; its standard error is appended to log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            if (prepared := Forks.of_this_process) is not None and prepared.provides(FLOWER_ENVIRONMENT):
                forked = await prepared.fork(module, arguments, needs=NEEDS, errors=errors.fileno())
                if forked is not None:
                    _log.info("child.started", module=module, pid=forked.pid)
                    return cls(forked, await forked.writer(), module, log)
            process = await asyncio.create_subprocess_exec(
                *command_that_ends_with_us([sys.executable, "-m", module, *arguments]),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **FLOWER_ENVIRONMENT},
            )
        _log.info("child.started", module=module, pid=process.pid)
        return cls(process, process.stdin, module, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Hand one frame to the child; it is lost where the child has ended."""
        pipe = self._stdin
        if pipe is None:
            return
        async with self._writing:
            with suppress(ConnectionError, RuntimeError):
                pipe.write(frame(header, payload))
                await pipe.drain()

    async def receive(self) -> Frame | None:
        """Return the child's next frame, None when it has closed its output."""
        return None if self._process.stdout is None else await receive_frame(self._process.stdout)

    async def stop(self, grace_s: float = 2.0) -> int:
        """End the child, by SIGKILL after grace_s; return its exit status."""
        if self._process.returncode is None:
            if self._stdin is not None:
                self._stdin.close()
            try:
                return await asyncio.wait_for(self._process.wait(), grace_s)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
        return await self._process.wait()

    def last_words(self, limit: int = 400) -> str:
        """Return the last line of the child's log."""
        if not self._log.exists():
            return ""
        lines = self._log.read_bytes()[-8192:].decode(errors="replace").strip().splitlines()
        return lines[-1][-limit:] if lines else ""
