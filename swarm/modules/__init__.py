"""Weights as tensors, tensors as blobs, blobs as content-addressed files."""

from swarm.modules.blobs import BlobFiles, BlobWriter
from swarm.modules.packing import (
    check_module,
    module_digest,
    pack_arrays,
    pack_module,
    pack_single,
    unpack,
)

__all__ = [
    "BlobFiles",
    "BlobWriter",
    "check_module",
    "module_digest",
    "pack_arrays",
    "pack_module",
    "pack_single",
    "unpack",
]
