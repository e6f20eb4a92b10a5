"""A load that costs little: unary gRPC calls, all with the same bytes, by one thread over one connection.

gRPC's own client takes a tenth of a millisecond and more for a call, which a server on the same cores then
lacks. Here a request is one write of frames that are the same but for their stream's number, and of replies
only the frames' heads are read (RFC 9113): a message came, the call ended without one, or the stream was
reset. What was sent and when an answer came is counted, not what it says.
"""

import select
import socket
import ssl
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MOST_WINDOW = (1 << 31) - 1
_FRAME = 16_384
_FIRST_WINDOW = 65_535
_TICK_S = 0.002
"""Calls that are due are sent together so often."""
_READ = 1 << 18


@dataclass(slots=True)
class Tally:
    """What became of the calls of one stretch of time; `latencies` in seconds, of those answered in time."""

    asking_s: float = 0.0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """How many were answered in time, a second until the last answer."""
        return self.outcomes["OK"] / max(self.seconds, self.asking_s)


@dataclass(slots=True)
class _Call:
    began: float
    window: int
    sent: int = 0
    has_message: bool = False


class LightCalls:
    """Calls one method with one message, again and again. `port` on loopback; `name` is the server's in its
    certificate; `folder` has `ca.pem`, `certificate.pem` and `key.pem`; a call takes `deadline_s` at most."""

    def __init__(
        self, port: int, name: str, folder: Path, path: str, message: bytes, deadline_s: float
    ) -> None:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname=name)
        self._socket.setblocking(False)
        self._body = b"\0" + struct.pack(">I", len(message)) + message
        self._head = _header_block(name, path, deadline_s)
        self._deadline_s = deadline_s
        self._stream, self._window, self._stream_window = 1, _FIRST_WINDOW, _FIRST_WINDOW
        self._calls: dict[int, _Call] = {}
        self._unsent: deque[int] = deque()
        """Streams whose message has not gone out whole."""
        self._out, self._in = bytearray(), bytearray()
        self._tally, self._began = Tally(), 0.0
        self._out += _PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, _MOST_WINDOW))
        self._out += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MOST_WINDOW - _FIRST_WINDOW))

    def __enter__(self) -> "LightCalls":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def closed(self, callers: int, seconds: float) -> Tally:
        """Let so many callers call one after the other, each again once it has heard."""
        return self._run(lambda now: callers - len(self._calls) if now < seconds else 0, seconds)

    def opened(self, due: Iterator[float], seconds: float) -> Tally:
        """Call at these moments (seconds from now, rising), whatever becomes of earlier ones."""
        following = next(due)

        def count(now: float) -> int:
            nonlocal following
            found = 0
            while following <= min(now, seconds):
                found, following = found + 1, next(due)
            return found

        return self._run(count, seconds)

    def _run(self, due: Callable[[float], int], seconds: float) -> Tally:
        tally = self._tally = Tally()
        began = self._began = time.perf_counter()
        while True:
            now = time.perf_counter()
            if now - began >= seconds and not tally.asking_s:
                tally.asking_s = now - began
            for _ in range(due(now - began)):
                self._call(now)
            self._fill()
            self._write()
            if tally.asking_s and not self._calls:
                return tally
            if now - began > seconds + 2 * self._deadline_s:
                tally.outcomes["never ended"] += len(self._calls)
                self._calls.clear()
                return tally
            select.select([self._socket], [self._socket] if self._out else [], [], _TICK_S)
            self._read()
            time.sleep(max(0.0, now + _TICK_S - time.perf_counter()))

    def _call(self, now: float) -> None:
        self._calls[self._stream] = _Call(now, self._stream_window)
        self._out += _frame(_HEADERS, _END_HEADERS, self._stream, self._head)
        self._unsent.append(self._stream)
        self._stream += 2

    def _fill(self) -> None:
        """Put as much of the messages out as the windows let."""
        waiting: deque[int] = deque()
        while self._unsent and self._window > 0:
            stream = self._unsent.popleft()
            call = self._calls.get(stream)
            if call is None:
                continue
            while (left := len(self._body) - call.sent) and self._window > 0 and call.window > 0:
                size = min(left, self._window, call.window, _FRAME)
                piece = self._body[call.sent : call.sent + size]
                self._out += _frame(_DATA, _END_STREAM if size == left else 0, stream, piece)
                call.sent, call.window, self._window = (
                    call.sent + size,
                    call.window - size,
                    self._window - size,
                )
            if left:
                waiting.append(stream)
        self._unsent.extendleft(reversed(waiting))

    def _write(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self._out[:sent]

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_READ)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                raise ConnectionError("the server closed the connection")
            self._in += data
        at, now = 0, time.perf_counter()
        while len(self._in) - at >= 9:
            size = int.from_bytes(self._in[at : at + 3], "big")
            if len(self._in) - at < 9 + size:
                break
            kind, flags = self._in[at + 3], self._in[at + 4]
            stream = int.from_bytes(self._in[at + 5 : at + 9], "big")
            self._frame(
                kind, flags, stream, bytes(self._in[at + 9 : at + 9 + size]) if kind > _HEADERS else b"", now
            )
            at += 9 + size
        del self._in[:at]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        call = self._calls.get(stream)
        if kind == _DATA and call is not None:
            call.has_message = True
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM and call is not None:
            self._ended(stream, call, "OK" if call.has_message else "refused", now)
        elif kind == _RST_STREAM and call is not None:
            self._ended(stream, call, "reset", now)
        elif kind == _SETTINGS and not flags & _ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == _INITIAL_WINDOW:
                    self._stream_window = value
            self._out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _WINDOW_UPDATE and call is not None:
            call.window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server says goodbye: {payload[8:].decode(errors='replace')}")

    def _ended(self, stream: int, call: _Call, how: str, now: float) -> None:
        del self._calls[stream]
        took = now - call.began
        if how == "OK" and took > self._deadline_s:
            how = "late"
        self._tally.outcomes[how] += 1
        if how == "OK":
            self._tally.latencies.append(took)
            self._tally.seconds = now - self._began


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _header_block(name: str, path: str, deadline_s: float) -> bytes:
    """Return a call's headers, each as a literal that nobody has to remember (RFC 7541, 6.2.2)."""
    method_post, scheme_https, authority, at_path = b"\x83", b"\x87", b"\x01", b"\x04"
    literals = (
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{round(deadline_s * 1000)}m"),
    )
    return (
        method_post
        + scheme_https
        + (at_path + _text(path))
        + (authority + _text(name))
        + b"".join(b"\0" + _text(key) + _text(value) for key, value in literals)
    )


def _text(text: str) -> bytes:
    assert len(text) < 127, "longer ones have another form"
    return bytes((len(text),)) + text.encode()
