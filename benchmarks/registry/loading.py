"""Fetched bytes into tensors of a net, beside `torch.load` of the same weights, before a page is used."""

import statistics
import time
from pathlib import Path

import torch
from torch import nn

from swarm.experts.weights import load_net, mapped_tensors, pack_net
from swarm.modules import BlobFiles


def load_figures(folder: Path, repeats: int) -> dict[str, float]:
    """Return medians over turns, all beside `torch.load` of a file in the page cache.

    `load`: blobs that this process verified before become tensors of a net, their own bytes. `first_load`:
    the same where nobody verified them yet, as in a fresh process, which hashes them first. `copied_load`: by
    `load_net`, as nodes do, which copies verified blobs into a net that has its own memory.
    """
    net = _net()
    modules, packed = pack_net(net)
    files = BlobFiles(folder / "loaded")
    for data in packed.values():
        files.open_verified(files.put(data))
    saved = folder / "net.pt"
    torch.save(net.state_dict(), saved)
    with torch.device("meta"):
        empty = _net()
    own = _net()
    ours, firsts, copies, torchs = [], [], [], []
    torch.load(saved)
    for _ in range(repeats):
        started = time.perf_counter()
        empty.load_state_dict(mapped_tensors(modules, files.open_verified), assign=True)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        fresh = BlobFiles(folder / "loaded")
        empty.load_state_dict(mapped_tensors(modules, fresh.open_verified), assign=True)
        firsts.append(time.perf_counter() - started)
        started = time.perf_counter()
        load_net(own, modules, files.open_verified)
        copies.append(time.perf_counter() - started)
        started = time.perf_counter()
        torch.load(saved)
        torchs.append(time.perf_counter() - started)
    given = torch.load(saved)
    if not all(torch.equal(value, given[name]) for name, value in empty.state_dict().items()):
        raise RuntimeError("the mapped tensors are not the saved ones")
    return {
        "load_over_torch_load": statistics.median(ours) / statistics.median(torchs),
        "first_load_over_torch_load": statistics.median(firsts) / statistics.median(torchs),
        "copied_load_over_torch_load": statistics.median(copies) / statistics.median(torchs),
        "load_ms": statistics.median(ours) * 1e3,
        "torch_load_ms": statistics.median(torchs) * 1e3,
        "load_net_mb": saved.stat().st_size / 1e6,
    }


def _net() -> nn.Module:
    return nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(4)))
