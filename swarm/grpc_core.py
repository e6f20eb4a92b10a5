"""How much gRPC's C core says on standard error. It reads its setting once, when it is imported."""

import importlib
import os
import sys
from typing import Literal

__all__ = ["import_grpc"]

_SETTING = "GRPC_VERBOSITY"


def import_grpc(says: Literal["NONE", "INFO"]) -> None:
    """Import gRPC with a core that says nothing beside the errors that are raised, or (INFO) also why a
    handshake failed, which it tells nobody else.

    Changes nothing where gRPC is imported already, or the environment has GRPC_VERBOSITY.
    """
    if "grpc" in sys.modules or _SETTING in os.environ:
        return
    os.environ[_SETTING] = says
    try:
        importlib.import_module("grpc")
    finally:
        del os.environ[_SETTING]  # a child decides for itself
