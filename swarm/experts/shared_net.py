"""One net that many train: its weights travel as arrays by name, every node trains them on its own data.

The net is rebuilt from its reference on either side, so nothing but numbers travels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import ShapeMismatchError
from swarm.experts.inputs import best_device
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Feed, Samples
from swarm.experts.training import EVALUATION_BATCH, TrainSettings, train_expert
from swarm.experts.weights import load_tensors, state_tensors, to_arrays

Arrays = dict[str, NDArray[Any]]
_NO_PATIENCE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNet:
    """A net by its factory: raw inputs [B, *input_shape], one output for each of `classes`."""

    factory: str
    input_shape: tuple[int, ...]
    classes: int
    import_paths: tuple[str, ...] = ()

    def initial(self, seed: int) -> Arrays:
        """Return the weights of a fresh net under a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {name: array.copy() for name, array in _numbers(self._built()).items()}

    def trained(
        self, arrays: Mapping[str, NDArray[Any]], samples: Samples, settings: TrainSettings
    ) -> "Turn":
        """Train the weights by Adam for a number of steps, without early stopping; a fresh optimiser."""
        whole = replace(settings, budget_s=0.0, patience=_NO_PATIENCE, evaluate_every=settings.steps)
        losses: list[float] = []
        result = train_expert(
            self._loaded(arrays),
            samples,
            samples.at(np.empty(0, dtype=np.int64)),
            whole,
            on_progress=lambda progress: losses.append(progress.loss or 0.0),
        )
        return Turn(arrays=_numbers(result.net), loss=losses[-1], train_flops=result.train_flops)

    def scored(self, arrays: Mapping[str, NDArray[Any]], samples: Samples) -> tuple[int, float]:
        """Return how many samples the weights get right, and the sum of their losses."""
        device = best_device()
        net = self._loaded(arrays).to(device).eval()
        correct, loss = 0, 0.0
        with torch.inference_mode():
            for inputs, labels, _ in Feed(samples, device, EVALUATION_BATCH, 0):
                logits = net(inputs).float()
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        return correct, loss

    def _built(self) -> nn.Module:
        reference = net_reference(self.factory, self.input_shape, self.classes, self.import_paths)
        return build_net(reference, self.import_paths)

    def _loaded(self, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
        """Return the net with these weights; averages of whole numbers become whole numbers again."""
        with torch.random.fork_rng(devices=[]):
            net = self._built()
        own = state_tensors(net)
        tensors = {}
        for name, array in arrays.items():
            tensor = torch.from_numpy(np.array(array))
            if name in own and tensor.shape != own[name].shape:
                raise ShapeMismatchError(
                    f"weights {name}", found=str(list(array.shape)), expected=str(list(own[name].shape))
                )
            tensors[name] = tensor.to(own[name].dtype) if name in own else tensor
        load_tensors(net, tensors)
        return net


def _numbers(net: nn.Module) -> Arrays:
    """Return a net's tensors as arrays that can be averaged; bfloat16, which NumPy lacks, as float32."""
    tensors = state_tensors(net).items()
    return to_arrays({name: each.float() if each.dtype == torch.bfloat16 else each for name, each in tensors})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """What one node's training came to."""

    arrays: Arrays
    loss: float
    train_flops: int
