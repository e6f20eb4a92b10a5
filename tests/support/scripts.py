"""Shell scripts of deploy/, run by sh with stubs in place of the programs that they call."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


class Stubs:
    """A folder of programs that a script finds before the machine's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._sh = "/bin/sh"
        self._started: list[subprocess.Popen[str]] = []
        self.add("python", f'exec "{sys.executable}" "$@"')

    def add(self, name: str, body: str) -> None:
        """Make a program of lines of sh; `sh` is the one that runs the scripts."""
        path = self._folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        if name == "sh":
            self._sh = str(path)

    def start(self, script: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a script of deploy/ in a session of its own; `end` ends it, if it did not end before."""
        process = subprocess.Popen(
            [self._sh, str(DEPLOY / script), *arguments],
            env={"PATH": f"{self._folder}{os.pathsep}{os.environ['PATH']}", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a script of deploy/ to its end."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def end(self) -> None:
        """Kill what was started and what that left behind."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextmanager
def stubs(folder: Path) -> Iterator[Stubs]:
    """Programs in a new folder, and an end of all that was started when the block is left."""
    made = Stubs(folder)
    try:
        yield made
    finally:
        made.end()
