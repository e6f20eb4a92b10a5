"""Run a command that ends when its parent does: `python -m swarm.end_with_parent PARENT COMMAND...`.

The signal is asked for here, after the start, and survives the exec. Asking between fork and exec instead
(`preexec_fn`) runs Python in a copy of a process whose threads are gone: beside gRPC it deadlocks or aborts.
Linux only; elsewhere the command just runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["command_that_ends_with_us"]

_PR_SET_PDEATHSIG = 1


def command_that_ends_with_us(command: Sequence[str]) -> list[str]:
    """Return command, wrapped so that the kernel sends it SIGTERM when the THREAD that starts it ends.

    So start it from the main thread: one of a pool would take it along.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-m", "swarm.end_with_parent", str(os.getpid()), *command]


def _main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main()
