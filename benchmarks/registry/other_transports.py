"""`python -m benchmarks.registry.other_transports NAME serve SIZE|receive ADDRESS`: those of others.

`torchft`: its HTTP checkpoint transport; `nvflare`: its tensor downloader over cells. Both send tensors of
4 MiB over plain connections without TLS, signatures or digests; what is received is held in memory.
"""

import json
import socket
import sys
import time
import types
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.registry.talking import MIB, obey

_TENSOR_BYTES = 4 * MIB
_LONGEST = timedelta(minutes=10)


def tensors(size_bytes: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (_TENSOR_BYTES // 4,)
    return {f"t{at}": torch.rand(shape, generator=generator) for at in range(size_bytes // _TENSOR_BYTES)}


def torchft(role: str, told: str) -> None:
    _without_its_front_page("torchft")
    from torchft.checkpointing.http_transport import HTTPTransport

    transport = HTTPTransport(_LONGEST, num_chunks=0)
    if role == "serve":
        transport.send_checkpoint([0], 1, tensors(int(told)), _LONGEST)
        obey({}, address=transport.metadata().replace(socket.gethostname(), "localhost"))
    else:
        obey({"receive": _timed(lambda: transport.recv_checkpoint(0, told, 1, _LONGEST))})
    transport.shutdown()


def nvflare(role: str, told: str) -> None:
    from nvflare.app_opt.pt.tensor_downloader import add_tensors, download_tensors
    from nvflare.fuel.f3.cellnet.cell import Cell
    from nvflare.fuel.f3.streaming.obj_downloader import ObjectDownloader

    seconds = _LONGEST.total_seconds()
    if role == "serve":
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        cell = Cell("server", url, False, {})
        cell.start()
        downloader = ObjectDownloader(cell, timeout=3600.0, num_receivers=0)
        obey({}, address=json.dumps([url, add_tensors(downloader, tensors(int(told)))]))
    else:
        url, reference = json.loads(told)
        cell = Cell("site-1", url, False, {})
        cell.start()

        def receive() -> Any:
            error, found = download_tensors("server", reference, seconds, cell)
            if error or not found:
                raise RuntimeError(f"nvflare says: {error}")
            return found

        obey({"receive": _timed(receive)})
    cell.stop()


def _timed(receive: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    def act() -> dict[str, Any]:
        started = time.perf_counter()
        found = receive()
        wall_s = time.perf_counter() - started
        return {"wall_s": wall_s, "bytes": sum(each.nbytes for each in found.values())}

    return act


def _without_its_front_page(package: str) -> None:
    """Let a package's modules be imported without its `__init__`, which wants much that is not used here."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise RuntimeError(f"no package {package}")
    bare = types.ModuleType(package)
    bare.__path__ = [str(Path(found.origin).parent)]
    sys.modules[package] = bare


if __name__ == "__main__":
    {"torchft": torchft, "nvflare": nvflare}[sys.argv[1]](*sys.argv[2:])
