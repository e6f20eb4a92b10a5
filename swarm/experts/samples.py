"""Raw samples on their way into training: seeded batches that depend on the step alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.experts.inputs import as_tensor, check_inputs, moved, preprocessed

RESIDENT_SHARE = 0.25
"""Data that need at most this share of a GPU's free memory are moved there once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Raw inputs uint8 or float32 [N, *shape], labels int64 [N] as columns of the net's output, and the
    preprocessing: a net sees float32 `raw * scale + offset`. N may be 0.

    `base_logits` float32 [N, classes] are added to the net's logits before they are judged. `weights` float32
    [N], above 0, say how much each sample counts in losses and accuracies; None: all alike.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    scale: float = 1.0
    offset: float = 0.0
    base_logits: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_inputs(self.inputs, self.inputs.shape[1:])
        if self.labels.shape != (len(self.inputs),) or self.labels.dtype != np.int64:
            raise ShapeMismatchError(
                "labels",
                found=f"{self.labels.dtype} {list(self.labels.shape)}",
                expected=f"int64 [{len(self.inputs)}], one for each input",
            )
        self._check_weights()
        base = self.base_logits
        if base is None:
            return
        if base.dtype != np.float32 or base.ndim != 2 or len(base) != len(self.inputs):
            raise ShapeMismatchError(
                "base logits",
                found=f"{base.dtype} {list(base.shape)}",
                expected=f"float32 [{len(self.inputs)}, classes], a row for each input",
            )
        if not np.isfinite(base).all():
            raise InvalidInputError("base logits", found="a value that is not finite")

    def _check_weights(self) -> None:
        weights = self.weights
        if weights is None:
            return
        if weights.dtype != np.float32 or weights.shape != (len(self.inputs),):
            raise ShapeMismatchError(
                "sample weights",
                found=f"{weights.dtype} {list(weights.shape)}",
                expected=f"float32 [{len(self.inputs)}], one for each input",
            )
        if not (np.isfinite(weights) & (weights > 0)).all():
            raise InvalidInputError("sample weights", found="one that is not", expected="finite, above 0")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return all arrays by name."""
        found = {
            "inputs": self.inputs,
            "labels": self.labels,
            "base_logits": self.base_logits,
            "weights": self.weights,
        }
        return {name: array for name, array in found.items() if array is not None}

    def at(self, rows: NDArray[np.int64]) -> "Samples":
        """Return the samples at rows."""
        return replace(self, **{name: array[rows] for name, array in self.arrays().items()})  # type: ignore[arg-type]

    def few(self, count: int, seed: int) -> "Samples":
        """Return at most count samples, drawn by seed."""
        if len(self) <= count:
            return self
        drawn = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.at(np.sort(drawn).astype(np.int64))

    def check_classes(self, classes: int, what: str) -> None:
        """Raise InvalidInputError unless every label is a column of a net with this many classes, and
        ShapeMismatchError unless base logits have as many columns."""
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise InvalidInputError(
                f"{what} labels",
                found=f"{int(self.labels.min())} to {int(self.labels.max())}",
                expected=f"0 to {classes - 1}, the net's outputs",
            )
        if self.base_logits is not None and self.base_logits.shape[1] != classes:
            raise ShapeMismatchError(
                f"{what} base logits", found=f"{self.base_logits.shape[1]} columns", expected=str(classes)
            )


class Batch(NamedTuple):
    """Preprocessed inputs float32 [b, *shape], labels [b] and, where the samples have some, base logits
    float32 [b, classes], on one device."""

    inputs: torch.Tensor
    labels: torch.Tensor
    base: torch.Tensor | None

    def judged(self, logits: torch.Tensor) -> torch.Tensor:
        """Return what the loss looks at: logits in float32, on top of the base."""
        return logits.float() if self.base is None else logits.float() + self.base

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the (weighted) mean cross entropy of logits [b, classes], on top of the base."""
        return nn.functional.cross_entropy(self.judged(logits), self.labels)

    def totals(self, logits: torch.Tensor) -> tuple[float, float, float]:
        """Return what right answers weigh, the (weighted) sum of losses, and what all samples weigh."""
        judged = self.judged(logits)
        loss = nn.functional.cross_entropy(judged, self.labels, reduction="sum")
        return float((judged.argmax(1) == self.labels).sum()), float(loss), float(len(self.labels))


class WeightedBatch(Batch):
    """A batch whose samples count differently: weights float32 [b]."""

    weights: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, weights: torch.Tensor) -> "WeightedBatch":
        found = cls(*batch)
        found.weights = weights
        return found

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        return (self._losses(logits) * self.weights).sum() / self.weights.sum()

    def totals(self, logits: torch.Tensor) -> tuple[float, float, float]:
        right = self.judged(logits).argmax(1) == self.labels
        loss = (self._losses(logits) * self.weights).sum()
        return float(self.weights[right].sum()), float(loss), float(self.weights.sum())

    def _losses(self, logits: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.judged(logits), self.labels, reduction="none")


class Feed:
    """Batches of samples on a device."""

    def __init__(self, samples: Samples, device: torch.device, batch: int, seed: int) -> None:
        self.samples = samples
        self._device, self._seed = device, seed
        self._batch = max(1, min(batch, len(samples)))
        arrays = samples.arrays()
        self._tensors = {name: as_tensor(array) for name, array in arrays.items()}
        if device.type == "cuda" and _fits(sum(array.nbytes for array in arrays.values()), device):
            self._tensors = {name: moved(tensor, device) for name, tensor in self._tensors.items()}
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step: full batches, a new order for every pass over the samples."""
        epoch, position = divmod(step, len(self.samples) // self._batch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self._seed, "epoch", epoch))
            order = torch.randperm(len(self.samples), generator=generator)
            self._order, self._epoch = order.to(self._tensors["labels"].device), epoch
        return self._at(self._order[position * self._batch : (position + 1) * self._batch])

    def __iter__(self) -> Iterator[Batch]:
        """Yield all samples once, in order."""
        for start in range(0, len(self.samples), self._batch):
            yield self._at(slice(start, start + self._batch))

    def _at(self, rows: torch.Tensor | slice) -> Batch:
        parts = {name: tensor[rows] for name, tensor in self._tensors.items()}
        parts = {
            name: part if part.device == self._device else moved(part, self._device)
            for name, part in parts.items()
        }
        batch = Batch(
            inputs=preprocessed(parts["inputs"], self.samples.scale, self.samples.offset),
            labels=parts["labels"],
            base=parts.get("base_logits"),
        )
        return WeightedBatch.of(batch, parts["weights"]) if "weights" in parts else batch


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """Return a seed of 63 bits for one purpose, so that streams of random numbers do not overlap."""
    return int.from_bytes(blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest(), "big") >> 1


def _fits(size_bytes: int, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return size_bytes <= RESIDENT_SHARE * free
