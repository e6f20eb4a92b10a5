"""Weights that mattered are held near where they were: EWC and synaptic intelligence.

Both add `strength * sum_i importance_i (w_i - anchor_i)^2` (EWC: half of it) and differ in the importance.
One anchor, the weights after the last update, and the importances of all updates summed: online EWC
(Schwarz et al., "Progress & Compress", 2018), and SI as published.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from swarm.domain.errors import InvalidInputError
from swarm.experts.samples import Feed, Samples
from swarm.experts.updating.last_layer import aligned
from swarm.experts.updating.memory import Memory, Weights
from swarm.experts.updating.plain import PlainUpdate, device_of, trainable
from swarm.experts.updating.port import Update

FISHER_CLASSES = 10
"""A sample's Fisher information is summed over this many classes, its most probable ones."""
_PENALTY_FLOPS = 6
"""Per weight and step: difference, square, product, sum, and the gradient's two products."""
_PATH_FLOPS = 3
"""Per weight and step: how far it moved, times its gradient, summed."""


class AnchoredUpdate(PlainUpdate):
    """Adds the penalty; subclasses say at the end how much each weight mattered in this update."""

    factor: float

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        super().begin(net, train, batch=batch, forward_flops=forward_flops)
        memory = self.memory
        self.weights = trainable(net)
        names = memory.class_names, self.class_names
        self.importance = aligned(memory.importance, net, *names)
        self.anchor = aligned(memory.anchor, net, *names)
        self.protected = [name for name, values in self.importance.items() if bool(values.any())]
        self.step_flops = _PENALTY_FLOPS * sum(self.weights[name].numel() for name in self.protected)

    def penalty(self) -> torch.Tensor | None:
        parts = [
            (self.importance[name] * (self.weights[name] - self.anchor[name]) ** 2).sum()
            for name in self.protected
        ]
        return self.factor * torch.stack(parts).sum() if parts else None

    def end(self, net: nn.Module, train: Samples, validation: Samples) -> Memory:
        now = self.importance_now(net, train)
        importance = {name: values + now[name] for name, values in self.importance.items()}
        return Memory(
            class_names=self.class_names,
            seen=self.remembered.seen + len(train),
            importance=_arrays(importance),
            anchor=_arrays(trainable(net)),
        )

    def importance_now(self, net: nn.Module, train: Samples) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class EwcUpdate(AnchoredUpdate):
    """Importance is the diagonal of the Fisher information at the end of the update."""

    def __init__(self, strategy: "Ewc", memory: Memory | None, class_names: Sequence[str], seed: int) -> None:
        super().__init__(strategy, memory, class_names, seed)
        self.factor, self.rows = strategy.strength / 2, strategy.rows

    def importance_now(self, net: nn.Module, train: Samples) -> dict[str, torch.Tensor]:
        samples = train.few(self.rows, self.seed)
        labels = min(len(self.class_names), FISHER_CLASSES)
        self.end_flops = self.forward_flops * len(samples) * (1 + 2 * labels)
        return diagonal_fisher(net, samples)


class SiUpdate(AnchoredUpdate):
    """Importance is what a weight's way contributed to the fall of the loss, over the square of how far it
    came: sum over steps of -gradient * movement, at least 0, / (distance^2 + damping)."""

    def __init__(
        self,
        strategy: "SynapticIntelligence",
        memory: Memory | None,
        class_names: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__(strategy, memory, class_names, seed)
        self.factor, self.damping = strategy.strength, strategy.damping

    def begin(self, net: nn.Module, train: Samples, *, batch: int, forward_flops: int) -> None:
        super().begin(net, train, batch=batch, forward_flops=forward_flops)
        self.start = _copied(self.weights)
        self.path = {name: torch.zeros_like(values) for name, values in self.start.items()}
        self.before, self.gradients = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        self.step_flops += _PATH_FLOPS * sum(values.numel() for values in self.start.values())

    def observe(self) -> None:
        self.before = _copied(self.weights)
        self.gradients = {
            name: weights.grad.detach().clone()
            for name, weights in self.weights.items()
            if weights.grad is not None
        }

    def stepped(self) -> None:
        for name, gradient in self.gradients.items():
            self.path[name] -= gradient * (self.weights[name].detach() - self.before[name])

    def tracked(self) -> Mapping[str, torch.Tensor]:
        return self.path

    def restore(self, tracked: Mapping[str, torch.Tensor]) -> None:
        for name, values in self.path.items():
            values.copy_(tracked[name])

    def importance_now(self, net: nn.Module, train: Samples) -> dict[str, torch.Tensor]:
        return {
            name: path.clamp(min=0) / ((self.weights[name].detach() - self.start[name]) ** 2 + self.damping)
            for name, path in self.path.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ewc:
    """Elastic weight consolidation: penalty `strength / 2 * sum F (w - anchor)^2`.

    F is the diagonal of the Fisher information, a mean over `rows` training samples and under the net's own
    predictions, not of the labels (Kunstner, Hennig, Balles 2019 on why). Sources: Kirkpatrick et al.,
    "Overcoming catastrophic forgetting in neural networks", PNAS 2017; online form: Schwarz et al. 2018.
    """

    name: ClassVar[str] = "ewc"
    strength: float = 1000.0
    rows: int = 200

    def __post_init__(self) -> None:
        check_positive("EWC", strength=self.strength, rows=self.rows)

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        return EwcUpdate(self, memory, class_names, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SynapticIntelligence:
    """Synaptic intelligence: penalty `strength * sum Omega (w - anchor)^2`, Omega summed along the training.

    Source: Zenke, Poole, Ganguli, "Continual learning through synaptic intelligence", ICML 2017 (c and xi
    are strength and damping; the gradient is that of the loss without the penalty).
    """

    name: ClassVar[str] = "si"
    strength: float = 1.0
    damping: float = 1e-3

    def __post_init__(self) -> None:
        check_positive("SI", strength=self.strength, damping=self.damping)

    def update(self, memory: Memory | None, class_names: Sequence[str], *, seed: int) -> Update:
        return SiUpdate(self, memory, class_names, seed)


def diagonal_fisher(net: nn.Module, samples: Samples) -> dict[str, torch.Tensor]:
    """Return the mean over samples of sum_y p(y|x) (d log p(y|x) / d w)^2 for every trainable weight.

    p is net's own prediction in eval mode; the sum runs over each sample's FISHER_CLASSES most probable
    classes, so it is exact up to that many classes and otherwise leaves out the least probable.
    """
    weights = trainable(net)
    fisher = {name: torch.zeros_like(values, dtype=torch.float32) for name, values in weights.items()}
    net.eval()
    for batch in Feed(samples, device_of(net), 1, 0):
        log_p = torch.log_softmax(net(batch.inputs).float(), dim=1)[0]
        probable = log_p.detach().topk(min(len(log_p), FISHER_CLASSES))
        for value, label in zip(probable.values.exp().tolist(), probable.indices.tolist(), strict=True):
            gradients = torch.autograd.grad(
                log_p[label], list(weights.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    fisher[name] += value / len(samples) * gradient.float() ** 2
    return fisher


def check_positive(subject: str, **knobs: float) -> None:
    """Raise InvalidInputError unless every knob is a finite number above 0."""
    for name, value in knobs.items():
        if not 0 < value < math.inf:
            raise InvalidInputError(f"{subject} {name}", found=str(value), expected="a number above 0")


def _copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in weights.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Weights:
    return {
        name: np.array(values.detach().float().cpu().numpy(), dtype=np.float32)
        for name, values in tensors.items()
    }
