"""The processes that a home runs: each is recorded in a file, so that `swarm down` can end exactly those.

A record names a process by id AND start time: an id that the system gave to another process is left alone.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from swarm.config import home_flag
from swarm.domain.errors import ConflictError

STOP_SECONDS = 12.0
_NEEDED = ("coordinator", "registry", "redis")
"""Each needs those after it; started together, their order of start says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One running process: what it is, and which."""

    name: str
    pid: int
    started: float
    scratch: str = ""

    def process(self) -> psutil.Process | None:
        """Return the process if it still is the one that was recorded."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def record_process(run: Path, name: str, pid: int, scratch: str = "") -> Path:
    """Write down a process; scratch is a temporary folder to remove when it has ended."""
    run.mkdir(parents=True, exist_ok=True)
    record = ProcessRecord(name=name, pid=pid, started=psutil.Process(pid).create_time(), scratch=scratch)
    path = run / f"{name}.process.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(path)
    return path


@contextlib.contextmanager
def recorded(run: Path, name: str) -> Iterator[None]:
    """Record this process for the time of the block; ConflictError where one of the name runs already."""
    for _, other in recorded_processes(run):
        if other.name == name and other.pid != os.getpid() and other.process():
            raise ConflictError(
                f"{name} of {run.parent}",
                found=f"process {other.pid}, which runs from this folder already",
                expected="one for each home",
                remedy=f"use that one, or stop it: swarm down {home_flag(run.parent)}",
            )
    path = record_process(run, name, os.getpid())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def note_ports(run: Path, service: str, flags: Mapping[str, int]) -> None:
    """Write down the ports, by their flags, that a service listens on, for commands of the same home.

    Where they cannot be written, nothing is, and the settings count.
    """
    with contextlib.suppress(OSError):
        said = json.dumps({flag: port for flag, port in flags.items() if port})
        (run / f"{service}.ports.json").write_text(said)


def noted_ports(run: Path, service: str) -> dict[str, int]:
    """Return the ports that a service noted when it ran last; none where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((run / f"{service}.ports.json").read_text())
        return {str(flag): int(port) for flag, port in found.items()}
    return {}


def listens_on(run: Path, service: str) -> int:
    """Return the gRPC port of a service that runs from this home, 0 where that is not known."""
    runs = any(each.name == service and each.process() for _, each in recorded_processes(run))
    return noted_ports(run, service).get("--port", 0) if runs else 0


def recorded_processes(run: Path) -> list[tuple[Path, ProcessRecord]]:
    """Return the records of a run folder in the order in which they are to stop: those that others need come
    last, else the last started first. Unreadable files are skipped."""
    found = []
    for path in run.glob("*.process.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append((path, ProcessRecord(**json.loads(path.read_text()))))

    def order(pair: tuple[Path, ProcessRecord]) -> tuple[int, float, int]:
        path, record = pair
        needed = _NEEDED.index(record.name) + 1 if record.name in _NEEDED else 0
        # The system counts starts in hundredths of a second; the time of the record settles a tie.
        return needed, -record.started, -path.stat().st_mtime_ns

    return sorted(found, key=order)


def stop_recorded(run: Path) -> list[str]:
    """End every recorded process in that order, and return their names.

    SIGTERM lets each clean up; after `STOP_SECONDS` it and its children are killed.
    """
    stopped = []
    for path, record in recorded_processes(run):
        process = record.process()
        if process is not None:
            _stop(process)
            stopped.append(record.name)
        if record.scratch:
            remove_tree(Path(record.scratch))
        path.unlink(missing_ok=True)
    return stopped


def _stop(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = process.children(recursive=True)
        process.terminate()
        _wait_for_ends([process], STOP_SECONDS)
        left = _wait_for_ends([process, *family], 1.0)
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        _wait_for_ends(left, STOP_SECONDS)


def _wait_for_ends(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Return those that still run after timeout_s. A zombie has ended, though its parent may never look."""
    deadline = time.monotonic() + timeout_s
    while (alive := [each for each in processes if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def remove_tree(folder: Path) -> None:
    """Remove a folder that processes may still be leaving, for up to two seconds."""
    import shutil

    deadline = time.monotonic() + 2.0
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)
