"""What an update leaves to the next one. It holds raw samples: it stays on its node, in its owner's files.

Labels are stored as columns of the memory's own class names, and found again by name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from swarm.digests import blake3
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.ids import Digest
from swarm.experts.checkpoints import replace_durably
from swarm.experts.samples import Samples

_SCHEMA = "swarm.update-memory/1"
_ABOUT = "memory"
_TENSORS = ("importance", "anchor")
_SAMPLES = ("samples", "held_out")

Array = NDArray[np.generic]
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Memory:
    """What is remembered of an expert's earlier updates; every part may be empty.

    class_names: what the columns of the net's output meant. importance and anchor: float32, by the names and
    in the shapes of the net's parameters: how much each weight matters, and where it was. samples and
    held_out: raw inputs of training and validation samples, with weights that add up to how many samples they
    stand for; their preprocessing is that of the update which uses them. seen and held_out_seen: how many
    training and validation samples there were so far; of replay, those that its samples stand for.
    """

    class_names: tuple[str, ...]
    seen: int = 0
    held_out_seen: int = 0
    importance: Weights = field(default_factory=dict)
    anchor: Weights = field(default_factory=dict)
    samples: Samples | None = None
    held_out: Samples | None = None

    def __post_init__(self) -> None:
        if min(self.seen, self.held_out_seen) < 0 or len(set(self.class_names)) != len(self.class_names):
            raise InvalidInputError(
                "update memory",
                found=f"{self.seen} samples seen, classes {', '.join(self.class_names)[:80]}",
                expected="a count, and different class names",
            )
        if {name: array.shape for name, array in self.importance.items()} != {
            name: array.shape for name, array in self.anchor.items()
        }:
            raise InvalidInputError(
                "update memory", found="importance and anchor differ", expected="the same names and shapes"
            )
        for name, array in self.arrays().items():
            if name.split("/")[0] in _TENSORS and (array.dtype != np.float32 or not np.isfinite(array).all()):
                raise InvalidInputError(
                    "update memory", found=f"{name} of {array.dtype}", expected="finite float32"
                )
        for samples in (self.samples, self.held_out):
            if samples is not None:
                samples.check_classes(len(self.class_names), "remembered")

    def arrays(self) -> dict[str, Array]:
        """Return all arrays by name: `importance/<tensor>`, `samples/inputs`, ..."""
        found: dict[str, Array] = {f"importance/{name}": array for name, array in self.importance.items()}
        found |= {f"anchor/{name}": array for name, array in self.anchor.items()}
        for part, samples in zip(_SAMPLES, (self.samples, self.held_out), strict=True):
            if samples is not None:
                found |= {f"{part}/{name}": array for name, array in samples.arrays().items()}
        return found

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    def digest(self) -> Digest:
        """Return a digest of everything that is remembered."""
        hasher = blake3(_about(self).encode())
        for name, array in self.arrays().items():
            hasher.update(f"{name}{array.dtype}{list(array.shape)}".encode())
            hasher.update(np.ascontiguousarray(array).tobytes())
        return Digest(hasher.hexdigest())

    def recalled(self, class_names: Sequence[str]) -> "Memory":
        """Return this memory with labels as columns of class_names. Samples of classes that are not among
        them are left out, and `seen` falls by what they stood for; importance and anchor stay as they are.
        """
        samples, seen = _renamed(self.samples, self.seen, self.class_names, class_names)
        held_out, held_out_seen = _renamed(self.held_out, self.held_out_seen, self.class_names, class_names)
        return replace(
            self,
            class_names=tuple(class_names),
            seen=seen,
            held_out_seen=held_out_seen,
            samples=samples,
            held_out=held_out,
        )


def total_weight(samples: Samples) -> float:
    """Return how many samples these stand for."""
    return float(len(samples)) if samples.weights is None else float(samples.weights.sum(dtype=np.float64))


def joined(first: Samples | None, second: Samples) -> Samples:
    """Return first's samples, then second's, with second's preprocessing; samples without weights weigh 1."""
    weights = np.ones(len(second), np.float32) if second.weights is None else second.weights
    if first is None or not len(first):
        return replace(second, weights=weights)
    if first.input_shape != second.input_shape:
        raise InvalidInputError(
            "remembered samples",
            found=f"inputs {list(first.input_shape)}",
            expected=f"{list(second.input_shape)}, as the new samples have",
            remedy="remove the expert's memory file and train again",
        )
    before = np.ones(len(first), np.float32) if first.weights is None else first.weights
    return replace(
        second,
        inputs=np.concatenate([first.inputs, second.inputs]),
        labels=np.concatenate([first.labels, second.labels]),
        weights=np.concatenate([before, weights]),
    )


def write_memory(path: Path, memory: Memory) -> None:
    """Replace path by memory: one safetensors file, whole or the old one, readable by its owner alone."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in memory.arrays().items()}
    replace_durably(path, save(contiguous, {"schema": _SCHEMA, _ABOUT: _about(memory)}))


def read_memory(path: Path, tell: Callable[[str], None] = lambda message: None) -> Memory | None:
    """Return the memory at path; None where there is none, or (tell says why) where it cannot be used."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("schema") != _SCHEMA:
                raise ValueError(f"schema {metadata.get('schema')}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return _memory_of(json.loads(metadata[_ABOUT]), arrays)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, SwarmError, LookupError, TypeError, ValueError) as error:
        fault = InvalidInputError(
            f"update memory {path.name}",
            found=f"a file that cannot be used ({error})",
            expected=f"{_SCHEMA}",
            remedy="this update goes on without it, and what it learned before is not protected",
        )
        tell(str(fault))
        return None


def _about(memory: Memory) -> str:
    return json.dumps(
        {
            "class_names": list(memory.class_names),
            "seen": memory.seen,
            "held_out_seen": memory.held_out_seen,
        }
    )


def _memory_of(about: Mapping[str, object], arrays: Mapping[str, Array]) -> Memory:
    groups: dict[str, dict[str, Array]] = {group: {} for group in (*_TENSORS, *_SAMPLES)}
    for name, array in arrays.items():
        group, _, member = name.partition("/")
        groups[group][member] = array
    samples, held_out = (Samples(**groups[part]) if groups[part] else None for part in _SAMPLES)  # type: ignore[arg-type]
    return Memory(
        class_names=tuple(str(name) for name in about["class_names"]),  # type: ignore[attr-defined]
        seen=int(str(about["seen"])),
        held_out_seen=int(str(about["held_out_seen"])),
        importance=groups["importance"],  # type: ignore[arg-type]
        anchor=groups["anchor"],  # type: ignore[arg-type]
        samples=samples,
        held_out=held_out,
    )


def _renamed(
    samples: Samples | None, seen: int, old: Sequence[str], new: Sequence[str]
) -> tuple[Samples | None, int]:
    """Return the samples whose classes are among new, and how many of the seen ones they stand for."""
    if samples is None:
        return None, seen
    column = {name: index for index, name in enumerate(new)}
    labels = np.array([column.get(name, -1) for name in old], dtype=np.int64)[samples.labels]
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        return None, 0
    found = replace(samples.at(kept), labels=labels[kept])
    return found, round(seen * total_weight(found) / total_weight(samples))
