"""Finding the agent of a home: its run file, its lock, and starting one where none runs."""

import fcntl
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from node.durable import write_json
from swarm.config import NodeHome, home_flag
from swarm.domain.errors import ConflictError, DeadlineError, NotReadyError
from swarm.trust.identity import Identity

_RUN_FILE = "agent.json"
_LOCK_FILE = "agent.lock"
_LOG_FILE = "agent.log"
_SOCKETS = re.compile(r"swarm-[a-z0-9_]{8}")
"""Names of sockets' folders, as tempfile makes them; other folders of a swarm have a further hyphen."""
_CONTROL, _EXPERTS = "agent.sock", "experts.sock"


class AgentSeat:
    """The place of the one agent of a home: a locked file, and a folder (0700) with a short path for sockets.

    The lock ends with its process however that dies, so a run file that was left behind deceives nobody.
    """

    def __init__(self, home: NodeHome, lock: IO[bytes], sockets: Path) -> None:
        self._home, self._lock, self.sockets = home, lock, sockets
        self._sockets_lock = os.open(sockets, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # where folders cannot be locked, a sweep cannot either, and removes nothing
            fcntl.flock(self._sockets_lock, fcntl.LOCK_EX)

    @property
    def control_socket(self) -> Path:
        return self.sockets / _CONTROL

    @property
    def expert_socket(self) -> Path:
        return self.sockets / _EXPERTS

    @classmethod
    def take(cls, home: NodeHome) -> Self:
        """Take the seat; ConflictError, naming the other agent's process, where it is taken."""
        home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (home.run / _LOCK_FILE).open("ab")
        if not _locked_exclusively(lock):
            lock.close()
            found = _read_run_file(home)
            raise ConflictError(
                f"home {home.root}",
                found=f"an agent that runs already (process {found.get('pid', 'unknown')})",
                expected="one agent for each home",
                remedy=f"use that one, or stop it: swarm down {home_flag(home.root)}",
            )
        sweep_sockets(Path(tempfile.gettempdir()))
        return cls(home, lock, Path(tempfile.mkdtemp(prefix="swarm-")))

    def announce(self, now: float) -> None:
        """Write where the agent listens."""
        record = {"pid": os.getpid(), "socket": str(self.control_socket), "started_at": now}
        write_json(self._home.run / _RUN_FILE, record)

    def leave(self) -> None:
        """Give the seat back; nothing stays behind."""
        (self._home.run / _RUN_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.sockets, ignore_errors=True)
        os.close(self._sockets_lock)
        self._lock.close()


def agent_socket(home: NodeHome) -> Path | None:
    """Return the running agent's control socket, None if none answers."""
    path = _read_run_file(home).get("socket", "")
    if not path or not _is_locked(home):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
            # A server speaks first (HTTP/2 settings); the socket of an agent that is dying only takes calls.
            speaks = bool(probe.recv(1))
        except OSError:
            return None
    return Path(path) if speaks else None


def ensure_agent(home: NodeHome, timeout_s: float = 60.0) -> Path:
    """Return the control socket of this home's agent, starting it (detached) if it does not run.

    Blocks: an event loop calls it in a thread. Raises NotReadyError with the agent's last words if it ends
    at once, DeadlineError if it does not answer within timeout_s.
    """
    if (running := agent_socket(home)) is not None:
        return running
    Identity.load(home.identity)
    home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = home.run / _LOG_FILE
    with log.open("ab") as output:
        agent = subprocess.Popen(
            [sys.executable, "-m", "node.app", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (running := agent_socket(home)) is not None:
            return running
        try:
            agent.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise NotReadyError(
            f"agent of {home.root}",
            found=f"it ended with status {agent.returncode}: {last_line(log)}",
            expected="a running agent",
            remedy=f"read {log}, or run it in the foreground: swarm node {home_flag(home.root)}",
        )
    raise DeadlineError(
        f"agent of {home.root}", found=f"no answer within {timeout_s:g} s", remedy=f"read {log}"
    )


def await_end(home: NodeHome, timeout_s: float = 30.0) -> bool:
    """Return, once no agent has the seat of this home any more, True; False if one has it after timeout_s.

    Who told an agent to end waits here: until then its learner and its expert server may still be ending,
    and its folder is not free. Blocks: an event loop calls it in a thread.
    """
    deadline = time.monotonic() + timeout_s
    while _is_locked(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def last_line(log: Path, limit: int = 600) -> str:
    """Return the last line of a log file."""
    if not log.exists():
        return "no log"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][-limit:] if lines else "an empty log"


def _locked_exclusively(lock: IO[bytes]) -> bool:
    """Lock, or return False; a command that looks whether an agent runs holds the lock for a moment."""
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _is_locked(home: NodeHome) -> bool:
    try:
        with (home.run / _LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read_run_file(home: NodeHome) -> dict[str, str]:
    try:
        found = json.loads((home.run / _RUN_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def sweep_sockets(among: Path) -> None:
    """Remove the sockets' folders that this user's agents left there when they were killed.

    Only what is certain to be one: by its name, its owner and what is in it, locked by nobody, with a control
    socket that refuses calls. A starting agent has locked its folder before there is a socket to refuse.
    """
    for folder in among.glob("swarm-*"):
        if _SOCKETS.fullmatch(folder.name):
            with suppress(OSError):  # somebody else's, in use, or gone meanwhile
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = set(os.listdir(handle))
        ours = os.fstat(handle).st_uid == os.getuid() and names <= {_CONTROL, _EXPERTS}
        if ours and _CONTROL in names and _refuses(folder / _CONTROL):
            for name in names:
                os.unlink(name, dir_fd=handle)
            folder.rmdir()
    finally:
        os.close(handle)


def _refuses(path: Path) -> bool:
    """Say whether path is a socket at which nobody listens any more."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
