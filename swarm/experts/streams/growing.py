"""Learners that grow: a net more at each stage (gEns), an expert more in each layer (gMoE).

Source: Caccia et al. 2022, section 4.2 and appendix A; trees of gates: Fritsch et al. 1996.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.domain.streams import Flops
from swarm.experts.flops import forward_flops
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.streams.fitting import FitSettings, Prepared, fit
from swarm.experts.streams.fixed import mean_probabilities, stack_of_mlps
from swarm.experts.streams.mlps import MlpStack, parameter_count

Criterion = Literal["loss", "usage"]


class GrowingEnsembleLearner:
    """gEns: each stage trains one new net on its samples; the nets before it are frozen, all answer alike."""

    def __init__(
        self, input_shape: Sequence[int], width: int, classes: int, settings: FitSettings, *, seed: int
    ) -> None:
        self._shape, self._width, self._classes = tuple(input_shape), width, classes
        self._settings, self._seed = settings, seed
        self.nets: list[MlpStack] = []
        self._scale, self._offset = 1.0, 0.0
        self._seen: NDArray[np.generic] | None = None
        self._sum = np.zeros((0, classes), dtype=np.float32)
        self._summed = 0

    @property
    def parameters(self) -> int:
        return sum(map(parameter_count, self.nets))

    def learn(self, train: Samples, validation: Samples) -> Flops:
        self._scale, self._offset = train.scale, train.offset
        seed = derived_seed(self._seed, "stage", len(self.nets))
        net = stack_of_mlps(self._shape, self._width, self._classes, members=1, seed=seed)
        self.nets.append(net)
        return fit(net, train, validation, self._settings, seed=seed)

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """As `StreamLearner`; what the frozen nets said of the last inputs is kept, not computed again."""
        if self._seen is not inputs:
            self._seen, self._summed = inputs, 0
            self._sum = np.zeros((len(inputs), self._classes), dtype=np.float32)
        for net in self.nets[self._summed :]:
            self._sum += mean_probabilities(net, inputs, self._scale, self._offset)
        self._summed = len(self.nets)
        found: NDArray[np.float32] = self._sum / np.float32(self._summed)
        return found


class GatedLayer(nn.Module):
    """sum_j g_j(x) relu(W_j x + b_j): experts of one layer under a tree of binary gates over its input.

    An inner node is g = sigmoid(v x + c) for its left and 1 - g for its right child; a leaf's weight g_j is
    the product along its path. The tree is `left` and `right` [experts, gates], 1 where a leaf's path goes
    so.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        first = nn.Linear(inputs, width)
        self.weights = nn.Parameter(first.weight.detach()[None].clone())
        self.biases = nn.Parameter(first.bias.detach()[None].clone())
        self.gate_weights = nn.Parameter(torch.zeros(0, inputs))
        self.gate_biases = nn.Parameter(torch.zeros(0))
        self.register_buffer("left", torch.zeros(1, 0))
        self.register_buffer("right", torch.zeros(1, 0))

    @property
    def experts(self) -> int:
        return len(self.weights)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return [B, width] for inputs [B, inputs]."""
        experts, width, size = self.weights.shape
        flat = nn.functional.linear(
            inputs, self.weights.reshape(experts * width, size), self.biases.flatten()
        )
        outputs = torch.relu(flat).view(len(inputs), experts, width)
        if experts == 1:
            return outputs[:, 0]
        return torch.bmm(self.shares(inputs).unsqueeze(1), outputs).squeeze(1)

    def shares(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the leaves' weights [B, experts]; rows sum to 1."""
        gates = nn.functional.linear(inputs, self.gate_weights, self.gate_biases)
        log_shares = (
            nn.functional.logsigmoid(gates) @ self.left.T + nn.functional.logsigmoid(-gates) @ self.right.T
        )
        return torch.exp(log_shares)

    def split(self, expert: int) -> None:
        """Make a leaf an inner node over itself and an exact copy; the new gate is drawn at random."""
        if not 0 <= expert < self.experts:
            raise InvalidInputError("expert to split", found=str(expert), expected=f"0..{self.experts - 1}")
        inputs = self.weights.shape[2]
        bound = 1 / math.sqrt(inputs)
        with torch.no_grad():
            new_gate = torch.empty(1, inputs).uniform_(-bound, bound)
            self.weights = nn.Parameter(torch.cat([self.weights, self.weights[expert : expert + 1]]))
            self.biases = nn.Parameter(torch.cat([self.biases, self.biases[expert : expert + 1]]))
            self.gate_weights = nn.Parameter(torch.cat([self.gate_weights, new_gate]))
            self.gate_biases = nn.Parameter(torch.cat([self.gate_biases, torch.zeros(1)]))
            self.left = _grown(self.left, expert, old=1.0, new=0.0)
            self.right = _grown(self.right, expert, old=0.0, new=1.0)

    left: torch.Tensor
    right: torch.Tensor


def _grown(path: torch.Tensor, expert: int, *, old: float, new: float) -> torch.Tensor:
    """Return path [n, n - 1] with a leaf more, on the expert's path, and a gate more, theirs alone."""
    column = torch.zeros(len(path) + 1, 1)
    column[expert], column[-1] = old, new
    return torch.cat([torch.cat([path, path[expert : expert + 1]]), column], 1)


class GatedMlp(nn.Module):
    """Two gated layers and a head: logits [1, B, classes]."""

    members = 1

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GatedLayer(inputs, width), GatedLayer(width, width)])
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = inputs.flatten(1)
        for layer in self.layers:
            values = layer(values)
        return self.head(values).unsqueeze(0)  # type: ignore[no-any-return]

    def losing_experts(self, data: Prepared, criterion: Criterion) -> list[int]:
        """Return each layer's expert with the largest sum of losses routed to it, or the most used one.

        A sample counts for an expert by its share. The paper sums losses, its released code usage.
        """
        found = []
        with torch.no_grad():
            values = data.inputs.flatten(1)
            losses = nn.functional.cross_entropy(self(values)[0], data.labels, reduction="none")
            worth = losses if criterion == "loss" else torch.ones_like(losses)
            for layer in self.layers:
                assert isinstance(layer, GatedLayer)
                found.append(int((worth @ layer.shares(values)).argmax()))
                values = layer(values)
        return found


class GrowingMixtureLearner:
    """gMoE: every `grow_every` stages, not at the first, each layer's losing expert is split; all train.

    split_loss_changes are the absolute changes of mean validation loss by each growth, measured at once:
    0 but for rounding, as children are copies and g + (1 - g) = 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        width: int,
        classes: int,
        settings: FitSettings,
        *,
        seed: int,
        grow_every: int = 1,
        criterion: Criterion = "loss",
    ) -> None:
        if grow_every < 1:
            raise InvalidInputError("growth", found=f"every {grow_every} stages", expected="1 or more")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights", 1))
            self.net = GatedMlp(math.prod(input_shape), width, classes)
        self._settings, self._seed = settings, seed
        self._grow_every, self._criterion = grow_every, criterion
        self._stage = 0
        self._scale, self._offset = 1.0, 0.0
        self.split_loss_changes: list[float] = []

    @property
    def parameters(self) -> int:
        return parameter_count(self.net) if self._stage else 0

    def learn(self, train: Samples, validation: Samples) -> Flops:
        self._scale, self._offset = train.scale, train.offset
        seed = derived_seed(self._seed, "stage", self._stage)
        grown = 0
        if self._stage and self._stage % self._grow_every == 0:
            grown = self._grow(validation, seed)
        self._stage += 1
        spent = fit(self.net, train, validation, self._settings, seed=seed)
        return Flops(forward=spent.forward + grown, total=spent.total + grown)

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        return mean_probabilities(self.net, inputs, self._scale, self._offset)

    def _grow(self, validation: Samples, seed: int) -> int:
        """Split each layer's losing expert; return the FLOPs of finding them."""
        held = Prepared(validation)
        flops = forward_flops(self.net, validation.input_shape) * len(validation)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            before = float(held.losses(self.net, slice(None)))
            losing = self.net.losing_experts(held, self._criterion)
            for layer, expert in zip(self.net.layers, losing, strict=True):
                assert isinstance(layer, GatedLayer)
                layer.split(expert)
            after = float(held.losses(self.net, slice(None)))
        self.split_loss_changes.append(abs(after - before))
        return flops
