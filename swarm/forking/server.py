"""The fork server: `python -m swarm.forking.server SOCKET_FD`, from which a process's children are forked.

It imports once the modules that they need, torch above all, which takes a fresh process seconds. It touches
no accelerator and runs no thread of its own (those that OpenBLAS starts at its import end before each fork,
by OpenBLAS's own handlers), so a child is forked whole. `swarm.forking.forks` is the other side.

An order is one packet on the socket, JSON `{"module": ..., "arguments": [...], "needs": [MODULE...]}`, with
four descriptors: the child's standard input, output and error, and a socket of its own, on which the server
says `started PID` and at the child's end `ended STATUS` (negative for a signal). The child is killed where
this socket says `kill` or is closed. Linux only.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from swarm.exits import leave_process

ORDER_BYTES, STREAMS = 1 << 16, 3
KILL = b"kill\n"
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A child to fork: what it runs, its three standard streams, and the socket on which it is told of."""

    module: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    streams: tuple[int, ...]
    told: socket.socket


class ForkServer:
    """Forks a child for each order of its parent, and says how each ended."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        # A poll has no descriptor that children would share, as an epoll has.
        self._selector = selectors.PollSelector()
        self._selector.register(parent, selectors.EVENT_READ)
        self._ends: dict[int, tuple[int, socket.socket]] = {}
        """By the descriptor that is readable when a child has ended: its process, and its socket."""

    def serve(self) -> Order | None:
        """Fork until the parent goes, and return None; in a child, return its order."""
        while True:
            # One at a time: what the first does can be the end of a descriptor of the others.
            key, _ = self._selector.select()[0]
            if key.fileobj is self._parent:
                order = self._received()
                if order is not None:
                    _provide(order.needs)
                if order is None or not self._forked(order):
                    return order
            elif key.fd in self._ends:
                self._ended(key.fd)
            else:
                self._heard(key)

    def _received(self) -> Order | None:
        """Return an order; None where the parent has gone."""
        packet, descriptors, _, _ = socket.recv_fds(
            self._parent, ORDER_BYTES, STREAMS + 1, socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return None
        said = json.loads(packet)
        *streams, told = descriptors
        return Order(
            module=said["module"],
            arguments=tuple(said["arguments"]),
            needs=tuple(said["needs"]),
            streams=tuple(streams),
            told=socket.socket(fileno=told),
        )

    def _forked(self, order: Order) -> int:
        """Return the new child's process id; 0 in the child, which keeps nothing of the server's."""
        try:
            pid = os.fork()
        except OSError as error:  # no room for a process: the parent hears of it and tries otherwise
            print(f"cannot fork: {error}", file=sys.stderr, flush=True)
            pid = -1
        if not pid:
            for key in list(self._selector.get_map().values()):
                _close(key.fileobj)
            self._selector.close()
            order.told.close()
            return 0
        for descriptor in order.streams:
            os.close(descriptor)
        if pid < 0:
            order.told.close()
            return pid
        ends = os.pidfd_open(pid)
        self._ends[ends] = pid, order.told
        self._selector.register(ends, selectors.EVENT_READ)
        self._selector.register(order.told, selectors.EVENT_READ, pid)
        _say(order.told, f"started {pid}")
        return pid

    def _ended(self, ends: int) -> None:
        pid, told = self._ends.pop(ends)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._selector.unregister(ends)
        os.close(ends)
        if told.fileno() >= 0:
            self._selector.unregister(told)
            _say(told, f"ended {status}")
            told.close()

    def _heard(self, key: selectors.SelectorKey) -> None:
        """Kill a child whose parent says so, or lets go of it."""
        told = key.fileobj
        assert isinstance(told, socket.socket)
        try:
            said = told.recv(64)
        except OSError:
            said = b""
        os.kill(key.data, signal.SIGKILL)
        if not said:
            self._selector.unregister(told)
            told.close()


def _provide(modules: Iterable[str]) -> None:
    """Import what is not there yet."""
    missing = [module for module in modules if module not in sys.modules]
    for module in missing:
        try:
            importlib.import_module(module)
        except Exception:  # the child says it again, to whom it concerns
            traceback.print_exc()
    if missing:
        gc.freeze()  # what is imported stays shared


def _say(told: socket.socket, line: str) -> None:
    with suppress(OSError):  # the parent let go of this child
        told.sendall(f"{line}\n".encode())


def _close(descriptor: object) -> None:
    if isinstance(descriptor, socket.socket):
        descriptor.close()
    elif isinstance(descriptor, int):
        os.close(descriptor)


def _run(order: Order, server: int) -> None:
    """Go on as `python -m MODULE ARGUMENTS...` on the order's streams."""
    for place, descriptor in enumerate(order.streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with(server)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, order.module.encode()[-15:], 0, 0, 0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # a fresh process has a seed of its own too
    sys.argv = [order.module, *order.arguments]
    sys.modules.pop(order.module, None)
    try:
        runpy.run_module(order.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        _leave(end.code or 0)
    _leave(0)


def _end_with(server: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before we could ask
        os._exit(1)


def _leave(code: int) -> NoReturn:
    """End as the interpreter would, but for clearing all modules: what is shared would be copied for it."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does
    atexit._run_exitfuncs()
    leave_process(code)


def main() -> None:
    """Serve the parent on the socket that the command line names; end with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What ends a whole group of processes is for the parent, which ends its children in order.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    server = os.getpid()
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        order = ForkServer(parent).serve()
    if order is not None:
        _run(order, server)


if __name__ == "__main__":
    main()
