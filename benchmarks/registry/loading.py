"""Fetched bytes into tensors of a net, beside `torch.load` of the same weights, before a page is used."""

import statistics
import time
from pathlib import Path

import torch
from torch import nn

from swarm.experts.weights import mapped_tensors, pack_net
from swarm.modules import BlobFiles


def load_figures(folder: Path, repeats: int) -> dict[str, float]:
    """Return medians over turns: blobs that this process verified before, and a file in the page cache."""
    net = _net()
    modules, packed = pack_net(net)
    files = BlobFiles(folder / "loaded")
    for data in packed.values():
        files.open_verified(files.put(data))
    saved = folder / "net.pt"
    torch.save(net.state_dict(), saved)
    with torch.device("meta"):
        empty = _net()
    ours, torchs = [], []
    torch.load(saved)
    for _ in range(repeats):
        started = time.perf_counter()
        empty.load_state_dict(mapped_tensors(modules, files.open_verified), assign=True)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        torch.load(saved)
        torchs.append(time.perf_counter() - started)
    given = torch.load(saved)
    if not all(torch.equal(value, given[name]) for name, value in empty.state_dict().items()):
        raise RuntimeError("the mapped tensors are not the saved ones")
    return {
        "load_over_torch_load": statistics.median(ours) / statistics.median(torchs),
        "load_ms": statistics.median(ours) * 1e3,
        "torch_load_ms": statistics.median(torchs) * 1e3,
        "load_net_mb": saved.stat().st_size / 1e6,
    }


def _net() -> nn.Module:
    return nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(4)))
