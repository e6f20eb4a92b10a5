"""`python -m benchmarks.chaos_registry.coordinator_side HOME REDIS_URL REGISTRY JOIN_PORT PORT [FAULT]`.

The real coordinator. FAULT is as in SWARM_FAULT_POINT, for a process that is forked from one without it.

Its fork server is forked from it before it begins, with all that is imported: a start of its own would import
torch anew for each coordinator that is killed.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from coordinator.app import CoordinatorConfig, serve
from swarm.config import SwarmHome
from swarm.fault_points import aim
from swarm.forking import server
from swarm.forking.forks import Forks, Server


class ForkedServer:
    """A fork server that was forked: what `Forks` asks of the process that it starts otherwise."""

    def __init__(self, orders: socket.socket, theirs: socket.socket) -> None:
        self.pid = os.fork()
        if not self.pid:
            orders.close()
            _serve_forks(theirs)
        theirs.close()
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def _serve_forks(orders: socket.socket) -> NoReturn:
    sys.argv = [server.__name__, str(orders.detach())]
    server.main()  # does not return in a child that it forks
    os._exit(0)


def main(home: str, redis_url: str, registry: str, join_port: str, port: str, fault: str = "") -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    forks = Forks.of_this_process = Forks(Path(home).with_name("fork_server.log"), {})
    forks._server = Server(ForkedServer(ours, theirs), ours)  # type: ignore[arg-type]
    aim(fault)
    config = CoordinatorConfig(
        home=SwarmHome(Path(home)),
        redis_url=redis_url,
        registry=registry,
        join_port=int(join_port),
        port=int(port),
        http_listen="",
    )
    asyncio.run(serve(config, lambda at: print("ready", at.join_port, at.port, flush=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
