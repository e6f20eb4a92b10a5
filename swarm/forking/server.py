"""The fork server: `python -m swarm.forking.server SOCKET_FD`, from which a process's children are forked.

It imports once the modules that they need, torch above all, which takes a fresh process seconds. It touches
no accelerator and runs no thread of its own (those that OpenBLAS starts at its import end before each fork,
by OpenBLAS's own handlers), so a child is forked whole. `swarm.forking.forks` is the other side.

An order is one packet on the socket, JSON `{"module": ..., "arguments": [...], "needs": [MODULE...]}`, with
four descriptors: the child's standard input, output and error, and a socket of its own. On this the server
says `started PID`, with a pidfd of the child, or `cannot`; at the child's end `ended STATUS` (negative for a
signal). A child whose socket is closed is killed. Where an import fails, what is there of it may be unfit for
every child: the server takes no more orders, closes the orders' sockets, and ends with its last child; so it
does where its parent closes the socket of orders. Linux only.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from swarm.exits import leave_process

ORDER_BYTES, STREAMS = 1 << 16, 3
CANNOT = b"cannot"
_MORE_EXPENDABLE = 100
"""Where memory runs out a child is ended before the server, with which all children would end."""
_PR_SET_PDEATHSIG, _PR_SET_NAME, _NAME_BYTES = 1, 15, 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A child to fork: what it runs, its three standard streams, and the socket on which it is told of."""

    module: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    streams: tuple[int, ...]
    told: socket.socket

    @classmethod
    def read(cls, packet: bytes, descriptors: Sequence[int]) -> "Order | None":
        """Return the order of a packet; None, and its descriptors closed, where it is none."""
        try:
            said = json.loads(packet)
            *streams, told = descriptors
            if len(streams) != STREAMS:
                raise ValueError(f"{len(descriptors)} descriptors")
            return cls(
                module=said["module"],
                arguments=tuple(said["arguments"]),
                needs=tuple(said["needs"]),
                streams=tuple(streams),
                told=socket.socket(fileno=told),
            )
        except (ValueError, LookupError, TypeError, OSError):
            traceback.print_exc()
            for descriptor in descriptors:
                os.close(descriptor)
            return None

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for this child any more."""
        poll = select.poll()
        poll.register(self.told, select.POLLIN)
        return bool(poll.poll(0))

    def drop(self) -> None:
        """Close its descriptors."""
        for descriptor in self.streams:
            os.close(descriptor)
        self.told.close()


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
        """Fork until no more orders come and the last child has ended, and return None; in a child, return
        its order."""
        while self._ends or self._parent.fileno() >= 0:
            # One at a time: what the first does can be the end of a descriptor of the others. Orders last.
            ready = [key for key, _ in self._selector.select()]
            key = next((each for each in ready if each.fileobj is not self._parent), ready[0])
            if key.fd in self._ends:
                self._ended(key.fd)
            elif key.fileobj is not self._parent:
                self._let_go(key)
            elif (order := self._received()) is not None and not self._forked(order):
                return order
        return None

    def _received(self) -> Order | None:
        """Return an order; None where it was none."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                self._parent, ORDER_BYTES, STREAMS + 1, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self._take_no_more()
            return None
        return Order.read(packet, descriptors)

    def _take_no_more(self) -> None:
        self._selector.unregister(self._parent)
        self._parent.close()

    def _forked(self, order: Order) -> int:
        """Return the new child's process id, -1 where there is none; 0 in the child, which keeps nothing of
        the server's."""
        if not _provided(order.needs):
            order.drop()
            self._take_no_more()
            return -1
        if order.is_given_up:
            order.drop()
            return -1
        try:
            pid = os.fork()
            if not pid:
                self._leave_to_child(order)
                return 0
            ends = _pidfd(pid)
        except OSError as error:  # no room for a process: the parent hears of it and tries otherwise
            print(f"cannot fork: {error}", file=sys.stderr, flush=True)
            _say(order.told, CANNOT)
            order.drop()
            return -1
        for descriptor in order.streams:
            os.close(descriptor)
        self._ends[ends] = pid, order.told
        self._selector.register(ends, selectors.EVENT_READ)
        self._selector.register(order.told, selectors.EVENT_READ, pid)
        _say(order.told, f"started {pid}".encode(), ends)
        return pid

    def _leave_to_child(self, order: Order) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        order.told.close()

    def _ended(self, ends: int) -> None:
        pid, told = self._ends.pop(ends)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._selector.unregister(ends)
        os.close(ends)
        if told.fileno() >= 0:
            self._selector.unregister(told)
            _say(told, f"ended {status}".encode())
            told.close()

    def _let_go(self, key: selectors.SelectorKey) -> None:
        """Kill a child whose parent let go of it."""
        os.kill(key.data, signal.SIGKILL)
        self._selector.unregister(key.fileobj)
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()


def _pidfd(pid: int) -> int:
    """Return a pidfd of a child; a child of which there can be none is ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _provided(modules: Sequence[str]) -> bool:
    """Import what is not there yet; return whether all is."""
    missing = [module for module in modules if module not in sys.modules]
    try:
        for module in missing:
            importlib.import_module(module)
    except Exception:  # whatever an import raises
        traceback.print_exc()
        return False
    if missing:
        gc.freeze()  # what is imported stays shared
    return True


def _say(told: socket.socket, packet: bytes, *descriptors: int) -> None:
    with suppress(OSError):  # the parent let go of this child
        socket.send_fds(told, [packet], descriptors)


def _run(order: Order, server: int) -> NoReturn:
    """Go on as `python -m MODULE ARGUMENTS...` on the order's streams."""
    for place, descriptor in enumerate(order.streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with(server)
    name = order.module.rpartition(".")[2].encode()[:_NAME_BYTES]
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)
    _become_expendable()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # a fresh process has a seed of its own too
    sys.argv = [order.module, *order.arguments]
    sys.modules.pop(order.module, None)
    sys.modules["__main__"] = ModuleType("__main__")
    before = set(sys.modules)
    try:
        runpy._run_module_as_main(order.module)  # type: ignore[attr-defined]  # what `python -m` calls
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        _leave(end.code or 0, before)
    _leave(0, before)


def _end_with(server: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before we could ask
        os._exit(1)


def _become_expendable() -> None:
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        score.write_text(str(min(1000, int(score.read_text()) + _MORE_EXPENDABLE)))


def _leave(code: int, before: set[str]) -> NoReturn:
    """End as the interpreter would, but keep the modules of before: what is shared would be copied for it."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does
    atexit._run_exitfuncs()
    for module in [sys.modules[name] for name in {*sys.modules} - before] + [sys.modules["__main__"]]:
        if isinstance(module, ModuleType):
            vars(module).clear()  # closes and flushes what was left open
    gc.collect()
    ctypes.CDLL(None).fflush(None)
    leave_process(code)


def main() -> None:
    """Serve the parent on the socket that the command line names; end with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What ends a whole group of processes is for the parent, which ends its children in order.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    server = os.getpid()
    order = ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve()
    if order is not None:
        _run(order, server)


if __name__ == "__main__":
    main()
