"""Computing so that it can be done again to the bit: one thread, and a name for what computed."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from swarm import __version__


@contextmanager
def one_thread() -> Iterator[None]:
    """Let matrix products of this process run in one thread meanwhile: how many share one may change its
    bits.

    The limit is the process's: others who compute meanwhile are slower, and no less right.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadpoolController().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def computed_on(device: torch.device) -> str:
    """Return what computes here: the type of device, ` | `, and the libraries with their versions.

    A CPU's type is its architecture and the instructions that torch uses, a GPU's its name.
    """
    if device.type == "cuda":
        kind = f"cuda {torch.cuda.get_device_name(device)}"
    else:
        kind = f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind} | torch {torch.__version__}, numpy {np.__version__}, swarm {__version__}"


def device_type(computed: str) -> str:
    """Return the type of device in what `computed_on` gave."""
    return computed.partition(" | ")[0]
