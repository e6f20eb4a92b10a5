"""Bulk work steps back: transfers, learning and solving leave the processor to answers where both want it."""

import os
from contextlib import suppress
from typing import Final

NICENESS: Final = 10
"""Who answers is at 0. Between the two the kernel shares a contended processor about as 1 to 9."""


def step_back() -> None:
    """Let this process, and what it starts from now on, run at `NICENESS` or, where it is nicer already, as
    it is. For the process of a service or a job as a whole; it cannot be undone without privileges."""
    with suppress(OSError):  # a container may forbid it
        os.nice(max(0, NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
