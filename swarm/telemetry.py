"""What a process says about itself: events as JSON lines on stderr, and the bytes on its TCP sockets.

Bytes are read from the kernel (`TCP_INFO`), so TLS, framing and retries by the application are in them,
and a library that forgets to count cannot hide any.
"""

import contextlib
import logging
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TextIO

import structlog
from structlog.typing import Processor

from swarm.domain.inference import SocketBytes

__all__ = ["SocketMeter", "configure_logging", "log_as_library"]

SAMPLE_SECONDS = 0.1
_ACKED_AND_RECEIVED = struct.Struct("=QQ")
_OFFSET = 120  # of tcpi_bytes_acked in struct tcp_info; tcpi_bytes_received follows it


def configure_logging(
    process: str, *, level: str = "info", json_lines: bool = True, stream: TextIO | None = None
) -> None:
    """Send structlog's events to stream (stderr): one JSON object a line, or aligned text for people.

    Every line carries `process`. Standard-library loggers (grpc, uvicorn) speak from `warning` up.
    """
    target = stream if stream is not None else sys.stderr
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(level=logging.WARNING, stream=target, format="%(name)s: %(message)s", force=True)
    render: Processor = (
        structlog.processors.JSONRenderer(sort_keys=True)
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=target.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def log_as_library() -> None:
    """Hand structlog's events to Python's `logging` (loggers `swarm...`), where the program that uses this
    package has not configured structlog: a library writes nothing to its user's output unasked, warnings
    neither."""
    ours = logging.getLogger("swarm")
    if not ours.handlers:
        ours.addHandler(logging.NullHandler())
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class SocketMeter:
    """Counts the bytes that this process sent and received on TCP sockets since `start`.

    A thread samples every open TCP socket ten times a second, and once more whenever `totals` is read;
    what a socket had counted before it closed stays counted. Loopback counts, unix sockets do not, nor do
    connections to the ports in exclude_peer_ports (Redis). Linux only: elsewhere the totals stay 0.
    """

    def __init__(self, exclude_peer_ports: Iterable[int] = ()) -> None:
        self._excluded = frozenset(exclude_peer_ports)
        self._by_inode: dict[int, tuple[int, int]] = {}
        self._closed = (0, 0)
        self._not_ours: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to sample; a second call changes nothing."""
        if self._thread is None and sys.platform == "linux":
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="socket-meter", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take the last sample and end the thread; the totals stay readable."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._sample()

    def totals(self) -> SocketBytes:
        """Return the bytes sent (acknowledged by the peer's kernel) and received so far."""
        if self._thread is not None:
            self._sample()
        with self._lock:
            counts = [self._closed, *self._by_inode.values()]
        return SocketBytes(sent=sum(c[0] for c in counts), received=sum(c[1] for c in counts))

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            try:
                entries = os.listdir("/proc/self/fd")
            except OSError:  # no more files may be open: what was counted stays, the next sample goes on
                return
            open_inodes: set[int] = set()
            for entry in entries:
                with contextlib.suppress(OSError):  # closed since the folder was read
                    self._read(int(entry), open_inodes)
            self._not_ours &= open_inodes
            for inode in self._by_inode.keys() - open_inodes:
                sent, received = self._by_inode.pop(inode)
                self._closed = (self._closed[0] + sent, self._closed[1] + received)

    def _read(self, fd: int, open_inodes: set[int]) -> None:
        facts = os.fstat(fd)
        if not stat.S_ISSOCK(facts.st_mode):
            return
        open_inodes.add(facts.st_ino)
        if facts.st_ino in self._not_ours:
            return
        with socket.socket(fileno=os.dup(fd)) as sock:
            inode = os.fstat(sock.fileno()).st_ino
            open_inodes.add(inode)
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                self._not_ours.add(inode)
                return
            if inode not in self._by_inode:
                try:
                    peer_port = int(sock.getpeername()[1])
                except OSError:  # listening, or not connected yet: look again at the next sample
                    return
                if peer_port in self._excluded:
                    self._not_ours.add(inode)
                    return
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) >= _OFFSET + _ACKED_AND_RECEIVED.size:
                sent, received = _ACKED_AND_RECEIVED.unpack_from(info, _OFFSET)
                before = self._by_inode.get(inode, (0, 0))
                self._by_inode[inode] = (max(sent, before[0]), max(received, before[1]))
