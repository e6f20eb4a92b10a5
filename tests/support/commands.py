"""The `swarm` command as a user runs it, and a mark by which everything that it started is found."""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

MARK = "SWARM_TEST_MARK"

TAKES_SIGNALS = (
    "import os, signal, sys; [signal.signal(each, signal.SIG_DFL) for each in (1, 2)];"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
"""As in a terminal: below a shell's `&` or `nohup`, where these tests may run, Ctrl-C or a hang-up would be
ignored. Not done in a `preexec_fn`: that forks a process in which other tests have gRPC running, and aborts
now and then."""


@dataclass(frozen=True)
class Shell:
    """Runs commands with their own mark and their own folder for temporary files."""

    scratch: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def environment(self, **more: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**plain, "PATH": tools, "TMPDIR": str(self.scratch), MARK: self.mark, **more}

    def start(
        self, *arguments: str, stderr: IO[str] | int = subprocess.PIPE, **more: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-ISc", TAKES_SIGNALS, sys.executable, "-m", "swarm.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=self.environment(**more),
            start_new_session=True,
        )

    def swarm(self, *arguments: str, timeout_s: float = 200, **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0, **more: str) -> dict[str, Any]:
        """Return what the command says with --json; it has to end with the code."""
        done = self.swarm(*arguments, "--json", **more)
        assert done.returncode == code, f"swarm {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    @contextmanager
    def until(self, said: str, *arguments: str, timeout_s: float = 120) -> "Iterator[Running]":
        """Start a command and go on when its stderr says something; the block sees how it goes on."""
        log = self.scratch.with_name(f"{self.scratch.name}.stderr")
        with log.open("w") as sink:
            process = self.start(*arguments, stderr=sink)
        deadline = time.monotonic() + timeout_s
        while said not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Running(process, log)

    def running(self) -> list[psutil.Process]:
        """Return every process that carries the mark and is no zombie."""
        found = []
        for process in psutil.process_iter():
            try:
                # Redis writes its title over its environment, but names its socket there.
                ours = process.environ().get(MARK) == self.mark or str(self.scratch) in str(process.cmdline())
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def wait_for_nothing(self, timeout_s: float = 15.0) -> list[str]:
        """Return the command lines that still run after some time for their ends."""
        deadline = time.monotonic() + timeout_s
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(process.cmdline()) for process in left]

    def kill_all(self) -> None:
        for process in self.running():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


@dataclass(frozen=True)
class Running:
    """A command under way and the file with its stderr."""

    process: subprocess.Popen[str]
    log: Path

    def end(self, timeout_s: float = 60) -> tuple[int, str]:
        """Return the exit code and everything that stderr said."""
        self.process.communicate(timeout=timeout_s)
        return self.process.returncode, self.log.read_text()


@contextmanager
def shell() -> Iterator[Shell]:
    """Give a shell and, whatever happened, leave none of its processes and files behind.

    Its folders have short names, as unix sockets lie below them; beside `scratch` is room for more.
    """
    with tempfile.TemporaryDirectory(prefix="sh-") as folder:
        made = Shell(Path(folder) / "t")
        made.scratch.mkdir()
        try:
            yield made
        finally:
            made.kill_all()
