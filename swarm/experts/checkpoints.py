"""A training run on disk: one safetensors file, written beside and renamed, so it is whole or not there."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from swarm.digests import blake3
from swarm.domain.ids import Digest

_SCHEMA = "swarm.checkpoint/1"
_STATE = "state"
_GROUPS = ("net", "best", "optimiser", "update", "best_update")

TensorGroups = dict[str, dict[str, torch.Tensor]]


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """Where a run is. `fingerprint` names net, data and settings: a checkpoint of another run is not used.

    `evaluated` counts validation samples that went through the net; `stale` the evaluations since the best.
    """

    fingerprint: Digest
    step: int = 0
    samples_seen: int = 0
    evaluated: int = 0
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0
    elapsed_s: float = 0.0
    finished: bool = False


def write_checkpoint(
    path: Path, state: Checkpoint, tensors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Save state and groups of tensors (`net`, `best`, `optimiser`, `update`, `best_update`) durably."""
    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, members in tensors.items()
        for name, tensor in members.items()
    }
    replace_durably(path, save(flat, {"schema": _SCHEMA, _STATE: json.dumps(asdict(state))}))


def replace_durably(path: Path, data: bytes) -> None:
    """Let path hold data, or what it held before, whatever happens; only its owner may read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, fingerprint: Digest) -> tuple[Checkpoint, TensorGroups] | None:
    """Return the checkpoint at path; None if there is none, it is damaged, or it is another run's."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("schema") != _SCHEMA:
                return None
            state = Checkpoint(**json.loads(metadata[_STATE]))
            if state.fingerprint != fingerprint:
                return None
            groups: TensorGroups = {group: {} for group in _GROUPS}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                group, _, member = name.partition("/")
                groups[group][member] = file.get_tensor(name)
            return state, groups
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def run_fingerprint(
    description: str, arrays: Mapping[str, NDArray[np.generic]], tensors: Mapping[str, torch.Tensor]
) -> Digest:
    """Return a digest of a run's description, data and initial weights."""
    hasher = blake3(description.encode())
    for name, array in arrays.items():
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    for name, tensor in tensors.items():
        hasher.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
    return Digest(hasher.hexdigest())
