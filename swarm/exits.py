"""Leaving a process whose work is done."""

import logging
import os
import sys
from typing import NoReturn

__all__ = ["leave_process"]


def leave_process(code: int) -> NoReturn:
    """End this process with code now, standard streams flushed.

    For the last line of a `main`, when everything that holds state is closed. gRPC's own clean-up at
    interpreter exit waits two seconds and more for peers and calls that are long gone.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            code = code or 1
    os._exit(code)
