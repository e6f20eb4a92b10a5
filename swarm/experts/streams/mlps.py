"""Many small MLPs of one shape at once: as independent members, or as one net that averages their logits."""

import copy
import itertools
import math
from typing import Self

import torch
from torch import nn


class MlpStack(nn.Module):
    """k MLPs with ReLU over the same inputs [B, ...]: logits [k, B, classes], or over inputs [k, B, ...] of
    each member's own. Every parameter's first dimension is k.

    One product computes the first layer of all members, so that k small nets take little longer than one.
    Initialised as `nn.Linear`, from torch's global generator.
    """

    def __init__(self, inputs: int, width: int, depth: int, classes: int, members: int = 1) -> None:
        super().__init__()
        self.members = members
        sizes = [inputs, *([width] * depth), classes]
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(_uniform((members, b, a), a) for a, b in pairs)
        self.biases = nn.ParameterList(_uniform((members, 1, b), a) for a, b in pairs)

    def forward(self, inputs: torch.Tensor, own: bool = False) -> torch.Tensor:
        """own: inputs are [k, B, ...], a batch for each member."""
        values = self.hidden(inputs, own)
        return _layer(values, self.weights[-1], self.biases[-1])

    def hidden(self, inputs: torch.Tensor, own: bool = False) -> torch.Tensor:
        """Return the last hidden layer's outputs, [k, B, width]."""
        values = inputs.flatten(2) if own else inputs.flatten(1)
        for layer in range(len(self.weights) - 1):
            values = torch.relu(_layer(values, self.weights[layer], self.biases[layer]))
        return values if values.dim() == 3 else values.expand(self.members, *values.shape)

    def repeated(self, members: int) -> Self:
        """Return a stack of so many copies of this one, which has one member."""
        found = copy.deepcopy(self)
        found.members = members
        for each in found.parameters():
            each.data = each.detach().repeat(members, 1, 1)
        return found

    def zero_output(self) -> None:
        """Make every logit 0: where a correction starts."""
        with torch.no_grad():
            self.weights[-1].zero_()
            self.biases[-1].zero_()


class MeanLogits(nn.Module):
    """UMix: one net whose logits [1, B, classes] are the mean of its members' logits."""

    members = 1

    def __init__(self, stack: MlpStack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.stack(inputs).mean(0, keepdim=True)  # type: ignore[no-any-return]


def parameter_count(net: nn.Module) -> int:
    """Return how many numbers a net's parameters are."""
    return sum(weights.numel() for weights in net.parameters())


def _layer(values: torch.Tensor, weights: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """values [B, a] or [k, B, a], weights [k, b, a], biases [k, 1, b] to [k, B, b]."""
    members, outputs, size = weights.shape
    if values.dim() == 2:
        flat = nn.functional.linear(values, weights.reshape(members * outputs, size), biases.flatten())
        return flat.view(len(values), members, outputs).transpose(0, 1)
    return torch.baddbmm(biases, values, weights.transpose(1, 2))


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
