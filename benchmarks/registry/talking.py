"""A process that obeys lines of JSON, and what the kernel says it used."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
_LEAVES_WITHIN_S = 3


class Talker:
    """`python -m MODULE ARGUMENTS` with a pipe to and from it. Its first line says what it is ready with."""

    def __init__(self, module: str, *arguments: str, path: Path | None = None) -> None:
        """`path`: a folder of more packages for it."""
        more = [] if path is None else [str(path)]
        paths = os.pathsep.join([*more, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
        )
        self.ready = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **request: object) -> dict[str, Any]:
        """Send one request and return its answer; RuntimeError where the process ended or failed."""
        self.send(**request)
        return self._answer()

    def send(self, **request: object) -> None:
        """Send one request; its answer is fetched by `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return self._answer()

    def close(self) -> None:
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:  # others' threads may hold a process for good
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def obey(acts: dict[str, Callable[..., dict[str, Any]]], **ready: object) -> None:
    """Say `ready`, then answer requests from standard input until it ends."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(acts[request.pop("do")](**request)), flush=True)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used, those that ended too (Linux)."""
    return time.clock_gettime(~pid << 3 | 2)


def forget_peak(pid: int) -> int:
    """Begin a new peak of a process's resident memory, and return what is resident now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the most that was resident since `forget_peak`, mapped files among it."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} says no {name}")
