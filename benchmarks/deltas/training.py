"""A parent trained on real data, and children that were trained on from it, gently and less gently."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.data.sources import load_training

_BATCH = 128
_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a child is trained on: the optimiser and how many steps it takes."""

    optimiser: Callable[[nn.Module], torch.optim.Optimizer]
    steps: int


def recipes(steps: int) -> dict[str, Recipe]:
    """Return the children by name; `steps`: what the parent takes."""
    return {
        "sgd-short": Recipe(lambda net: torch.optim.SGD(net.parameters(), lr=1e-3), steps // 4),
        "sgd": Recipe(lambda net: torch.optim.SGD(net.parameters(), lr=1e-2), steps),
        "adam-gentle": Recipe(lambda net: torch.optim.Adam(net.parameters(), lr=1e-5), steps // 4),
        "adam": Recipe(lambda net: torch.optim.Adam(net.parameters(), lr=1e-3), steps),
    }


def family(source: str, steps: int, seed: int) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return a parent and its children by the names of `recipes`."""
    torch.manual_seed(seed)
    data = load_training(source)
    inputs = torch.from_numpy(np.asarray(data.inputs, np.float32).reshape(len(data.inputs), -1))
    inputs = inputs / inputs.abs().max()
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    parent = nn.Sequential(
        nn.Linear(inputs.shape[1], _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(),
        nn.Linear(_WIDTH, int(labels.max()) + 1),
    )  # fmt: skip
    _train(parent, inputs, labels, Recipe(lambda net: torch.optim.Adam(net.parameters(), lr=1e-3), steps))
    children = {}
    for name, recipe in recipes(steps).items():
        children[name] = copy.deepcopy(parent)
        _train(children[name], inputs, labels, recipe)
    return parent, children


def weights(net: nn.Module, dtype: torch.dtype) -> list[NDArray[np.uint8]]:
    """Return the bytes of each weight matrix in that precision."""
    found = (value.detach().to(dtype).contiguous() for value in net.parameters() if value.ndim > 1)
    return [value.reshape(-1).view(torch.uint8).numpy() for value in found]


def _train(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> None:
    optimiser = recipe.optimiser(net)
    for _ in range(recipe.steps):
        rows = torch.randint(len(inputs), (_BATCH,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
        optimiser.step()
