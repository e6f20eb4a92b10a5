"""Learners whose size stays: one model (SM), an ensemble (Ens), a uniform mixture (UMix).

Each stage goes on from the weights of the last one. Source: Caccia et al. 2022, section 4.1.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.domain.streams import Flops
from swarm.experts.inputs import as_tensor, preprocessed
from swarm.experts.samples import Samples, derived_seed
from swarm.experts.streams.fitting import FitSettings, MemberNet, fit
from swarm.experts.streams.mlps import MeanLogits, MlpStack, parameter_count

DEPTH = 2
"""Hidden layers, as in the paper's MNIST."""
_ROWS = 2048


def stack_of_mlps(
    input_shape: Sequence[int], width: int, classes: int, *, members: int, seed: int
) -> MlpStack:
    """Return `members` fresh MLPs of two hidden layers, initialised by seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights", members))
        return MlpStack(math.prod(input_shape), width, DEPTH, classes, members)


def mean_probabilities(
    net: MemberNet, inputs: NDArray[np.generic], scale: float, offset: float
) -> NDArray[np.float32]:
    """Return the members' mean class probabilities for raw inputs [N, *shape], float32 [N, classes]."""
    return _means(lambda part: torch.softmax(net(part), 2), inputs, scale, offset)


def mean_logits(
    net: MemberNet, inputs: NDArray[np.generic], scale: float, offset: float
) -> NDArray[np.float32]:
    """Return the mean of the members' logits for raw inputs [N, *shape], float32 [N, classes]."""
    return _means(net, inputs, scale, offset)


def _means(
    answers: Callable[[torch.Tensor], torch.Tensor],
    inputs: NDArray[np.generic],
    scale: float,
    offset: float,
) -> NDArray[np.float32]:
    found = []
    with torch.inference_mode():
        for start in range(0, len(inputs), _ROWS):
            part = preprocessed(as_tensor(inputs[start : start + _ROWS]), scale, offset)
            found.append(answers(part).mean(0))
    means: NDArray[np.float32] = torch.cat(found).numpy()
    return means


class FixedLearner:
    """SM where the net has one member, Ens where it has several, UMix where it is their `MeanLogits`."""

    def __init__(self, net: MlpStack | MeanLogits, settings: FitSettings, *, seed: int) -> None:
        self.net, self._settings, self._seed = net, settings, seed
        self._stage = 0
        self._scale, self._offset = 1.0, 0.0

    @property
    def parameters(self) -> int:
        return parameter_count(self.net) if self._stage else 0

    def learn(self, train: Samples, validation: Samples) -> Flops:
        self._scale, self._offset = train.scale, train.offset
        self._stage += 1
        seed = derived_seed(self._seed, "stage", self._stage)
        return fit(self.net, train, validation, self._settings, seed=seed)

    def probabilities(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        return mean_probabilities(self.net, inputs, self._scale, self._offset)
