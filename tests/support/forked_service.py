"""`python -m tests.support.forked_service MODULE ARGUMENTS...`: what `python -m MODULE ARGUMENTS...` does, in
a forked process that has imported all; its own fork server is forked first, and so imports nothing again.
"""

import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from swarm.exits import leave_process
from swarm.forking import forks, server


class ForkedServer:
    """The fork server, as `subprocess.Popen` is one that was started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """Fork the server, then go on as the service that the command line names."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        sys.argv = [forks.SERVER_MODULE, str(theirs.detach())]
        server.main()
        leave_process(0)
    theirs.close()
    ours.setblocking(False)
    started_anew = forks.start_server

    def start_server(log: Path, environment: Mapping[str, str]) -> forks.Server:
        forks.start_server = started_anew
        return forks.Server(ForkedServer(pid), ours)  # type: ignore[arg-type]

    forks.start_server = start_server
    del sys.argv[0]
    if not hasattr(sys.modules[sys.argv[0]], "__path__"):
        del sys.modules[sys.argv[0]]  # it is run, not imported
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
